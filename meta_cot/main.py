# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of an experiment, in order, skipping finished ones.

  python -m meta_cot.main --config=configs/search.py:tiny --workdir=runs/a

The same command continues an interrupted run. `--stages=sft,evaluate` picks
stages; `--config.group.key=value` overrides a setting; `--profile=10:12` traces
those training steps; `--check` reads all settings and does nothing. A stage
whose settings have changed runs again, and so do those that read what it left.
Exit codes: 0 finished, 2 a setting or file is wrong, 75 interrupted by SIGTERM,
SIGINT or SIGHUP with everything saved, 76 another run has taken the workdir.
"""

from collections.abc import Sequence
import functools
import logging

from meta_cot import sharding
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.runtime import hardware
from meta_cot.runtime import interruption
from meta_cot.runtime import status
from meta_cot.settings import command_line
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import workdir as workdir_lib


def main(argv: Sequence[str]) -> None:
  """Checks all settings, then runs each stage.

  Raises:
    UserError: a setting is wrong, the workdir is in use or cannot be written,
      or a process of the job is missing; nothing has been done.
    Interrupted: a signal came; the same command continues.
  """
  with files.named_errors():
    config, workdir, stages = command_line.parse(
        [word for word in argv if word != '--check'])
    experiment = experiment_lib.parse(config)
    groups = experiment.chosen(stages)
    if '--check' not in argv:
      _run_all(config, workdir, experiment, groups)


def _run_all(config, workdir, experiment, groups) -> None:
  """Runs each stage, in a workdir that is this run's alone."""
  with distributed.session(
      agreed_exit_codes=(interruption.EXIT_INTERRUPTED,)):
    interruption.install()
    hardware.check_platform()
    _start_logging()
    mesh = sharding.make_mesh(experiment.shared.mesh)
    experiment.check_devices(mesh)
    with workdir_lib.opened(workdir, config, experiment) as directory:
      context = base.Context(
          experiment.shared, experiment.groups, mesh, directory)
      workdir_lib.check_reads(context, groups)
      for group in groups:
        interruption.check()
        with sharding.use_mesh(mesh):
          run(context, group)


def run(context: base.Context, group: base.Group) -> None:
  """Runs one stage, unless it is finished."""
  name, stage, settings = group.name, group.stage, group.settings
  directory = context.workdir / name
  mark = workdir_lib.make_mark(context, group)
  if workdir_lib.is_done(context.workdir, name, mark):
    # Data is read through: by one process, for all.
    if all(distributed.gather_objects(not distributed.is_primary() or (
        stage.is_whole(context, settings, directory)))):
      logging.info('stage %s: already done', name)
      return
    logging.info('stage %s: something of it is missing', name)
  reasons = []
  if distributed.is_primary():
    reasons = workdir_lib.begin(context.workdir, name, mark, functools.partial(
        stage.check_folder, settings, directory))
    workdir_lib.note_machine(
        context.workdir, name, hardware.describe(), is_new=bool(reasons))
  distributed.wait(f'{name}: begun')
  if reasons:
    logging.info(
        'stage %s: runs again (%s); what it left before is in replaced/%s',
        name, '; '.join(reasons[:3]), name)
  else:
    logging.info('stage %s', name)
  stage.run(context, settings, directory)
  if distributed.is_primary():
    workdir_lib.finish(context.workdir, name, mark)
  distributed.wait(f'{name}: done')


def _start_logging() -> None:
  """Plain lines on stderr; with the process's number where there are many."""
  who = (f' [{distributed.process_index()}]'
         if distributed.num_processes() > 1 else '')
  logging.basicConfig(
      level=logging.INFO, format=f'%(asctime)s{who} %(message)s',
      datefmt='%H:%M:%S', force=True, handlers=[status.Handler()])
  logging.getLogger('absl').setLevel(logging.WARNING)


if __name__ == '__main__':
  command_line.run(main, __doc__)
