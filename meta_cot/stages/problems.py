# SPDX-License-Identifier: Apache-2.0
"""Stage 1: the problems of the task.

Leaves `problems/`: ArrayRecord shards per split and `manifest.json`. Every host
makes its share of the shards. The others read problems from there.
"""

import functools

from etils import epath

from data_pipelines import store
from meta_cot import problem as problem_lib
from meta_cot.problem import Problem
from meta_cot.runtime import distributed
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib


def run(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Writes what is missing of every split; finished shards stay.

  Raises:
    ConfigError: no problems to train on, to choose on or to report.
  """
  config, seed = experiment.problems, experiment.seed
  task = experiment.task.make(seed)
  for split in task.splits[:3]:
    if not task.size(split):
      raise config_lib.ConfigError(
          f'config.task: the split {split} is empty; training, choosing and '
          'reporting need problems each: change the settings of the task.')
  for split in task.splits:
    store.generate(
        workdir / 'problems', functools.partial(task.problems, split),
        kind=problem_lib.KIND, split=split, num_records=task.size(split),
        num_shards=config.num_shards, num_processes=config.num_processes,
        host_index=distributed.process_index(),
        num_hosts=distributed.num_processes(), wait=distributed.wait,
        arguments=dict(seed=seed, **experiment.task.arguments()))


def read(
    workdir: epath.Path, split: str, limit: int | None = None
) -> list[Problem]:
  """Reads the first problems of a split, all without a limit.

  Raises:
    UserError: the stage has not finished, or the split is empty.
  """
  source = store.read(workdir / 'problems', split)
  if not len(source):
    raise config_lib.UserError(
        f'{workdir / "problems"}: the split {split} is empty; use another '
        'config.task, in another workdir.')
  number = len(source) if limit is None else min(limit, len(source))
  return [source[i] for i in range(number)]
