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

from collections.abc import Sequence
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import sys
import tempfile
import time

import jax
from jax.experimental import topologies

from meta_cot import sharding
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
_SHAPES = {  # accelerator type: its number (chips; of v5p, cores) -> topology
    'v5e': {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8',
            128: '8x16', 256: '16x16'},
    'v5p': {8: '2x2x1', 16: '2x2x2', 32: '2x2x4', 64: '2x4x4', 128: '4x4x4',
            256: '4x4x8', 512: '4x8x8', 1024: '8x8x8'},
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
  """Compiles and reports what the command line asks for.

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
  mesh = mesh_of(experiment, topology)
  names = _names(
      flags.get('programs', ''),
      tuple(experiment_lib.programs(experiment, mesh)))
  experiment.check_devices(mesh)
  results = []
  for name in names:
    if not is_json:
      print(f'compiling {name} for {topology.name} ...', file=sys.stderr)
    results.append(compile_program(
        experiment, topology, name, dump=flags.get('dump')))
  header = dict(
      config=flags['config'], topology=topology.name, chip=topology.chip.name,
      num_devices=len(topology.devices), mesh=dict(mesh.shape))
  fits = all(result.fits for result in results)
  print(report_lib.as_text(header, results) if not is_json else json.dumps(
      header | dict(fits=fits, programs=[r.as_dict() for r in results])))
  if not fits:
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
    experiment: experiment_lib.Experiment, topology: Topology
) -> jax.sharding.Mesh:
  """Makes the experiment's mesh of the devices of a slice."""
  return sharding.make_mesh(experiment.shared.mesh, list(topology.devices))


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
  return Topology(name, shape, tuple(devices), chip)


def _topology_name(text: str) -> str:
  if re.fullmatch(r'(v5e|v5p|v6e):\d+(x\d+)+', text):
    return text
  kind, _, number = text.partition('-')
  if kind not in _SHAPES or not number.isdecimal():
    raise config_lib.ConfigError(
        f'--topology: got {text!r}; must be GENERATION:CHIPSxCHIPS such as '
        'v5e:4x4 or v5p:2x2x4, of v5e, v5p, v6e, or an accelerator type such '
        'as v5p-32.')
  if int(number) not in _SHAPES[kind]:
    sizes = ', '.join(f'{kind}-{n}' for n in _SHAPES[kind])
    raise config_lib.ConfigError(
        f'--topology: got {text!r}; must be one of {sizes}, or chips along '
        'each axis such as v5p:2x2x4.')
  return f'{kind.replace("litepod", "e")}:{_SHAPES[kind][int(number)]}'


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
    experiment: experiment_lib.Experiment, topology: Topology, name: str, *,
    dump: str | None = None) -> report_lib.Result:
  """Lowers, compiles and measures one program of the experiment.

  Args:
    experiment: with types fixed, see `for_accelerator`.
    topology: to compile for.
    name: of the program, as in `experiment.programs`.
    dump: XLA's texts are left in a folder `name` here; None: nowhere.
  """
  started = time.perf_counter()
  folder = tempfile.TemporaryDirectory() if dump is None else (
      contextlib.nullcontext(os.path.join(dump, name)))
  mesh = mesh_of(experiment, topology)
  with sharding.use_mesh(mesh), folder as texts:
    program = experiment_lib.programs(experiment, mesh)[name]()
    lowered = program.lower()
    try:
      # XLA's own text is read: JAX's `as_text` fails on newer programs.
      stats = lowered.compile(compiler_options={
          'xla_dump_to': texts, 'xla_dump_hlo_as_text': True}).memory_analysis()
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      stats = None
    module = hlo.parse(_dumped(texts, 'after_optimizations'))
    assignment = _dumped(texts, 'after_optimizations-buffer-assignment')
  cost = roofline.cost(module, len(topology.devices))
  model_flops = program.model_flops / len(topology.devices)
  return report_lib.Result(
      name=name, capacity=topology.chip.hbm_bytes, is_refused=stats is None,
      memory=hlo.memory(assignment) if stats is None else hlo.Memory(
          arguments=stats.argument_size_in_bytes,
          outputs=stats.output_size_in_bytes,
          aliased=stats.alias_size_in_bytes,
          temporaries=stats.temp_size_in_bytes,
          code=stats.generated_code_size_in_bytes),
      largest=tuple(hlo.largest(assignment, module, _NUM_BUFFERS)),
      cost=cost, times=roofline.times(
          cost, topology.chip, topology.shape, model_flops=model_flops),
      model_flops=model_flops, tokens=program.tokens,
      peak_flops=topology.chip.peak_flops,
      seconds=time.perf_counter() - started)


def _dumped(directory: str, kind: str) -> str:
  """Text of the file that XLA wrote last under this name."""
  return max(pathlib.Path(directory).glob(f'*.{kind}.txt')).read_text()


if __name__ == '__main__':
  command_line.run(main, __doc__)
