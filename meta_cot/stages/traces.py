# SPDX-License-Identifier: Apache-2.0
"""Stage `traces`: the searches of the task's teacher, as records.

On the problems of train and validation.

Every host makes its share of the shards.
"""

from collections.abc import Iterator
import dataclasses
import functools

from etils import epath

from data_pipelines import store
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.tasks import base as tasks
from meta_cot.traces import record as record_lib

_SPLITS = (tasks.TRAIN, tasks.VALIDATION)  # nothing is learned from the others


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which searches are written out, and how the work is cut."""

  problems: str = config_lib.setting()
  strategies: str = config_lib.setting()
  num_shards: int = config_lib.setting(low=1)
  num_processes: int = config_lib.setting(low=1, is_free=True)


def check(context: base.Context, settings: Settings, name: str) -> None:
  """Raises a ConfigError where the task has no such teacher."""
  teacher = context.shared.task.teacher
  if teacher is None:
    raise base.wrong(
        name, 'kind', f"got 'traces'; task {context.shared.task_kind} has no "
        'teacher that could solve problems: leave the stage out.')
  if settings.strategies not in teacher.strategies:
    raise base.wrong(
        name, 'strategies', f'got {settings.strategies!r}; must be one of '
        f'{", ".join(teacher.strategies)}.')


def run(
    context: base.Context, settings: Settings, directory: epath.Path) -> None:
  """Searches what is missing of every split; finished shards stay."""
  source = context.folder(settings.problems)
  for split in _SPLITS:
    problems = store.read(source, split)
    store.generate(
        directory,
        functools.partial(
            search, context.task.teacher, settings.strategies, context.seed,
            problems),
        kind=record_lib.KIND, split=split, num_records=len(problems),
        arguments=base.arguments(context, settings),
        **base.share_of_work(settings))


def search(
    teacher: tasks.Teacher, strategies: str, seed: int, problems: store.Source,
    start: int, stop: int,
) -> Iterator[record_lib.TraceRecord]:
  """Searches problems `start..stop`; a record depends on nothing else."""
  for index in range(start, stop):
    yield teacher.search(
        problems[index], strategies, seed * 1_000_003 + index)


STAGE = base.Stage(
    Settings=Settings, run=run, check=check,
    reads=lambda settings: (settings.problems,),
    is_whole=lambda context, settings, directory: all(
        store.is_whole(directory, split) for split in _SPLITS))
