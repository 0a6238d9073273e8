# SPDX-License-Identifier: Apache-2.0
"""Word problems in English: a number changes some times, what is it now?

Splits share neither stories (`stories`) nor facts: a fact is one operation with
its numbers, such as 12 + 7, and a hash says to which split it belongs. Facts of
training problems are met in no other split, whatever the story. `difficulty` is
the number of steps. Answers are free text; the last one that is announced
counts, or else the last number of the last line.
"""

from collections.abc import Iterator
import dataclasses
import functools
import random
import re
from typing import ClassVar

import numpy as np

from meta_cot.problem import Problem, Verdict
from meta_cot.settings import config as config_lib
from meta_cot.tasks import solved
from meta_cot.tasks import splits as splits_lib
from meta_cot.tasks import stories
from meta_cot.traces import record as record_lib
from meta_cot.verifiers import math

NAME = 'word_problems'
_STORIES = {
    'train': stories.TRAIN, 'validation': stories.VALIDATION,
    'test': stories.TEST}
_SHARES = {'validation': 0.1, 'test': 0.3}  # of all facts; the rest is train
_FACTORS = (2, 9)  # of * and /
_MAX_REPEATS = 300  # drawn one after the other, before there are no others
_RESULTS = {
    '+': lambda a, b: a + b, '-': lambda a, b: a - b, '*': lambda a, b: a * b,
    '/': lambda a, b: a // b}
_EQUATION = re.compile(
    r'(\d{1,12})\s*([-+*/x×÷])\s*(\d{1,12})\s*=\s*(\d{1,12})(?!\d)', re.ASCII)
_SIGNS = {'x': '*', '×': '*', '÷': '/'}
_NUMBER = re.compile(r'-?\d[\d,]*(?:\.\d+)?', re.ASCII)

_Fact = tuple[int, str, int]


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which problems there are."""

  # Operations of a problem.
  min_steps: int = config_lib.setting(low=1, high=6)
  max_steps: int = config_lib.setting(low=1, high=6)
  max_number: int = config_lib.setting(low=9, high=1_000)  # in the question
  max_value: int = config_lib.setting(low=20, high=10**6)  # of a result
  num_train: int = config_lib.setting(low=0)
  num_validation: int = config_lib.setting(low=0)
  num_test: int = config_lib.setting(low=0)

  def __post_init__(self):
    if self.min_steps > self.max_steps:
      raise config_lib.ConfigError(
          f'min_steps: got {self.min_steps}; must be at most max_steps '
          f'({self.max_steps}).')


class Teacher:
  """Tells the steps in order; there is nothing to search."""

  strategies = solved.STRATEGIES

  def search(
      self, problem: Problem, strategy: str, seed: int
  ) -> record_lib.TraceRecord:
    """Writes a sentence for every operation, in words drawn by the seed."""
    draws = random.Random(f'{seed}/{problem.id}')
    steps = [
        draws.choice(stories.EXPLANATIONS).format(
            a=a, sign=sign, b=b, c=_RESULTS[sign](a, b),
            things=problem.data['things'])
        for a, sign, b in problem.data['facts']]
    return solved.record(
        problem, steps, STATES, strategy=strategy, seed=seed, model='symbolic')


class States:
  """A state is the numbers that are known, '14,2,28', a step a sentence.

  A sentence without an equation changes nothing. One with a false equation, or
  with numbers that are not known, leads nowhere.
  """

  def first(self, problem: Problem) -> str:
    """Returns the numbers of the question."""
    facts = problem.data['facts']
    return ','.join(map(str, (facts[0][0], *(b for _, _, b in facts))))

  def after(self, problem: Problem, state: str, step: str) -> str | None:
    """Returns the numbers and the results of a sentence's equations."""
    del problem
    known = [*map(int, state.split(','))]
    for a, sign, b, result in _EQUATION.findall(step):
      a, b, sign = int(a), int(b), _SIGNS.get(sign, sign)
      if not {a, b} <= {*known} or (sign == '/' and (not b or a % b)):
        return None
      if _RESULTS[sign](a, b) != int(result):
        return None
      known.append(int(result))
    return ','.join(map(str, known))

  def max_steps(self, problem: Problem) -> int:
    """Returns the number of operations."""
    return len(problem.data['facts'])


STATES = States()


@dataclasses.dataclass(frozen=True)
class WordProblems:
  """A task; `Problem.data` holds `facts` ([a, sign, b] of every step), `names`.
  """

  settings: Settings | None
  seed: int
  splits: ClassVar[tuple[str, ...]] = tuple(_STORIES)
  teacher: ClassVar[Teacher] = Teacher()
  states: ClassVar[States] = STATES
  in_graph: ClassVar[None] = None
  feedback: ClassVar[None] = None
  measure: ClassVar[None] = None
  oracle: ClassVar[None] = None

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    if self.settings is None:
      raise config_lib.UserError(
          f'task {NAME}: made without settings, it can judge but has no '
          'problems; pass settings to tasks.make.')
    if split not in self.splits:
      raise ValueError(
          f'split: got {split!r}; must be one of {", ".join(self.splits)}.')
    return getattr(self.settings, f'num_{split}')

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Returns problems `start` to `stop` (exclusive, at most the size).

    The numbers of steps take turns.
    """
    stop = min(stop, self.size(split))
    if start < 0:
      raise ValueError(f'start: got {start}; must be at least 0.')
    return iter(_problems(self.settings, self.seed, split)[start:stop])

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges a free text by its final answer."""
    said = math.final_answer(answer)
    if said is None:
      numbers = _NUMBER.findall(answer.strip().rpartition('\n')[2][-1_000:])
      said = numbers[-1].rstrip(',') if numbers else None
    if not said:
      return Verdict(False, 'no_answer')
    return math.verdict(problem.answer, said)

  def vary(self, problem: Problem, rng: np.random.Generator) -> Problem:
    """Returns the problem with other names."""
    names = rng.choice(stories.NAMES, 2, replace=False).tolist()
    new = dict(zip(problem.data['names'], names, strict=True))
    question = re.sub(
        '|'.join(new), lambda match: new[match[0]], problem.question)
    return dataclasses.replace(
        problem, question=question, data={**problem.data, 'names': names})


@functools.lru_cache(maxsize=8)
def _problems(
    settings: Settings, seed: int, split: str) -> tuple[Problem, ...]:
  """All problems of a split, no question twice.

  Raises:
    ConfigError: there are not so many.
  """
  size = getattr(settings, f'num_{split}')
  found, draws = {}, random.Random(f'{seed}/{split}')
  num_repeats = 0
  while len(found) < size and num_repeats < _MAX_REPEATS:
    problem = _draw(settings, seed, split, len(found), draws)
    num_repeats = num_repeats + 1 if problem.question in found else 0
    found.setdefault(problem.question, problem)
  if len(found) < size:
    raise config_lib.ConfigError(
        f'num_{split}: got {size}; must be at most {len(found)}, all different '
        f'problems of {settings.min_steps} to {settings.max_steps} steps that '
        'were found with such numbers.')
  return tuple(found.values())


def _draw(
    settings: Settings, seed: int, split: str, index: int, draws: random.Random
) -> Problem:
  number = settings.min_steps + index % (
      settings.max_steps - settings.min_steps + 1)
  facts = _facts(settings, seed, split, number, draws)
  story = draws.choice(_STORIES[split])
  name, friend = draws.sample(stories.NAMES, 2)
  told = [draws.choice(story.begins).format(name=name, a=facts[0][0])]
  for _, sign, b in facts:
    told.append(draws.choice(story.tells[sign]).format(
        name=name, friend=friend, b=b))
  told.append(draws.choice(story.asks).format(name=name))
  a, sign, b = facts[-1]
  return Problem(
      id=f'{NAME}-{split}-{index}', question=' '.join(told),
      answer=str(_RESULTS[sign](a, b)),
      data=dict(facts=[list(fact) for fact in facts], things=story.things,
                names=[name, friend]))


def _facts(
    settings: Settings, seed: int, split: str, number: int,
    draws: random.Random,
) -> list[_Fact]:
  """Draws operations until all of them belong to the split."""
  while True:
    value, facts = draws.randint(2, settings.max_number), []
    while len(facts) < number:
      fact = _fact(settings, value, draws)
      if fact is None or _split_of(fact, seed) != split:
        break
      facts.append(fact)
      value = _RESULTS[fact[1]](value, fact[2])
    else:
      return facts


def _fact(settings: Settings, value: int, draws: random.Random) -> _Fact | None:
  """Draws one operation; None where it has no whole, positive result."""
  sign, (low, high) = draws.choice('+-*/'), _FACTORS
  if sign in '+-':
    low, high = 2, settings.max_number
  b = draws.randint(low, high)
  result = _RESULTS[sign](value, b)
  is_whole = sign != '/' or value % b == 0
  return (value, sign, b) if (
      is_whole and 0 < result <= settings.max_value) else None


def _split_of(fact: _Fact, seed: int) -> str:
  """To which split a fact belongs; a + b and b + a are one."""
  a, sign, b = fact
  numbers = sorted((a, b)) if sign in '+*' else (a, b)
  place = splits_lib.rank((sign, *numbers), seed) / splits_lib.RANGE
  for split, share in _SHARES.items():
    if place < share:
      return split
    place -= share
  return 'train'


def make(settings: Settings | None, seed: int) -> WordProblems:
  """Makes the task, see `tasks.base`."""
  return WordProblems(settings, seed)
