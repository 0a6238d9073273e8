# SPDX-License-Identifier: Apache-2.0
"""What is wrong in a task of a user's own, as one line."""

from collections.abc import Iterable, Mapping
import traceback

from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base


class TaskError(config_lib.UserError):
  """A task does not keep what `base.Task` promises; it ends the run."""


class Caught:
  """Catches what a task's code raises, to be told in one line.

  Attributes:
    error: what was raised, None for nothing.
    words: the line of the task's file where it was raised, and what it says.
  """

  def __init__(self, file: str):
    """Makes one for the code of a file."""
    self._file = file
    self.error, self.words = None, ''

  def __enter__(self) -> 'Caught':
    return self

  def __exit__(self, kind, error, frames) -> bool:
    if not isinstance(error, Exception) or (
        isinstance(error, config_lib.UserError)):  # says it already
      return False
    where = [
        (frame.filename, frame.lineno) for frame in traceback.extract_tb(frames)
        if not frame.filename.startswith('<')]
    where = [place for place in where if place[0] == self._file] or where
    file, line = (error.filename, error.lineno) if (
        isinstance(error, SyntaxError)) else where[-1]
    words = f'{file}:{line}: {kind.__name__}: {error}'
    self.error, self.words = error, ' '.join(words.split())
    return True


def check_splits(
    name: str, splits: Mapping[str, Iterable[Problem]],
    whats: tuple[str, ...] = ('id', 'question'),
) -> None:
  """Compares the problems of all splits, in the order of the task.

  Raises:
    TaskError: one of `whats` that a split has twice, or that stands in one
      split to learn from and in another one.
  """
  learned = {}
  for split, problems in splits.items():
    here = {}
    for index, problem in enumerate(problems):
      for what in whats:
        key, place = (what, getattr(problem, what)), f'{split} {index}'
        before = here.get(key) or learned.get(key)
        if before:
          raise TaskError(
              f'task {name}: problems {before} and {place} have the same '
              f'{what} {key[1]!r}; a split must not repeat itself, nor share '
              f'problems with {base.TRAIN} or {base.VALIDATION}.')
        here[key] = place
    if split in (base.TRAIN, base.VALIDATION):
      learned |= here
