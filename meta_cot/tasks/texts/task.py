# SPDX-License-Identifier: Apache-2.0
"""A task of problems in words, from files.

A `Format` says where question and answer stand in a row and how a solution is
cut into steps; everything else is the same. The answer of a model is free text
whose final answer counts (`verifiers.math`).
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import hashlib
import logging
from typing import Any, ClassVar

import numpy as np

from meta_cot.problem import Problem, Verdict
from meta_cot.settings import config as config_lib
from meta_cot.tasks import solved
from meta_cot.tasks import splits as splits_lib
from meta_cot.tasks.texts import rows
from meta_cot.traces import record as record_lib
from meta_cot.verifiers import math

_MAX_TOLD = 20  # faults that are told one by one


@dataclasses.dataclass(frozen=True)
class Settings:
  """Where the problems are (`rows.read`)."""

  train: tuple[str, ...] = config_lib.setting(min_items=1, is_unique=True)
  test: tuple[str, ...] = config_lib.setting(is_unique=True)
  # Shares of the rows of `train`; of test only where `test` names nothing.
  validation_fraction: float = config_lib.setting(above=0.0, high=0.5)
  test_fraction: float = config_lib.setting(above=0.0, high=0.5)
  num_train: int | None = config_lib.setting(low=1)  # at most; None: all
  num_heldout: int | None = config_lib.setting(low=1)  # of every other split
  # Share of the rows that may be broken; more end the run.
  max_bad_fraction: float = config_lib.setting(low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class Solved:
  """What a row says."""

  question: str
  answer: str
  steps: tuple[str, ...]  # lines
  details: Mapping[str, Any]  # of `Problem.data`


# Reads the values of a row; a ValueError says what is wrong with them.
Format = Callable[[Mapping[str, Any]], Solved]


class Teacher:
  """Tells the solutions of the files."""

  strategies = solved.STRATEGIES

  def search(
      self, problem: Problem, strategy: str, seed: int
  ) -> record_lib.TraceRecord:
    """Makes the record of the solution that is in the file."""
    return solved.record(
        problem, problem.data['steps'], STATES, strategy=strategy, seed=seed,
        model='dataset')


class States:
  """A state is the number of lines; what they say is not checked."""

  def first(self, problem: Problem) -> str:
    """Returns that there are none."""
    del problem
    return '0'

  def after(self, problem: Problem, state: str, step: str) -> str | None:
    """Returns one line more; None for an empty one."""
    del problem
    return str(int(state) + 1) if step.strip() else None

  def max_steps(self, problem: Problem) -> int:
    """Returns the number of lines that the file's solution has."""
    return len(problem.data['steps'])


STATES = States()


@dataclasses.dataclass(frozen=True)
class Texts:
  """A task; `Problem.data` holds `steps` and what else its rows say."""

  name: str  # begins the ids of problems
  settings: Settings | None
  seed: int
  format: Format
  splits: ClassVar[tuple[str, ...]] = ('train', 'validation', 'test')
  teacher: ClassVar[Teacher] = Teacher()
  states: ClassVar[States] = STATES
  in_graph: ClassVar[None] = None
  feedback: ClassVar[None] = None
  measure: ClassVar[None] = None
  oracle: ClassVar[None] = None

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    return len(self._split(split))

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Returns problems `start` to `stop` (exclusive, at most the size).

    Raises:
      UserError: a file cannot be read, or too many of its rows are broken.
    """
    if start < 0:
      raise ValueError(f'start: got {start}; must be at least 0.')
    return iter(self._split(split)[start:stop])

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges a free text by its final answer."""
    said = math.final_answer(answer)
    if not said:
      return Verdict(False, 'no_answer')
    return math.verdict(problem.answer, said)

  def vary(self, problem: Problem, rng: np.random.Generator) -> Problem:
    """Returns the problem as it is."""
    del rng
    return problem

  def _split(self, split: str) -> tuple[Problem, ...]:
    if self.settings is None:
      raise config_lib.UserError(
          f'task {self.name}: made without settings, it can judge but has no '
          'problems; pass settings to tasks.make.')
    if split not in self.splits:
      raise ValueError(
          f'split: got {split!r}; must be one of {", ".join(self.splits)}.')
    return _splits(self.name, self.settings, self.seed, self.format)[split]


@functools.lru_cache(maxsize=4)
def _splits(
    name: str, settings: Settings, seed: int, read_row: Format
) -> dict[str, tuple[Problem, ...]]:
  """The problems of all splits; a question is in the first one that has it."""
  found = {split: {} for split in Texts.splits}
  shares = dict(validation=settings.validation_fraction)
  if settings.test:
    _add(name, found['test'], settings.test, read_row, settings)
  else:
    shares['test'] = settings.test_fraction
  learned = {}
  _add(name, learned, settings.train, read_row, settings)
  for question, problem in learned.items():
    if settings.test and question in found['test']:
      continue
    place = splits_lib.rank((question,), seed) / splits_lib.RANGE
    split = next(
        (s for s, end in _ends(shares) if place < end), 'train')
    found[split][question] = problem
  sizes = dict.fromkeys(Texts.splits, settings.num_heldout) | dict(
      train=settings.num_train)
  return {split: tuple(some.values())[:sizes[split]]
          for split, some in found.items()}


def _ends(shares: Mapping[str, float]) -> Iterator[tuple[str, float]]:
  end = 0.0
  for split, share in shares.items():
    end += share
    yield split, end


def _add(name, found, sources, read_row, settings) -> None:
  """Adds the problems of all sources by question; tells of broken rows."""
  faults, number = [], 0
  for row in (row for source in sources for row in rows.read(source)):
    number += 1
    fault = row.fault
    try:
      found_row = None if fault else read_row(row.values)
    except ValueError as e:
      fault = str(e)
    if fault:
      faults.append(f'{row.place}: {fault}')
    elif found_row.question not in found:
      digest = hashlib.sha256(found_row.question.encode()).hexdigest()[:16]
      found[found_row.question] = Problem(
          id=f'{name}-{digest}', question=found_row.question,
          answer=found_row.answer,
          data={**found_row.details, 'steps': list(found_row.steps)})
  for fault in faults[:_MAX_TOLD]:
    logging.warning('task %s: %s; the row is left out', name, fault)
  if faults:
    logging.warning(
        'task %s: %d of %d rows are broken', name, len(faults), number)
  if not number or len(faults) > settings.max_bad_fraction * number:
    raise config_lib.UserError(
        f'task {name}: {len(faults)} of {number} rows of {", ".join(sources)} '
        f'are broken, more than task.max_bad_fraction '
        f'({settings.max_bad_fraction:g}) allows'
        f'{f"; the first one is {faults[0]}" if faults else ""}.')


def text_of(values: Mapping[str, Any], key: str) -> str:
  """Returns the text of a row.

  Raises:
    ValueError: there is none.
  """
  text = values.get(key)
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'{key!r} is {text!r:.60}; must be a text')
  return text.strip()
