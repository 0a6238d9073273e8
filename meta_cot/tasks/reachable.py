# SPDX-License-Identifier: Apache-2.0
"""Which values given numbers can be joined into, each used once.

Differences are larger minus smaller. Over the rationals that loses nothing:
what an expression with negative parts makes, one without them makes as well,
up to its sign. `divide(a, b)` says which quotients there are, None for none.
"""

from collections.abc import Callable, Sequence
import fractions
import functools
import itertools

Number = int | fractions.Fraction
Divide = Callable[[Number, Number], Number | None]


def exact(a: int, b: int) -> int | None:
  """Divides integers; None where the quotient is not one."""
  return a // b if b and a % b == 0 else None


def rational(a: Number, b: Number) -> fractions.Fraction | None:
  """Divides; None where that is by zero."""
  return fractions.Fraction(a, b) if b else None


def can_reach(
    numbers: Sequence[int], target: int, max_value: int | None, divide: Divide,
) -> bool:
  """Returns whether all `numbers`, at least one, can be joined into `target`.

  Args:
    numbers: non-negative.
    max_value: no result is larger; None: any.
  """
  numbers = tuple(sorted(numbers))
  if len(numbers) == 1:
    return numbers == (target,)
  if target < 0 or (max_value is not None and target > max_value):
    return False
  memo = {}
  return any(
      _can_join(
          values(left, max_value, divide, memo),
          values(right, max_value, divide, memo), target, divide)
      for left, right in _halves(numbers))


def values(
    numbers: tuple[int, ...], max_value: int | None, divide: Divide,
    memo: dict[tuple[int, ...], set[Number]],
) -> set[Number]:
  """Returns all values of the sorted `numbers`; `memo` keeps those of parts."""
  if len(numbers) == 1:
    return set(numbers)
  if numbers not in memo:
    found = set()
    for left, right in _halves(numbers):
      for a in values(left, max_value, divide, memo):
        for b in values(right, max_value, divide, memo):
          found.update((
              a + b, a * b, abs(a - b), divide(a, b), divide(b, a)))
    found.discard(None)
    if max_value is not None:
      found = {v for v in found if v <= max_value}
    memo[numbers] = found
  return memo[numbers]


def _can_join(
    left: set[Number], right: set[Number], target: int, divide: Divide
) -> bool:
  """Returns whether one operation on a value of each side makes `target`."""
  if target == 0 and (0 in left or 0 in right):
    return True
  if len(left) > len(right):
    left, right = right, left
  for a in left:
    if target - a in right or a + target in right or a - target in right:
      return True
    if a and (
        a * target in right or divide(target, a) in right
        or (target and divide(a, target) in right)):
      return True
  return False


@functools.lru_cache(maxsize=1024)
def _halves(
    numbers: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
  """Parts `numbers` in two in all ways, the most even ones first.

  Even ones are cheap and, with many numbers, nearly always reach the target.
  """
  first, *others = range(len(numbers))
  parted = {}
  for size in range(len(others)):
    for chosen in itertools.combinations(others, size):
      left = tuple(numbers[k] for k in (first, *chosen))
      right = tuple(numbers[k] for k in others if k not in chosen)
      parted[left, right] = abs(len(left) - len(right))
  return sorted(parted, key=parted.get)
