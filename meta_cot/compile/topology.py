# SPDX-License-Identifier: Apache-2.0
"""Slices of TPUs that are not here, as the installed libtpu describes them."""

from collections.abc import Iterator
import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from meta_cot.runtime import hardware
from meta_cot.settings import config as config_lib

_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = (
    '2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8',
    '8x8x16', '8x16x16', '16x16x16')
# Generation -> the usual slices, of all that libtpu may know.
SHAPES = {'v5e': _FLAT, 'v5p': _CUBES, 'v6e': _FLAT, 'tpu7x': _CUBES}
_CORES = {'v5p': 2}  # that an accelerator type counts, a chip; else chips
_SPELLINGS = {'v5litepod': 'v5e'}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Slices: JAX's name of one, its chips along each axis, all devices."""

  name: str
  shape: tuple[int, ...]
  devices: tuple
  chip: hardware.Chip
  num_slices: int = 1

  @property
  def words(self) -> str:
    """What people call it."""
    times = f'{self.num_slices} x ' if self.num_slices > 1 else ''
    return times + self.name


def find(text: str, num_slices: int = 1) -> Topology:
  """Finds the slices named 'v5e:4x4' or 'v5litepod-16'; needs no TPU.

  Raises:
    UserError: no such slice, or libtpu is missing.
  """
  _prepare_libtpu()
  name = _name(text)
  devices = _devices(name, num_slices)
  if devices is None:
    generation = name.partition(':')[0]
    raise config_lib.UserError(
        f'--topology: got {text!r}; libtpu knows no such slice; of '
        f'{generation} it knows {", ".join(_known(generation)) or "none"}.')
  chip = hardware.CHIPS[devices[0].device_kind]
  shape = tuple(int(d) for d in name.partition(':')[2].split('x'))
  return Topology(name, shape, devices, chip, num_slices)


def table() -> str:
  """Lists the slices that the installed libtpu knows, a line a generation.

  Raises:
    UserError: libtpu is missing.
  """
  _prepare_libtpu()
  return '\n'.join(
      f'{generation}: {", ".join(_known(generation)) or "not known"}'
      for generation in SHAPES)


def _known(generation: str) -> Iterator[str]:
  """The usual slices of a generation that libtpu describes."""
  return (
      shape for shape in SHAPES[generation]
      if _devices(f'{generation}:{shape}', 1))


def _devices(name: str, num_slices: int) -> tuple | None:
  """The devices of slices; None where libtpu knows no such slice."""
  try:
    return tuple(topologies.get_topology_desc(
        platform='tpu', topology_name=name, num_slices=num_slices).devices)
  except jax.errors.JaxRuntimeError:
    return None


def _name(text: str) -> str:
  """libtpu's name of a slice, from that or from an accelerator type."""
  match = re.fullmatch(r'([a-z0-9]+)([:-])(\d+(x\d+)*)', text)
  generation, mark, size = match.group(1, 2, 3) if match else ('', '', '')
  generation = _SPELLINGS.get(generation, generation)
  if generation not in SHAPES:
    raise config_lib.ConfigError(
        f'--topology: got {text!r}; must be GENERATION:CHIPSxCHIPS such as '
        'v5e:4x4 or v5p:2x2x4, or an accelerator type such as v5p-32; libtpu '
        f'knows {"; ".join(table().splitlines())}.')
  if 'x' in size:
    return f'{generation}:{size}'
  types = accelerator_types(generation)
  if mark == ':' or int(size) not in types:
    sizes = ', '.join(f'{text.partition(mark)[0]}-{n}' for n in types)
    raise config_lib.ConfigError(
        f'--topology: got {text!r}; must be '
        f'{f"one of {sizes}, or " if types else ""}chips along each axis such '
        f'as {generation}:{SHAPES[generation][2]}.')
  return f'{generation}:{types[int(size)]}'


def accelerator_types(generation: str) -> dict[int, str]:
  """Maps the number of an accelerator type to the chips along each axis.

  TPU7x has no such types: its topologies are named.
  """
  if generation == 'tpu7x':
    return {}
  return {
      _CORES.get(generation, 1) * num_chips(shape): shape
      for shape in SHAPES[generation]}


def num_chips(shape: str) -> int:
  """Multiplies the chips along each axis, '2x2x4'."""
  total = 1
  for size in shape.split('x'):
    total *= int(size)
  return total


def _prepare_libtpu() -> None:
  """Makes libtpu describe slices without asking for a machine around it."""
  if 'TPU_LIBRARY_PATH' not in os.environ and (
      importlib.util.find_spec('libtpu') is None):
    raise config_lib.UserError(
        'libtpu: not installed; to compile for TPUs without one, '
        'run: pip install libtpu')
  jax.config.update('jax_platforms', 'cpu')
  for name, value in (
      ('TPU_SKIP_MDS_QUERY', '1'), ('TPU_WORKER_HOSTNAMES', 'localhost'),
      ('TPU_ACCELERATOR_TYPE', 'v5litepod-4'),
      ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')):
    os.environ.setdefault(name, value)
