# SPDX-License-Identifier: Apache-2.0
"""Stage 2: problems, solved by the task's teacher, written as trace records.

Leaves `traces/`: ArrayRecord shards of 'train' and 'validation' and
`manifest.json`. Every host makes its share of the shards.
"""

from collections.abc import Iterator
import functools

from etils import epath

from data_pipelines import store
from meta_cot.runtime import distributed
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import base
from meta_cot.traces import record as record_lib


def run(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Generates what is missing of every split; finished shards stay.

  Raises:
    ConfigError: the task has no teacher.
  """
  config, seed = experiment.traces, experiment.seed
  teacher = experiment.task.make(seed).teacher
  if teacher is None:
    raise config_lib.ConfigError(
        f'config.stages: got generate_traces; the task {experiment.task.kind} '
        'has no teacher that could write traces.')
  for split in (base.TRAIN, base.VALIDATION):
    problems = store.read(workdir / 'problems', split)
    store.generate(
        workdir / 'traces',
        functools.partial(search, teacher, config.strategies, seed, problems),
        kind=record_lib.KIND, split=split, num_records=len(problems),
        num_shards=config.num_shards, num_processes=config.num_processes,
        host_index=distributed.process_index(),
        num_hosts=distributed.num_processes(), wait=distributed.wait,
        arguments=dict(
            seed=seed, strategies=config.strategies,
            **experiment.task.arguments()))


def search(
    teacher: base.Teacher, strategies: str, seed: int, problems: store.Source,
    start: int, stop: int,
) -> Iterator[record_lib.TraceRecord]:
  """Searches problems `start..stop`; a record depends on nothing else."""
  for index in range(start, stop):
    yield teacher.search(
        problems[index], strategies, seed * 1_000_003 + index)
