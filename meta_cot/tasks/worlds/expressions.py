# SPDX-License-Identifier: Apache-2.0
"""Write an expression in x that fits pairs of numbers.

The question shows two pairs, `1>5,4>11`; others are hidden and decide. What is
said of an attempt is what is missing of the numbers shown, `0,-1` of `2*x+4`
at `1>6,2>7`, or `?` where it is no expression: the setting of execution
feedback (RLEF, arXiv 2410.02089), whose public tests are answered and whose
private tests pay.

An expression is made of x, whole numbers, `+`, `-`, `*` and parentheses. The
hidden ones are a*x+b, a*x*x+b and (x+a)*b, or the first of these forms alone,
dealt to the splits by a hash.
"""

import dataclasses
import functools
import re

from meta_cot.problem import Problem, Verdict
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.tasks import splits
from meta_cot.tasks.worlds import world

_FORMS = ('{a}*x+{b}', '{a}*x*x+{b}', '(x+{a})*{b}')
_NUM_PUBLIC, _NUM_HIDDEN = 2, 4
_MAX_LENGTH, _MAX_DEPTH, _MAX_VALUE = 40, 8, 10**6
_TOKEN = re.compile(r'[0-9]{1,3}|[x+\-*()]')
_NUMBER = re.compile('[0-9]+')
_HELDOUT = 5  # one of so many expressions is in validation, another one in test
UNREADABLE = '?'


@dataclasses.dataclass(frozen=True)
class Settings(world.Settings):
  """How large numbers and inputs are, and how many forms there are."""

  largest: int = config_lib.setting(low=2, high=99)
  largest_input: int = config_lib.setting(low=_NUM_PUBLIC - 1, high=20)
  num_forms: int = config_lib.setting(low=1, high=len(_FORMS))


@dataclasses.dataclass(frozen=True)
class Expressions(world.World):
  """The task; `Problem.answer` is the expression that pairs were made with."""

  name = 'expressions'

  @property
  def feedback(self) -> base.Feedback:
    """What is said, on the host."""
    return _Feedback(self)

  def draw(self, split, index, rng):
    """Draws an expression, and the inputs that are shown."""
    hidden = rng.choice(_expressions(
        self.settings.largest, self.settings.num_forms, self.seed)[split])
    shown = sorted(rng.sample(
        range(self.settings.largest_input + 1), _NUM_PUBLIC))
    return ','.join(f'{x}>{value(hidden, x)}' for x in shown), hidden

  def say(self, question, hidden, attempt):
    """Says how far off an attempt is where pairs are shown; all decide."""
    pairs = _pairs(question)
    found = [value(attempt, x) for x, _ in pairs]
    if None in found:
      return UNREADABLE, False
    missing = [y - mine for (_, y), mine in zip(pairs, found, strict=True)]
    return ','.join(map(str, missing)), _values(attempt) == _values(hidden)

  def act(self, question, heard, is_last, rng):
    """Begins near what fits, and gets one number right with every attempt."""
    largest = self.settings.largest
    goal = rng.choice(fitting(largest, self.settings.num_forms, question))
    if is_last:
      return goal
    shape, numbers = _parts(goal)
    last_shape, last = _parts(heard[-1][0]) if heard else ('', [])
    if last_shape == shape:
      wrong = [i for i, n in enumerate(numbers) if n != last[i]]
      kept = rng.choice(wrong or [0])
      mine = [n if i == kept else last[i] for i, n in enumerate(numbers)]
    else:
      mine = [
          rng.choice((n, str(rng.randint(1, largest)))) for n in numbers]
    return shape.format(*mine)


@dataclasses.dataclass(frozen=True)
class _Feedback:
  """The world's feedback, a `base.Feedback`."""

  world: Expressions

  def __call__(self, problem: Problem, answer: str, verdict: Verdict) -> str:
    del verdict
    return self.world.say(problem.question, problem.answer, answer)[0]


def make(settings: Settings | None, seed: int) -> Expressions:
  """Makes the task, see `tasks.base`."""
  return Expressions(settings, seed)


def value(text: str, x: int) -> int | None:
  """Evaluates an expression, any text, at x; None where it is none.

  Neither long nor deep ones are read, nor numbers above a million.
  """
  tokens = _TOKEN.findall(text)
  if len(text) > _MAX_LENGTH or ''.join(tokens) != text:
    return None
  try:
    result, rest = _sum(tuple(tokens), x, _MAX_DEPTH)
  except ValueError:
    return None
  return None if rest else result


def _sum(tokens, x, depth):
  total, tokens = _product(tokens, x, depth)
  while tokens and tokens[0] in '+-':
    sign = 1 if tokens[0] == '+' else -1
    term, tokens = _product(tokens[1:], x, depth)
    total = _bounded(total + sign * term)
  return total, tokens


def _product(tokens, x, depth):
  total, tokens = _atom(tokens, x, depth)
  while tokens and tokens[0] == '*':
    factor, tokens = _atom(tokens[1:], x, depth)
    total = _bounded(total * factor)
  return total, tokens


def _atom(tokens, x, depth):
  if not tokens or not depth:
    raise ValueError
  first, *rest = tokens
  if first == 'x':
    return x, tuple(rest)
  if first.isdigit():
    return int(first), tuple(rest)
  if first != '(':
    raise ValueError
  total, rest = _sum(tuple(rest), x, depth - 1)
  if not rest or rest[0] != ')':
    raise ValueError
  return total, rest[1:]


def _bounded(number: int) -> int:
  if abs(number) > _MAX_VALUE:
    raise ValueError
  return number


def _parts(text: str) -> tuple[str, list[str]]:
  """Splits an expression into what is around its numbers, and the numbers."""
  return _NUMBER.sub('{}', text), _NUMBER.findall(text)


@functools.cache
def _expressions(
    largest: int, num_forms: int, seed: int) -> dict[str, list[str]]:
  """The expressions of every split; no two are the same function."""
  different = sorted(
      _all(largest, num_forms),
      key=lambda text: splits.rank(_values(text), seed))
  number = max(1, len(different) // _HELDOUT)
  return {
      base.VALIDATION: different[:number],
      'test': different[number:2 * number],
      base.TRAIN: different[2 * number:]}


@functools.cache
def _all(largest: int, num_forms: int) -> tuple[str, ...]:
  """One expression of every function."""
  numbers, found = range(1, largest + 1), {}
  for form in _FORMS[:num_forms]:
    for a in numbers:
      for b in numbers:
        text = form.format(a=a, b=b)
        found.setdefault(_values(text), text)
  return tuple(found.values())


def _values(text: str) -> tuple[int | None, ...]:
  """What decides whether two expressions are the same."""
  return tuple(value(text, x) for x in range(_NUM_PUBLIC + _NUM_HIDDEN))


@functools.cache
def fitting(
    largest: int, num_forms: int, question: str) -> tuple[str, ...]:
  """Lists the expressions that give the pairs of a question."""
  pairs = _pairs(question)
  return tuple(
      text for text in _all(largest, num_forms)
      if all(value(text, x) == y for x, y in pairs))


def _pairs(question: str) -> list[tuple[int, ...]]:
  """Reads the pairs that are shown."""
  return [tuple(map(int, pair.split('>'))) for pair in question.split(',')]
