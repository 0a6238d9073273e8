# SPDX-License-Identifier: Apache-2.0
"""Compiles every program of a config for TPUs that are not here.

  python -m meta_cot.compile --config=configs/erl2.py:pod
      --topology=v5e:2x4 [--num_slices=2] [--programs=train_step,eval_loss]
      [--json] [--dump=DIR] [--config.KEY=VALUE]
  python -m meta_cot.compile --config=configs/erl2.py:pod
      --topology=v5e:2x4 --fit=STAGE [--remat=dots,full]
  python -m meta_cot.compile --topologies

Prints what each program takes of a device's HBM, its FLOPs, its collectives,
and the least time that the chip needs for it (docs/pods.md explains every
number). A topology is named by chips along each axis (v5e:4x4, v5p:2x2x4) or
by the accelerator type (v5p-32); --topologies lists those that the installed
libtpu knows. --num_slices compiles for several, with `config.mesh.data` across
them. --fit asks for the largest batch of a stage, by compiling several.
--dump keeps XLA's own texts of the programs.
Needs libtpu (pip install libtpu), no TPU.
Exit codes: 0 everything fits (--fit: some batch does), 1 it does not, 2 a
setting is wrong.
"""

from collections.abc import Mapping, Sequence
import json
import sys
from typing import Any

from meta_cot.compile import fit
from meta_cot.compile import fit_report
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import report as report_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.settings import command_line
from meta_cot.settings import config as config_lib
from meta_cot.settings import config_file
from meta_cot.stages import experiment as experiment_lib

EXIT_DOES_NOT_FIT = 1


def main(argv: Sequence[str]) -> None:
  """Compiles and reports what the command line asks for.

  Raises:
    UserError: a setting is wrong, or libtpu is missing.
    SystemExit: 1, a program does not fit.
  """
  if list(argv) == ['--topologies']:
    print(topology_lib.table())
    return
  is_json = '--json' in argv
  flags, overrides = command_line.split(
      [a for a in argv if a != '--json'],
      ('config', 'topology', 'num_slices', 'programs', 'fit', 'remat', 'dump'))
  config = command_line.required(flags, 'config')

  def make(changes: Mapping[str, Any]) -> experiment_lib.Experiment:
    return programs_lib.for_accelerator(experiment_lib.parse(config_file.load(
        config, [*overrides, *(
            config_file.Override(k, str(v)) for k, v in changes.items())])))

  experiment = make({})
  topology = topology_lib.find(
      command_line.required(flags, 'topology'),
      _number(flags, 'num_slices'))
  mesh = programs_lib.mesh_of(experiment, topology)
  header = dict(
      config=config, topology=topology.name, chip=topology.chip.name,
      num_slices=topology.num_slices, num_devices=len(topology.devices),
      mesh=dict(mesh.shape))
  say = (lambda _: None) if is_json else lambda words: print(
      f'compiling {words} for {topology.words} ...', file=sys.stderr)
  if 'fit' in flags:
    fits = _fit(make, topology, flags, header, say, is_json)
  else:
    fits = _report(experiment, topology, flags, header, say, is_json)
  if not fits:
    raise SystemExit(EXIT_DOES_NOT_FIT)


def _report(experiment, topology, flags, header, say, is_json) -> bool:
  """Prints what programs take; whether all of them fit."""
  mesh = programs_lib.mesh_of(experiment, topology)
  names = _names(
      flags.get('programs', ''),
      tuple(experiment_lib.programs(experiment, mesh)))
  experiment.check_devices(mesh)
  results = []
  for name in names:
    say(name)
    results.append(programs_lib.compile_program(
        experiment, topology, name, dump=flags.get('dump')))
  fits = all(result.fits for result in results)
  print(report_lib.as_text(header, results) if not is_json else json.dumps(
      header | dict(fits=fits, programs=[r.as_dict() for r in results])))
  return fits


def _fit(make, topology, flags, header, say, is_json) -> bool:
  """Prints the largest batches of a stage; whether there is one at all."""
  remats = [*filter(None, flags.get('remat', '').split(','))] or [None]
  found = [
      answer for remat in remats
      for answer in fit.answers(make, topology, flags['fit'], remat, say)]
  print(fit_report.as_text(header, found) if not is_json else json.dumps(
      header | dict(fit=[answer.as_dict() for answer in found])))
  return any(answer.largest for answer in found)


def _number(flags: Mapping[str, str], name: str) -> int:
  """The number that a flag says; 1 without it."""
  text = flags.get(name, '1')
  if not text.isdecimal() or int(text) < 1:
    raise config_lib.ConfigError(
        f'--{name}: got {text!r}; must be a number >= 1.')
  return int(text)


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


if __name__ == '__main__':
  command_line.run(main, __doc__)
