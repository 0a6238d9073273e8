# SPDX-License-Identifier: Apache-2.0
"""Stage `problems`: the problems of every split of the task, as records.

Every host makes its share of the shards.
"""

import dataclasses
import functools

from etils import epath

from data_pipelines import store
from meta_cot import tasks
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.stages import base


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the work is cut."""

  num_shards: int = config_lib.setting(low=1)
  num_processes: int = config_lib.setting(low=1, is_free=True)


def run(
    context: base.Context, settings: Settings, directory: epath.Path) -> None:
  """Generates what is missing of every split; finished shards stay."""
  shared = context.shared
  for split in context.task.splits:
    store.generate(
        directory,
        functools.partial(
            _problems, shared.task_kind, shared.task_settings, shared.seed,
            split),
        split=split, record=Problem, num_records=context.task.size(split),
        arguments=base.arguments(context, settings),
        **base.share_of_work(settings))


def _problems(kind, settings, seed, split, start, stop):
  """Problems start..stop-1 of a split; in a worker process."""
  return tasks.make(kind, settings, seed).problems(split, start, stop)


STAGE = base.Stage(
    Settings=Settings, run=run,
    is_whole=lambda context, settings, directory: store.is_whole(
        directory, context.task.splits))
