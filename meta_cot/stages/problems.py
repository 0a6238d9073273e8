# SPDX-License-Identifier: Apache-2.0
"""Stage `problems`: the problems of every split of the task, as records.

Every host makes its share of the shards.
"""

import dataclasses
import functools

from etils import epath

from data_pipelines import store
from meta_cot import problem as problem_lib
from meta_cot.settings import config as config_lib
from meta_cot.stages import base


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the work is cut."""

  num_shards: int = config_lib.setting(low=1)
  num_processes: int = config_lib.setting(low=1, is_free=True)


def run(
    context: base.Context, settings: Settings, directory: epath.Path) -> None:
  """Writes what is missing of every split; finished shards stay.

  Raises:
    ConfigError: no problems to train on, to choose on or to report.
  """
  task = context.task
  for split in task.splits[:3]:
    if not task.size(split):
      raise config_lib.ConfigError(
          f'config.task: the split {split} is empty; training, choosing and '
          'reporting need problems each: change the settings of the task.')
  for split in task.splits:
    store.generate(
        directory, functools.partial(task.problems, split),
        kind=problem_lib.KIND, split=split, num_records=task.size(split),
        arguments=base.arguments(context, settings),
        **base.share_of_work(settings))


STAGE = base.Stage(
    Settings=Settings, run=run,
    is_whole=lambda context, settings, directory: all(
        store.is_whole(directory, split) for split in context.task.splits))
