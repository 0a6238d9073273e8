# SPDX-License-Identifier: Apache-2.0
"""Trees without unknowns -> exact rational numbers, within bounds."""

from collections.abc import Sequence
from fractions import Fraction
import math

from meta_cot.verifiers.math import tree

MAX_BITS = 4_000  # of what is computed


class TooLargeError(ValueError):
  """A number would be larger than what is computed here."""


def rational(of: tree.Tree) -> Fraction | None:
  """Computes the value of a tree; None where it is no rational number.

  Roots count where they are whole. Takes bounded time and memory.

  Raises:
    TooLargeError: a value has more than MAX_BITS bits.
  """
  if isinstance(of, tree.Number):
    return of.value
  if not isinstance(of, tree.Call) or of.name not in _RULES:
    return None
  values = [rational(argument) for argument in of.arguments]
  if None in values:
    return None
  try:
    found = _RULES[of.name](*values)
  except (ZeroDivisionError, TypeError):  # TypeError: another number of them
    return None
  if found is not None and _bits(found) > MAX_BITS:
    raise TooLargeError(of.name)
  return found


def _bits(value: Fraction) -> int:
  return max(value.numerator.bit_length(), value.denominator.bit_length())


def _pow(base: Fraction, exponent: Fraction) -> Fraction | None:
  if exponent.denominator != 1:
    root = _root(base, Fraction(exponent.denominator))
    return None if root is None else _pow(root, Fraction(exponent.numerator))
  if abs(base) != 1 and _bits(base) * abs(exponent.numerator) > 2 * MAX_BITS:
    raise TooLargeError('pow')
  number = exponent.numerator
  return base**(number % 2 if abs(base) == 1 else number)


def _root(of: Fraction, degree: Fraction) -> Fraction | None:
  """The real root where it is rational; degrees up to 16."""
  if degree.denominator != 1 or not 1 <= degree <= 16 or (
      of < 0 and degree % 2 == 0):
    return None
  found = [_whole_root(abs(x), int(degree))
           for x in (of.numerator, of.denominator)]
  if None in found:
    return None
  return Fraction(found[0] if of >= 0 else -found[0], found[1])


def _whole_root(of: int, degree: int) -> int | None:
  low, high = 0, 1 << (of.bit_length() // degree + 1)
  while low < high:
    middle = (low + high + 1) // 2
    if middle**degree <= of:
      low = middle
    else:
      high = middle - 1
  return low if low**degree == of else None


def _factorial(of: Fraction) -> Fraction | None:
  if of.denominator != 1 or of < 0:
    return None
  if of > 400:
    raise TooLargeError('factorial')
  return Fraction(math.factorial(int(of)))


def _binom(above: Fraction, below: Fraction) -> Fraction | None:
  if above.denominator != 1 or below.denominator != 1 or min(above, below) < 0:
    return None
  if above > MAX_BITS:
    raise TooLargeError('binom')
  return Fraction(math.comb(int(above), int(below)))


def _of_whole(function, values: Sequence[Fraction]) -> Fraction | None:
  if any(value.denominator != 1 for value in values):
    return None
  return Fraction(function(*map(int, values)))


_RULES = {
    'add': lambda a, b: a + b, 'mul': lambda a, b: a * b,
    'div': lambda a, b: a / b, 'neg': lambda a: -a, 'pow': _pow, 'root': _root,
    'percent': lambda a: a / 100, 'factorial': _factorial, 'binom': _binom,
    'abs': abs, 'floor': lambda a: Fraction(math.floor(a)),
    'ceil': lambda a: Fraction(math.ceil(a)),
    'max': lambda *a: max(a), 'min': lambda *a: min(a),
    'gcd': lambda *a: _of_whole(math.gcd, a),
    'lcm': lambda *a: _of_whole(math.lcm, a)}
