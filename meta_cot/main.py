# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of an experiment, in order, skipping finished ones.

  python -m meta_cot.main --config=configs/search.py:tiny --workdir=runs/a

The same command continues an interrupted run. `--stages=sft,evaluate` picks
stages; `--config.group.key=value` overrides a setting; `--profile=10:12` traces
those training steps; `--check` reads all settings and does nothing. Exit codes:
0 finished, 2 a setting or file is wrong, 75 interrupted by SIGTERM, SIGINT or
SIGHUP with everything saved, 76 another run has taken the workdir.
"""

from collections.abc import Sequence
import logging

import jax

from meta_cot import sharding
from meta_cot.runtime import distributed
from meta_cot.runtime import hardware
from meta_cot.runtime import interruption
from meta_cot.settings import command_line
from meta_cot.stages import evaluate
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import generate_traces
from meta_cot.stages import problems
from meta_cot.stages import rl
from meta_cot.stages import search
from meta_cot.stages import sft
from meta_cot.stages import train_tokenizer
from meta_cot.stages import workdir as workdir_lib

STAGES = {
    'problems': problems.run,
    'generate_traces': generate_traces.run,
    'train_tokenizer': train_tokenizer.run,
    'sft': sft.run,
    'evaluate': evaluate.run,
    'search': search.run,
    'rl': rl.run,
}


def main(argv: Sequence[str]) -> None:
  """Checks all settings, then runs each stage.

  Args:
    argv: command line without the program's name.

  Raises:
    UserError: a setting is wrong, the workdir is in use or cannot be written,
      or a process of the job is missing; nothing has been done.
    Interrupted: a signal came; the same command continues.
  """
  config, workdir, stages = command_line.parse(
      [word for word in argv if word != '--check'], stages=tuple(STAGES))
  experiment = experiment_lib.parse(config)
  if '--check' in argv:
    return
  with distributed.session(
      agreed_exit_codes=(interruption.EXIT_INTERRUPTED,)):
    interruption.install()
    hardware.check_platform()
    _start_logging()
    train_tokenizer.check(experiment, workdir)
    experiment_lib.rows_per_device(
        experiment, sharding.make_mesh(experiment.mesh))
    with workdir_lib.opened(workdir, config, experiment) as directory:
      for name in stages or experiment.stages:
        interruption.check()
        mark = workdir_lib.mark(name, experiment)
        if workdir_lib.is_done(directory, name, mark):
          if all(distributed.gather_objects(not distributed.is_primary() or (
              workdir_lib.is_whole(directory, name, experiment)))):
            logging.info('stage %s: already done', name)
            continue
          logging.info('stage %s: what it left is damaged', name)
        logging.info('stage %s', name)
        STAGES[name](experiment, directory)
        workdir_lib.mark_done(
            directory, name, mark, is_writer=distributed.is_primary())


def _start_logging() -> None:
  """Plain lines on stderr; with the process's number where there are many."""
  who = f' [{jax.process_index()}]' if jax.process_count() > 1 else ''
  logging.basicConfig(
      level=logging.INFO, format=f'%(asctime)s{who} %(message)s',
      datefmt='%H:%M:%S', force=True)
  logging.getLogger('absl').setLevel(logging.WARNING)


if __name__ == '__main__':
  command_line.run(main, __doc__)
