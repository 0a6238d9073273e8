# SPDX-License-Identifier: Apache-2.0
"""Two trees -> equal (True), different (False), or not known here (None).

What is exact is decided here; what needs algebra is asked of `scalars`.
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
import functools

from meta_cot.verifiers.math import exact
from meta_cot.verifiers.math import tree

# Whether two expressions are equal; None: not known.
Scalars = Callable[[tree.Tree, tree.Tree], bool | None]
_FLIPPED = {'>': '<', '>=': '<='}
_BRACKETS = {'<': '()', '<=': '[]'}
_UNORDERED = ('list', 'set', 'union', 'all')
_MIN_PLACES = 2  # of a decimal that stands for what rounds to it
_MIN_DIGITS = 3  # of an answer that stands for a number without an end


def unknown(gold: tree.Tree, answer: tree.Tree) -> bool | None:
  """Knows of no two expressions, unless they are written alike."""
  return True if gold == answer else None


def compare(
    gold: tree.Tree, answer: tree.Tree, scalars: Scalars = unknown
) -> bool | None:
  """Compares an answer with the right one.

  Lists ("1 or 2") and sets have no order; tuples have, and intervals have their
  brackets. `x = 5` is 5, of whatever name. A decimal of at least two places
  stands for what rounds to it where it is the right answer; where the right
  answer is a number without an end, so does an answer of three digits and
  places or more. 50% is 50 and 1/2.

  Raises:
    TooLargeError: a number is larger than what is computed.
  """
  gold, answer = _plain(gold), _plain(answer)
  if isinstance(gold, tree.Relation) != isinstance(answer, tree.Relation):
    gold, answer = _assigned(gold), _assigned(answer)
  again = functools.partial(compare, scalars=scalars)
  if isinstance(gold, tree.Several) or isinstance(answer, tree.Several):
    return _several(gold, answer, again)
  if isinstance(gold, tree.Relation) and isinstance(answer, tree.Relation):
    return _relations(gold, answer, scalars)
  if isinstance(gold, tree.Matrix) and isinstance(answer, tree.Matrix):
    return _all(
        again(a, b) for a, b in zip(sum(gold.rows, ()), sum(answer.rows, ()))
    ) if [*map(len, gold.rows)] == [*map(len, answer.rows)] else False
  kinds = (tree.Number, tree.Symbol, tree.Call)
  if not isinstance(gold, kinds) or not isinstance(answer, kinds):
    return gold == answer
  return _expressions(gold, answer, scalars)


def _plain(of: tree.Tree) -> tree.Tree:
  """Puts what is the same in one form: two signs, lists of assignments."""
  if isinstance(of, tree.Call) and of.name == 'pm':
    *before, last = of.arguments
    return tree.Several('list', tuple(
        tree.Call('add', (*before, x)) if before else x
        for x in (last, tree.Call('neg', (last,)))))
  if isinstance(of, tree.Relation):
    if of.sign == 'in':
      return _plain(of.right)
    if of.sign in _FLIPPED:
      return tree.Relation(_FLIPPED[of.sign], of.right, of.left)
    if isinstance(of.right, tree.Call) and of.right.name == 'pm':
      return _plain(tree.Several('list', tuple(
          tree.Relation(of.sign, of.left, x) for x in _plain(of.right).items)))
  if isinstance(of, tree.Several) and of.kind == 'all':
    return _chain(of)
  if isinstance(of, tree.Several) and of.kind in ('list', 'set', 'union'):
    items = []
    for item in map(_plain, of.items):
      is_same = isinstance(item, tree.Several) and item.kind == of.kind
      items.extend(item.items if is_same else [item])
    if of.kind == 'list' and all(_is_assignment(x) for x in items) and len(
        {x.left for x in items}) == 1:
      items = [x.right for x in items]
    return tree.Several(of.kind, tuple(items))
  return of


def _chain(of: tree.Several) -> tree.Tree:
  """Reads x = 5 + 6 = 11 as x = 11, and 2 <= x < 7 as [2, 7)."""
  signs = [x.sign for x in of.items]
  if set(signs) == {'='}:
    return tree.Relation('=', of.items[0].left, of.items[-1].right)
  if len(signs) == 2 and set(signs) <= _BRACKETS.keys() and isinstance(
      of.items[0].right, tree.Symbol):
    opening, closing = (_BRACKETS[sign] for sign in signs)
    return tree.Several(opening[0] + closing[1], (
        of.items[0].left, of.items[1].right))
  return of


def _is_assignment(of: tree.Tree) -> bool:
  return isinstance(of, tree.Relation) and of.sign == '=' and isinstance(
      of.left, tree.Symbol)


def _assigned(of: tree.Tree) -> tree.Tree:
  """Takes x = 5 for 5."""
  return of.right if _is_assignment(of) else of


def _all(verdicts: Iterable[bool | None]) -> bool | None:
  verdicts = [*verdicts]
  if False in verdicts:
    return False
  return None if None in verdicts else True


def _several(gold, answer, again) -> bool | None:
  if not (isinstance(gold, tree.Several) and isinstance(answer, tree.Several)):
    return False
  # A list of several answers may be written as a set.
  kinds = {gold.kind, answer.kind}
  if len(kinds) > 1 and kinds != {'list', 'set'}:
    return False
  if gold.kind not in _UNORDERED:
    return len(gold.items) == len(answer.items) and _all(
        map(again, gold.items, answer.items))
  if len(gold.items) != len(answer.items):
    return False
  left, is_known = [*answer.items], True
  for item in gold.items:
    verdicts = [again(item, other) for other in left]
    if True in verdicts:
      del left[verdicts.index(True)]
    elif None in verdicts:
      is_known = False
    else:
      return False
  return True if is_known else None


def _relations(gold, answer, scalars) -> bool | None:
  if gold.sign != answer.sign:
    return False
  if gold == answer:
    return True
  if _is_assignment(gold) and _is_assignment(answer):
    return gold.left == answer.left and compare(
        gold.right, answer.right, scalars)
  sides = _all((
      compare(gold.left, answer.left, scalars),
      compare(gold.right, answer.right, scalars)))
  return sides or scalars(gold, answer)


def _expressions(gold, answer, scalars) -> bool | None:
  if gold == answer:
    return True
  percent = [x for x in (gold, answer) if (
      isinstance(x, tree.Call) and x.name == 'percent')]
  if len(percent) == 1:  # 50% is 50, and 1/2 below
    without = [
        x.arguments[0] if x is percent[0] else x for x in (gold, answer)]
    if compare(*without, scalars):
      return True
  values = exact.rational(gold), exact.rational(answer)
  if None in values:
    return scalars(gold, answer)
  return values[0] == values[1] or is_rounded(
      gold, values[0], answer, values[1])


def is_rounded(
    gold: tree.Tree, gold_value: Fraction, answer: tree.Tree,
    answer_value: Fraction) -> bool:
  """Tells whether one of two values is the other, rounded as it may be.

  Values that are not rational are passed as near as half a place matters.
  """
  places = _places(gold)
  if places is not None and places >= _MIN_PLACES and (
      abs(gold_value) >= Fraction(1, 10**(places - 1))):
    other = _places(answer)
    return (other is None or other > places) and _near(
        gold_value, answer_value, places)
  places = _places(answer)
  return (
      places is not None and places >= _MIN_DIGITS
      and abs(answer_value) >= Fraction(1, 10**(places - _MIN_DIGITS + 1))
      and _has_no_end(gold, gold_value)
      and _near(answer_value, gold_value, places))


def _places(of: tree.Tree) -> int | None:
  """Places behind the point of a decimal, whatever its sign."""
  while isinstance(of, tree.Call) and of.name in ('neg', 'percent'):
    (of,) = of.arguments
  return of.places if isinstance(of, tree.Number) else None


def _near(written: Fraction, value: Fraction, places: int) -> bool:
  return abs(written - value) <= Fraction(1, 2 * 10**places)


def _has_no_end(of: tree.Tree, value: Fraction) -> bool:
  """Whether digits behind the point would not end."""
  if exact.rational(of) is None:
    return True
  rest = value.denominator
  for prime in (2, 5):
    while rest % prime == 0:
      rest //= prime
  return rest != 1
