# SPDX-License-Identifier: Apache-2.0
"""Whether two expressions with unknowns, roots or functions are equal.

Runs in a worker of `verifiers.pool`: sympy may take any time. No text is
evaluated: trees are built up from sympy's own classes.
"""

from fractions import Fraction
import random

import sympy

from meta_cot.verifiers.math import compare
from meta_cot.verifiers.math import exact
from meta_cot.verifiers.math import tree

_CONSTANTS = {
    'pi': sympy.pi, 'e': sympy.E, 'i': sympy.I, 'oo': sympy.oo}
_FUNCTIONS = {
    name: getattr(sympy, name) for name in (
        'sin cos tan cot sec csc sinh cosh tanh exp binomial').split()} | {
    'arcsin': sympy.asin, 'arccos': sympy.acos, 'arctan': sympy.atan,
    'ln': sympy.log, 'abs': sympy.Abs, 'ceil': sympy.ceiling,
    'floor': sympy.floor, 'max': sympy.Max, 'min': sympy.Min,
    'factorial': sympy.factorial, 'binom': sympy.binomial}
_DIGITS = 40  # of numbers that are compared before anything is simplified
_MAX_EXPONENT = 200
_MAX_FACTORIAL = 1_000


def answer(gold: tree.Tree, given: tree.Tree) -> bool | None:
  """Compares two trees; None where a number is too large to be computed."""
  try:
    return bool(compare.compare(gold, given, _scalars))
  except exact.TooLargeError:
    return None


def _scalars(gold: tree.Tree, given: tree.Tree) -> bool:
  if isinstance(gold, tree.Relation):
    return _same_relation(gold, given)
  a, b = _expression(gold), _expression(given)
  if a is None or b is None:
    return False
  return _is_zero(a, b) or _is_rounded(gold, a, given, b)


def _expression(of: tree.Tree) -> sympy.Expr | None:
  """Builds an expression; None where there is none, as of division by 0."""
  if isinstance(of, tree.Number):
    return sympy.Rational(of.value.numerator, of.value.denominator)
  if isinstance(of, tree.Symbol):
    return _CONSTANTS.get(of.name) or sympy.Symbol(of.name)
  if not isinstance(of, tree.Call):
    return None
  value = exact.rational(of)
  if value is not None:
    return sympy.Rational(value.numerator, value.denominator)
  arguments = [_expression(x) for x in of.arguments]
  if None in arguments:
    return None
  try:
    found = _call(of.name, arguments)
  except (TypeError, ValueError):  # wrong numbers of arguments, or no numbers
    return None
  return None if found is None or found.has(
      sympy.nan, sympy.zoo) else found


def _call(name: str, x: list[sympy.Expr]) -> sympy.Expr | None:
  if name == 'add':
    return sympy.Add(*x)
  if name == 'neg':
    return -x[0]
  if name == 'mul':
    return sympy.Mul(*x)
  if name == 'div':
    return x[0] / x[1]
  if name == 'percent':
    return x[0] / 100
  if name == 'pow':
    return _bounded_power(*x)
  if name == 'root':
    return sympy.root(*x)
  if name == 'log':
    return sympy.log(x[0]) / sympy.log(x[1] if len(x) > 1 else 10)
  if name == 'factorial' and x[0].is_number and x[0] > _MAX_FACTORIAL:
    raise exact.TooLargeError(name)
  function = _FUNCTIONS.get(name)
  return function and function(*x)


def _bounded_power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
  if exponent.is_number and abs(exponent.evalf(5)) > _MAX_EXPONENT and (
      base.is_number or not base.is_Symbol):
    raise exact.TooLargeError('pow')
  return sympy.Pow(base, exponent)


def _is_zero(a: sympy.Expr, b: sympy.Expr) -> bool:
  """Whether two expressions are equal: as numbers first, then exactly."""
  if a == b:
    return True
  if a.has(sympy.oo) or b.has(sympy.oo):
    return False
  difference = a - b
  if not _is_small(difference, a, b):
    return False
  return sympy.simplify(difference) == 0 or difference.equals(0) is True


def _is_small(difference, a, b) -> bool:
  """Whether numbers for all unknowns leave next to no difference."""
  names = sorted(difference.free_symbols | a.free_symbols, key=str)
  draws = random.Random(0)
  for _ in range(3 if names else 1):
    at = {name: sympy.Rational(draws.randrange(11, 997), 331) for name in names}
    size = abs(a.subs(at).evalf(_DIGITS))
    gap = abs(difference.subs(at).evalf(_DIGITS))
    if gap.is_comparable and size.is_comparable and (
        gap > (1 + size) * sympy.Rational(1, 10**(_DIGITS // 2))):
      return False
  return True


def _same_relation(gold: tree.Relation, given: tree.Relation) -> bool:
  """Whether the sides differ by a factor: none is zero for both of them."""
  sides = [
      (_expression(x.left), _expression(x.right)) for x in (gold, given)]
  if any(None in pair for pair in sides):
    return False
  a, b = (left - right for left, right in sides)
  if _is_zero(a, sympy.Integer(0)) or _is_zero(b, sympy.Integer(0)):
    return False
  factor = sympy.simplify(a / b)
  if not factor.is_number or factor.has(sympy.oo, sympy.zoo, sympy.nan):
    return False
  return bool(factor.is_zero is False and (
      gold.sign in ('=', '!=') or factor.is_positive))


def _is_rounded(gold, a, given, b) -> bool:
  """Whether a decimal stands for a root, or a multiple of pi, and so on."""
  values = []
  for x in (a, b):
    number = x.evalf(_DIGITS) if x.is_number else None
    if number is None or not (number.is_Float or number.is_Rational):
      return False
    values.append(Fraction(str(number)) if number.is_Float else Fraction(
        int(number.p), int(number.q)))
  return compare.is_rounded(gold, values[0], given, values[1])
