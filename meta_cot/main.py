# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of an experiment, in order, skipping finished ones.

  python -m meta_cot.main --config=configs/countdown.py:tiny --workdir=runs/a

The same command continues an interrupted run. `--stages=sft,evaluate` picks
stages; `--config.group.key=value` overrides a setting.
"""

from collections.abc import Sequence
import logging
import os
import pathlib

import jax

from meta_cot import command_line
from meta_cot import experiment as experiment_lib
from meta_cot import sharding
from meta_cot.stages import evaluate
from meta_cot.stages import generate_traces
from meta_cot.stages import sft
from meta_cot.stages import train_tokenizer
from meta_cot.stages import workdir as workdir_lib

STAGES = {
    'generate_traces': generate_traces.run,
    'train_tokenizer': train_tokenizer.run,
    'sft': sft.run,
    'evaluate': evaluate.run,
}


def main(argv: Sequence[str]) -> None:
  """Checks all settings, then runs each stage.

  Args:
    argv: command line without the program's name.

  Raises:
    ConfigError: a setting is wrong; nothing has been done.
  """
  config, workdir, stages = command_line.parse(argv, stages=tuple(STAGES))
  experiment = experiment_lib.parse(config)
  logging.basicConfig(
      level=logging.INFO, format='%(asctime)s %(message)s', datefmt='%H:%M:%S',
      force=True)
  logging.getLogger('absl').setLevel(logging.WARNING)
  if os.environ.get('META_COT_DISTRIBUTED') == '1':
    jax.distributed.initialize()
  experiment_lib.rows_per_device(
      experiment, sharding.make_mesh(experiment.mesh))
  directory = workdir_lib.claim(pathlib.Path(workdir), config)
  for name in stages or experiment.stages:
    if workdir_lib.is_done(directory, name):
      logging.info('stage %s: already done', name)
      continue
    logging.info('stage %s', name)
    STAGES[name](experiment, directory)
    workdir_lib.mark_done(directory, name)


if __name__ == '__main__':
  command_line.run(main, __doc__)
