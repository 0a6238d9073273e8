# SPDX-License-Identifier: Apache-2.0
"""Stages `problems`, `traces` and `tokenizer`: what policies learn from.

Problems of every split of the task, the searches of its teacher on those of
train and validation, and a tokenizer of their texts.
"""

from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

import numpy as np

from data_pipelines import arms
from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import problem as problem_lib
from meta_cot import tasks as tasks_lib
from meta_cot import traces
from meta_cot.runtime import distributed
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.tasks import base as tasks
from meta_cot.tasks import faults
from meta_cot.tasks import own
from meta_cot.traces import format as format_lib
from meta_cot.traces import record as record_lib

LEARNED = (tasks.TRAIN, tasks.VALIDATION)  # no policy learns from the others
_NUM_TEXTS = 5_000  # enough to see every symbol many times


@dataclasses.dataclass(frozen=True)
class ProblemSettings:
  """How the work is cut."""

  num_shards: int = config_lib.setting(low=1)
  num_processes: int = config_lib.setting(low=1, is_free=True)


@dataclasses.dataclass(frozen=True)
class TraceSettings:
  """Which searches are written out, and how the work is cut."""

  problems: str = config_lib.setting()
  strategies: str = config_lib.setting()
  num_shards: int = config_lib.setting(low=1)
  num_processes: int = config_lib.setting(low=1, is_free=True)


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
  """Where the texts come from, and what is made of them."""

  records: str = config_lib.setting()
  style: str | None = config_lib.setting(choices=tuple(format_lib.STYLES))
  vocabulary: Any = config_lib.setting(kinds={
      name: kind.Settings for name, kind in tokenizers.KINDS.items()})


def _make_problems(context, settings, directory) -> None:
  """Writes what is missing of every split; finished shards stay."""
  task = context.task
  for split in task.splits[:3]:
    if not task.size(split):
      raise config_lib.ConfigError(
          f'config.task: the split {split} is empty; training, choosing and '
          'reporting need problems each: change the settings of the task.')
  for split in task.splits:
    _generate(
        context, settings, directory, split, problem_lib.KIND,
        functools.partial(task.problems, split), task.size(split))
  if distributed.is_primary() and isinstance(task, own.Own):
    _check_splits(context, directory)
  distributed.wait(f'{directory.name}: checked')


def _check_splits(context, directory) -> None:
  """Lets no split repeat itself; removes the problems where one does."""
  task = context.task
  # What is hidden is not in the question, which may come again.
  whats = ('id',) if task.feedback is not None else ('id', 'question')
  try:
    faults.check_splits(tasks_lib.name_of(context.shared.task_kind), {
        split: store.read(directory, split) for split in task.splits}, whats)
  except faults.TaskError:
    directory.rmtree()  # what a corrected rerun must not take for finished
    raise


def _check_teacher(context, settings, name) -> None:
  teacher = context.task.teacher
  if teacher is None:
    raise base.wrong(
        name, 'kind', f"got 'traces'; task {context.shared.task_kind} has no "
        'teacher that could solve problems: leave the stage out.')
  if settings.strategies not in teacher.strategies:
    raise base.wrong(
        name, 'strategies', f'got {settings.strategies!r}; must be one of '
        f'{", ".join(teacher.strategies)}.')


def _make_traces(context, settings, directory) -> None:
  """Searches what is missing of every split; finished shards stay."""
  for split in LEARNED:
    problems = store.read(context.folder(settings.problems), split)
    _generate(
        context, settings, directory, split, record_lib.KIND,
        functools.partial(
            search, context.task.teacher, settings.strategies, context.seed,
            problems), len(problems))


def search(
    teacher: tasks.Teacher, strategies: str, seed: int, problems: store.Source,
    start: int, stop: int,
) -> Iterator[record_lib.TraceRecord]:
  """Searches problems `start..stop`; a record depends on nothing else."""
  for index in range(start, stop):
    yield teacher.search(
        problems[index], strategies, seed * 1_000_003 + index)


def _generate(
    context, settings, directory, split, kind, make, num_records) -> None:
  """Writes records; every host makes its share of the shards."""
  store.generate(
      directory, make, kind=kind, split=split, num_records=num_records,
      arguments=base.arguments(context, settings),
      num_shards=settings.num_shards, num_processes=settings.num_processes,
      host_index=distributed.process_index(),
      num_hosts=distributed.num_processes(), wait=distributed.wait)


def _check_room(context, settings, name) -> None:
  """Raises a ConfigError where the model has no room for the vocabulary."""
  size, room = (
      settings.vocabulary.check() or settings.vocabulary.vocab_size,
      context.shared.model.vocab_size)
  if size is not None and size > room:
    raise base.wrong(
        name, 'vocabulary.vocab_size', f'got {size}; must be at most '
        f'config.model.vocab_size, {room}.')


def _make_tokenizer(context, settings, directory) -> None:
  """Makes the tokenizer, unless it is there: the first host, others wait."""
  if distributed.is_primary() and not tokenizers.is_whole(directory):
    texts = functools.partial(_texts, context, settings)
    tokenizer = settings.vocabulary.make(
        text for _, text in texts(tasks.TRAIN))
    for split in LEARNED:
      for problem, text in texts(split):
        context.check_encoded(tokenizer, 'search', problem, text)
    tokenizer.save(directory)
  distributed.wait('tokenizer')


def _texts(
    context, settings, split: str) -> Iterator[tuple[problem_lib.Problem, str]]:
  """The first records of a split; nothing is read before the first one."""
  records = store.read(context.folder(settings.records), split)
  style = settings.style or context.shared.style
  arm = arms.ARMS[
      'traces' if format_lib.STYLES[style].EVENT_ENDS else 'solution_only']
  draws = np.random.default_rng(0)  # these arms do not draw
  for i in range(min(len(records), _NUM_TEXTS)):
    problem = records[i].problem
    try:
      text = ''.join(
          traces.render(events, style=style)
          for events in arm(records[i], draws, 1) or ())
    except ValueError as e:
      raise context.unwritten('search', problem, f'in style {style!r}: {e}'
                              ) from e
    yield problem, text


PROBLEMS = base.Stage(
    Settings=ProblemSettings, run=_make_problems,
    is_whole=lambda context, settings, directory: all(
        store.is_whole(directory, split) for split in context.task.splits))
TRACES = base.Stage(
    Settings=TraceSettings, run=_make_traces, check=_check_teacher,
    reads=lambda settings: (settings.problems,),
    is_whole=lambda context, settings, directory: all(
        store.is_whole(directory, split) for split in LEARNED))
TOKENIZER = base.Stage(
    Settings=TokenizerSettings, run=_make_tokenizer, check=_check_room,
    uses=('seed', 'task', 'style'),
    reads=lambda settings: (settings.records,),
    is_whole=lambda context, settings, directory: tokenizers.is_whole(
        directory))
