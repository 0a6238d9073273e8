# SPDX-License-Identifier: Apache-2.0
"""The arithmetic inside a Countdown trace: '9-3=6', '4,9,3', '4,9,3>24'."""

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import fractions
import operator
import re

# Longer digit strings are refused: Python itself refuses to read very long
# ones, and no trace needs them.
NUMBER = '[0-9]{1,12}'
NUMBERS = f'{NUMBER}(?:,{NUMBER})*'
OPERATION = f'{NUMBER}[-+*/]{NUMBER}={NUMBER}'

_OPERATION = re.compile(f'({NUMBER})([-+*/])({NUMBER})=({NUMBER})')
_QUESTION = re.compile(f'({NUMBERS})>({NUMBER})')
_EXACT = {
    '+': operator.add, '-': operator.sub, '*': operator.mul,
    '/': fractions.Fraction}


@dataclasses.dataclass(frozen=True)
class Operation:
  """`left symbol right = result`, as written; it need not be true."""

  left: int
  symbol: str  # one of + - * /
  right: int
  result: int

  @property
  def is_true(self) -> bool:
    """Whether the stated result is the exact one."""
    if self.symbol == '/' and self.right == 0:
      return False
    return _EXACT[self.symbol](self.left, self.right) == self.result


def parse(text: str) -> Operation | None:
  """Reads one operation between non-negative integers; None if it is not."""
  match = _OPERATION.fullmatch(text)
  if match is None:
    return None
  left, symbol, right, result = match.groups()
  return Operation(int(left), symbol, int(right), int(result))


def numbers(state: str) -> tuple[int, ...] | None:
  """Reads comma-joined integers; None if `state` is something else."""
  if re.fullmatch(NUMBERS, state) is None:
    return None
  return tuple(map(int, state.split(',')))


def question(text: str) -> tuple[tuple[int, ...], int]:
  """Reads '4,9,3>24' as the numbers and the target.

  Raises:
    ValueError: `text` is not such a question.
  """
  match = _QUESTION.fullmatch(text)
  if match is None:
    raise ValueError(
        f'question {text!r} is not of the form 4,9,3>24 (non-negative '
        'integers); this style only writes Countdown problems.')
  return numbers(match[1]), int(match[2])


def remaining(
    available: Sequence[int], operation: Operation) -> tuple[int, ...] | None:
  """The numbers left after `operation`, its result last.

  The stated result is taken as it is. None if an operand is not available.
  """
  left = list(available)
  for operand in (operation.left, operation.right):
    if operand not in left:
      return None
    left.remove(operand)
  return (*left, operation.result)


def faults(
    steps: Sequence[str], numbers: Sequence[int], target: int
) -> Iterator[tuple[int, str]]:
  """Goes through the operations of a solution, in time linear in their number.

  Yields:
    (index of the step, 'format' (no operation) | 'arithmetic' |
    'illegal_state' | 'wrong_answer').
  """
  left = collections.Counter(numbers)
  for i, step in enumerate(steps):
    operation = parse(step)
    if operation is None:
      yield i, 'format'
      continue
    if not operation.is_true:
      yield i, 'arithmetic'
    operands = collections.Counter((operation.left, operation.right))
    if all(left[n] >= count for n, count in operands.items()):
      left.subtract(operands)
      left[operation.result] += 1
    else:
      yield i, 'illegal_state'
  if +left != collections.Counter((target,)):
    yield len(steps) - 1, 'wrong_answer'
