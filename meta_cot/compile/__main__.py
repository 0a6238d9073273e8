# SPDX-License-Identifier: Apache-2.0
"""Compiles every program of a config for TPUs that are not here.

  python -m meta_cot.compile --config=configs/erl2.py:pod
      --topology=v5e:2x4 [--programs=train_step,eval_loss] [--json]
      [--dump=DIR] [--config.KEY=VALUE]

Prints what each program takes of a device's HBM, its FLOPs, its collectives,
and the least time that the chip needs for it (docs/pods.md explains every
number). A topology is named by chips along each axis (v5e:4x4, v5p:2x2x4) or
by the accelerator type (v5p-32); --dump keeps XLA's own texts of the programs.
Needs libtpu (pip install libtpu), no TPU.
Exit codes: 0 everything fits, 1 something does not, 2 a setting is wrong.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import tempfile
import time

import jax
from jax.experimental import topologies

from meta_cot import program as program_lib
from meta_cot import sharding
from meta_cot.compile import buffers
from meta_cot.compile import hlo
from meta_cot.compile import report as report_lib
from meta_cot.compile import roofline
from meta_cot.runtime import hardware
from meta_cot.settings import command_line
from meta_cot.settings import config as config_lib
from meta_cot.settings import config_file
from meta_cot.stages import experiment as experiment_lib

EXIT_DOES_NOT_FIT = 1
_NUM_BUFFERS = 8  # named of each program
_SHAPES = {  # accelerator type: chips -> topology
    'v5e': {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8',
            128: '8x16', 256: '16x16'},
    'v5p': {4: '2x2x1', 8: '2x2x2', 16: '2x2x4', 32: '2x4x4', 64: '4x4x4',
            128: '4x4x8', 256: '4x8x8', 512: '8x8x8'},
}
_SHAPES['v6e'] = _SHAPES['v5litepod'] = _SHAPES['v5e']


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice: JAX's name of it, chips along each axis, and its devices."""

  name: str
  shape: tuple[int, ...]
  devices: tuple
  chip: hardware.Chip


def main(argv: Sequence[str]) -> None:
  """Compiles and reports; leaves with 1 where something does not fit.

  Args:
    argv: command line without the program's name.

  Raises:
    UserError: a setting is wrong, or libtpu is missing.
    SystemExit: 1, a program does not fit.
  """
  is_json = '--json' in argv
  flags, overrides = command_line.split(
      [a for a in argv if a != '--json'],
      ('config', 'topology', 'programs', 'dump'))
  config = config_file.load(
      command_line.required(flags, 'config'), overrides)
  experiment = for_accelerator(experiment_lib.parse(config))
  topology = find_topology(command_line.required(flags, 'topology'))
  builders = programs(experiment, topology)
  names = _names(flags.get('programs', ''), tuple(builders))
  experiment.check_devices(mesh_of(experiment, topology))
  results = []
  for name in names:
    if not is_json:
      print(f'compiling {name} for {topology.name} ...', file=sys.stderr)
    results.append(compile_program(
        experiment, topology, name, builders[name], dump=flags.get('dump')))
  report = report_lib.Report(
      flags['config'], topology.name, topology.chip, len(topology.devices),
      dict(mesh_of(experiment, topology).shape), tuple(results))
  print(json.dumps(report.as_dict()) if is_json else report.as_text())
  if not all(result.fits for result in results):
    raise SystemExit(EXIT_DOES_NOT_FIT)


def for_accelerator(
    experiment: experiment_lib.Experiment
) -> experiment_lib.Experiment:
  """Returns it as an accelerator runs it: 'auto' is bfloat16 there."""
  model = experiment.shared.model
  if model.execution.compute_dtype != 'auto':
    return experiment
  model = dataclasses.replace(model, execution=dataclasses.replace(
      model.execution, compute_dtype='bfloat16'))
  return dataclasses.replace(experiment, shared=dataclasses.replace(
      experiment.shared, model=model))


def mesh_of(
    experiment: experiment_lib.Experiment, topology: 'Topology'
) -> jax.sharding.Mesh:
  """Makes the experiment's mesh of the devices of a slice."""
  return sharding.make_mesh(
      experiment.shared.mesh, list(topology.devices))


def programs(
    experiment: experiment_lib.Experiment, topology: 'Topology'
) -> dict[str, Callable[[], program_lib.Program]]:
  """Lists all that the experiment compiles: 'STAGE/PROGRAM' -> its builder."""
  return experiment_lib.programs(experiment, mesh_of(experiment, topology))


def _names(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
  """Names asked for: whole, or the ends of some (`train_step`); else all."""
  found = []
  for wanted in filter(None, text.split(',')):
    matching = [
        name for name in known if f'/{name}'.endswith(f'/{wanted}')]
    if not matching:
      raise config_lib.ConfigError(
          f'--programs: got {wanted!r}; {config_lib.nearest(wanted, known)}, '
          'or the end of one.')
    found += matching
  return tuple(dict.fromkeys(found)) or known


def find_topology(text: str) -> Topology:
  """The slice named 'v5e:4x4' or 'v5litepod-16'; needs no TPU.

  Raises:
    UserError: no such slice, or libtpu is missing.
  """
  name = _topology_name(text)
  _prepare_libtpu()
  try:
    devices = topologies.get_topology_desc(
        platform='tpu', topology_name=name).devices
  except jax.errors.JaxRuntimeError as e:
    raise config_lib.UserError(
        f'--topology: got {text!r}; libtpu knows no such slice: '
        f'{str(e).splitlines()[0]}') from None
  chip = hardware.CHIPS[devices[0].device_kind]
  shape = tuple(int(d) for d in name.partition(':')[2].split('x'))
  if len(devices) != math.prod(shape):
    raise config_lib.UserError(
        f'--topology: got {text!r}; its {math.prod(shape)} chips are '
        f'{len(devices)} devices; must be a slice with one device per chip.')
  return Topology(name, shape, tuple(devices), chip)


def _topology_name(text: str) -> str:
  generations = 'v5e, v5p, v6e'
  if re.fullmatch(r'(v5e|v5p|v6e):\d+(x\d+)+', text):
    return text
  match = re.fullmatch(r'(v5e|v5litepod|v5p|v6e)-(\d+)', text)
  if match:
    kind, count = match.group(1), int(match.group(2))
    chips = count / 2 if kind == 'v5p' else count  # v5p counts cores
    if chips in _SHAPES[kind]:
      return f'{kind.replace("litepod", "e")}:{_SHAPES[kind][chips]}'
    sizes = ', '.join(
        f'{kind}-{2 * n if kind == "v5p" else n}' for n in _SHAPES[kind])
    raise config_lib.ConfigError(
        f'--topology: got {text!r}; must be one of {sizes}, or chips along '
        'each axis such as v5p:2x2x4.')
  raise config_lib.ConfigError(
      f'--topology: got {text!r}; must be GENERATION:CHIPSxCHIPS such as '
      f'v5e:4x4 or v5p:2x2x4, of {generations}, or an accelerator type such '
      'as v5p-32.')


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


def compile_program(
    experiment: experiment_lib.Experiment, topology: Topology, name: str,
    build: Callable[[], program_lib.Program], *, dump: str | None = None,
) -> report_lib.Result:
  """Lowers, compiles and measures one program of the experiment.

  Args:
    experiment: with types fixed, see `for_accelerator`.
    topology: to compile for.
    name: of the program.
    build: makes it, see `programs`.
    dump: XLA's texts are left in a folder `name` here; None: nowhere.
  """
  started = time.perf_counter()
  with sharding.use_mesh(mesh_of(experiment, topology)), _folder(
      dump, name) as texts:
    program = build()
    lowered = program.lower()
    memory, error = None, ''
    try:
      # XLA's own text is read: JAX's `as_text` fails on newer programs.
      compiled = lowered.compile(compiler_options={
          'xla_dump_to': texts, 'xla_dump_hlo_as_text': True})
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      error = str(e).splitlines()[0]
    else:
      memory = _memory(compiled.memory_analysis())
    module = hlo.parse(_dumped(texts, 'after_optimizations'))
    assignment = _dumped(texts, 'after_optimizations-buffer-assignment')
  cost = roofline.cost(module, len(topology.devices))
  model_flops = program.model_flops / len(topology.devices)
  return report_lib.Result(
      name=name, memory=memory or buffers.memory(assignment),
      capacity=topology.chip.hbm_bytes, is_refused=bool(error),
      largest=tuple(buffers.largest(assignment, module, _NUM_BUFFERS)),
      cost=cost, times=roofline.times(
          cost, topology.chip, topology.shape, model_flops=model_flops),
      model_flops=model_flops,
      tokens=program.tokens, peak_flops=topology.chip.peak_flops,
      seconds=time.perf_counter() - started)


def _folder(parent: str | None, name: str):
  """Context with a folder: parent/name, or one that vanishes."""
  if parent is None:
    return tempfile.TemporaryDirectory()
  return contextlib.nullcontext(os.path.join(parent, name))


def _memory(stats) -> buffers.Memory:
  return buffers.Memory(
      arguments=stats.argument_size_in_bytes,
      outputs=stats.output_size_in_bytes, aliased=stats.alias_size_in_bytes,
      temporaries=stats.temp_size_in_bytes,
      code=stats.generated_code_size_in_bytes)


def _dumped(directory: str, kind: str) -> str:
  """Text of the file that XLA wrote last under this name."""
  paths = sorted(pathlib.Path(directory).glob(f'*.{kind}.txt'))
  return paths[-1].read_text()


if __name__ == '__main__':
  command_line.run(main, __doc__)
