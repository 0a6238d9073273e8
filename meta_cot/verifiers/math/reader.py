# SPDX-License-Identifier: Apache-2.0
"""Tokens -> the tree of an answer, by recursive descent.

  answer    part {(, | ; | or) part}                 a list, without an order
  part      sum {(= | < | <= | > | >= | != | in) sum} [units]
  sum       [+ | - | pm] product {(+ | - | pm | cup) product}
  product   power {[* | /] power}
  power     atom {! | % | degree | ^ power | _ subscript}
  atom      number [fraction] | name | function argument | ( ... ) | [ ... ]
            | { ... } | |sum| | frac | binom | sqrt | matrix
"""

from fractions import Fraction
import re

from meta_cot.verifiers.math import lexer
from meta_cot.verifiers.math import tree
from meta_cot.verifiers.math.lexer import Token

MAX_LENGTH = 10_000  # characters
_MAX_DEPTH = 40  # of what stands in each other
_MAX_TERMS = 100  # of a sum or a product
_STOP = re.compile(r'(?<!\.)\.[ $]*$')
_RELATIONS = ('=', '<', '<=', '>', '>=', '!=', 'in')
_CLOSING = {'(': (')', ']'), '[': (')', ']'), 'set': ('end set',), '{': ('}',)}
_STARTS = ('(', '[', '{', 'set', 'frac', 'binom', 'begin', 'lfloor', 'lceil')
_ROUNDED = {'lfloor': ('rfloor', 'floor'), 'lceil': ('rceil', 'ceil')}
_MATRICES = ('matrix', 'pmatrix', 'bmatrix', 'vmatrix', 'array', 'smallmatrix')


def read(text: str) -> tree.Tree:
  """Reads an answer.

  Raises:
    ReadingError: it is no notation that is known here.
  """
  if len(text) > MAX_LENGTH:
    raise tree.ReadingError(f'{len(text)} characters')
  if _STOP.search(text):  # of a sentence
    text = text.rstrip('. $')
  reader = _Reader(lexer.tokens(text))
  found = reader.answer()
  if reader.next.kind != 'end':
    raise tree.ReadingError(f'{reader.next.value!r} is not expected')
  return found


class _Reader:
  """Goes through tokens once."""

  def __init__(self, tokens: list[Token]):
    self._tokens, self._place = tokens, 0
    self._depth = 0
    self._is_in_bars = False

  @property
  def next(self) -> Token:
    """The token that is read next."""
    return self._tokens[self._place]

  def answer(self) -> tree.Tree:
    """Reads parts in a row."""
    parts = [self._part()]
    while sign := self._accept(',', ';', 'or'):
      if sign != 'or' and self.next.kind == 'end':
        break  # a comma at the end
      self._accept('or')  # 1, 2, or 3
      parts.append(self._part())
    return parts[0] if len(parts) == 1 else tree.Several('list', tuple(parts))

  def _is(self, *signs: str) -> bool:
    return self.next.kind == 'sign' and self.next.value in signs

  def _accept(self, *signs: str) -> str | None:
    """Takes one of these signs, if it is there."""
    if not self._is(*signs):
      return None
    return self._take().value

  def _take(self) -> Token:
    token = self.next
    if token.kind == 'end':
      raise tree.ReadingError('it ends too early')
    self._place += 1
    return token

  def _expect(self, *signs: str) -> str:
    found = self._accept(*signs)
    if found is None:
      raise tree.ReadingError(f'{self.next.value!r} where {signs[0]!r} is due')
    return found

  def _part(self) -> tree.Tree:
    """Reads one answer with its relation and its units."""
    left = self._sum()
    relations = []
    while sign := self._accept(*_RELATIONS):
      right = self._sum()
      relations.append(tree.Relation(sign, left, right))
      left = right
    if self.next.kind == 'words':
      self._units()
    if not relations:
      return left
    return relations[0] if len(relations) == 1 else tree.Several(
        'all', tuple(relations))

  def _units(self) -> None:
    """Leaves out units such as `cm^2` or `miles / hour`."""
    while self.next.kind in ('words', 'name') or self._is('^', '/'):
      if self._accept('^'):
        is_braced = self._accept('{')
        self._accept('-')
        if self._take().kind != 'number':
          raise tree.ReadingError('the power of a unit is a number')
        if is_braced:
          self._expect('}')
      else:
        self._take()

  def _sum(self) -> tree.Tree:
    sign = self._accept('+', '-', 'pm')
    total = _signed(sign, self._product())
    terms = _Terms()
    while sign := self._accept('+', '-', 'pm', 'cup'):
      terms.count()
      other = self._product()
      if sign == 'cup':
        before = total.items if (
            isinstance(total, tree.Several) and total.kind == 'union') else (
                total,)
        total = tree.Several('union', (*before, other))
      elif sign == 'pm':
        total = tree.Call('pm', (total, other))
      else:
        total = tree.Call('add', (total, _signed(sign, other)))
    return total

  def _product(self) -> tree.Tree:
    product = self._power()
    terms = _Terms()
    while True:
      terms.count()
      sign = self._accept('*', '/')
      if sign:
        inner = self._accept('+', '-')
        other = _signed(inner, self._power())
        product = tree.Call('mul' if sign == '*' else 'div', (product, other))
      elif self._starts_factor():
        product = tree.Call('mul', (product, self._power()))
      else:
        return product

  def _starts_factor(self) -> bool:
    """Whether a factor follows without a sign; a number never does."""
    return self.next.kind == 'name' or self._is(*_STARTS) or (
        self._is('|') and not self._is_in_bars)

  def _power(self) -> tree.Tree:
    self._depth += 1
    if self._depth > _MAX_DEPTH:
      raise tree.ReadingError('too much stands in each other')
    found = self._atom()
    terms = _Terms()
    while True:
      terms.count()
      if self._accept('!'):
        found = tree.Call('factorial', (found,))
      elif self._accept('%'):
        found = tree.Call('percent', (found,))
      elif self._accept('degree'):
        pass
      elif self._accept('_'):
        found = self._subscript(found)
      elif self._accept('^'):
        if self._accept('degree'):
          continue
        exponent = self._exponent()
        if exponent is not None:
          found = tree.Call('pow', (found, exponent))
      else:
        self._depth -= 1
        return found

  def _exponent(self) -> tree.Tree | None:
    """Reads what stands behind ^; None for degrees in braces."""
    place = self._place
    if self._accept('{') and self._accept('degree') and self._accept('}'):
      return None
    self._place = place
    return _signed(self._accept('-', '+'), self._power())

  def _subscript(self, of: tree.Tree) -> tree.Tree:
    is_braced = self._accept('{')
    inner = self._take()
    if is_braced:
      self._expect('}')
    if inner.kind not in ('number', 'name', 'words'):
      raise tree.ReadingError('a subscript is one number or name')
    if isinstance(of, tree.Symbol):
      name = inner.value.value if inner.kind == 'number' else inner.value
      return tree.Symbol(f'{of.name}_{name}')
    if inner.kind == 'number':
      return tree.Call('base', (of, inner.value))
    raise tree.ReadingError('a subscript of something else than a name')

  def _atom(self) -> tree.Tree:
    token = self._take()
    if token.kind == 'number':
      return self._mixed(token.value)
    if token.kind == 'name':
      return self._named(token.value)
    if token.kind != 'sign':
      raise tree.ReadingError(f'{token.value!r} is not expected')
    sign = token.value
    if sign in _CLOSING:
      return self._bracketed(sign)
    if sign == 'frac':
      return tree.Call('div', (self._argument(), self._argument()))
    if sign == 'binom':
      return tree.Call('binom', (self._argument(), self._argument()))
    if sign in _ROUNDED:
      closing, name = _ROUNDED[sign]
      inner = self._sum()
      self._expect(closing)
      return tree.Call(name, (inner,))
    if sign == '|' and not self._is_in_bars:
      self._is_in_bars = True
      inner = self._sum()
      self._is_in_bars = False
      self._expect('|')
      return tree.Call('abs', (inner,))
    if sign == 'begin':
      return self._matrix()
    raise tree.ReadingError(f'{sign!r} is not expected')

  def _mixed(self, number: tree.Number) -> tree.Tree:
    """Reads 7 3/4 and 7\\frac{3}{4}; a whole number before a fraction."""
    whole, place = number.value, self._place
    if number.places is not None or whole.denominator != 1:
      return number
    if self.next.kind == 'number' and self.next.is_apart:
      above = self._take().value
      if self._accept('/') and self.next.kind == 'number':
        return self._joined(whole, above, self._take().value)
    elif self._accept('frac'):
      above, below = self._argument(), self._argument()
      if isinstance(above, tree.Number) and isinstance(below, tree.Number):
        return self._joined(whole, above, below)
    self._place = place
    return number

  def _joined(self, whole, above, below) -> tree.Number:
    if above.places or below.places or not below.value:
      raise tree.ReadingError('a mixed number of other than whole numbers')
    return tree.Number(whole + Fraction(above.value, below.value))

  def _argument(self) -> tree.Tree:
    """Reads what a command works on: braces, or one digit or letter."""
    if self._is('{'):
      return self._power()
    token = self._take()
    if token.kind == 'number':
      number = token.value
      if number.places is None and number.value >= 10:  # \frac12
        digits = str(number.value)
        self._place -= 1
        self._tokens[self._place] = Token('number', lexer.number(digits[1:]))
        return lexer.number(digits[0])
      return number
    if token.kind == 'name':
      return self._named(token.value)
    raise tree.ReadingError(f'{token.value!r} is not expected')

  def _named(self, name: str) -> tree.Tree:
    """Reads an unknown, a constant, or a function and its argument."""
    if name not in lexer.FUNCTIONS:
      return tree.Symbol(name)
    if name == 'sqrt':
      degree = tree.Number(Fraction(2))
      if self._accept('['):
        degree = self._sum()
        self._expect(']')
      return tree.Call('root', (self._argument_or_group(), degree))
    power, extra = None, ()
    while sign := self._accept('^', '_'):
      if sign == '^':
        power = self._exponent()
      else:
        extra = (self._argument_or_group(),)
    self._depth += 1
    if self._depth > _MAX_DEPTH:
      raise tree.ReadingError('too much stands in each other')
    inner = self._argument_or_group()
    terms = _Terms()
    while not self._is('(') and self._starts_factor() and (
        self.next.value not in lexer.FUNCTIONS):
      terms.count()
      inner = tree.Call('mul', (inner, self._power()))  # sin 2x
    self._depth -= 1
    arguments = inner.items if isinstance(inner, tree.Several) else (inner,)
    found = tree.Call(name, (*arguments, *extra))
    return found if power is None else tree.Call('pow', (found, power))

  def _argument_or_group(self) -> tree.Tree:
    return self._power() if self._is('(', '|', '[') else self._argument()

  def _bracketed(self, opening: str) -> tree.Tree:
    """Reads a group, a tuple, an interval or a set."""
    items = []
    bars, self._is_in_bars = self._is_in_bars, False
    while not self._is(*_CLOSING[opening]):
      items.append(self._part())
      if not self._accept(',', ';'):
        break
    self._is_in_bars = bars
    closing = self._expect(*_CLOSING[opening])
    if opening == 'set':
      return tree.Several('set', tuple(items))
    if not items:
      raise tree.ReadingError('nothing between brackets')
    if len(items) == 1:
      return items[0]
    kind = 'set' if opening == '{' else opening + closing
    return tree.Several(kind, tuple(items))

  def _environment(self) -> str:
    """Reads the name in braces, which the lexer takes for words or letters."""
    self._expect('{')
    name = ''
    while not self._is('}'):
      if self.next.kind not in ('words', 'name'):
        raise tree.ReadingError('an environment without a name')
      name += self._take().value
    self._expect('}')
    return name

  def _matrix(self) -> tree.Tree:
    name = self._environment()
    if name not in _MATRICES:
      raise tree.ReadingError(f'environment {name!r}')
    if name == 'array' and self._accept('{'):  # its columns
      while not self._accept('}'):
        self._take()
    rows, row = [], []
    while True:
      row.append(self._sum())
      sign = self._expect('&', 'row', 'end')
      if sign != '&':
        rows.append(tuple(row))
        row = []
      if sign == 'row' and self._accept('end'):
        break
      if sign == 'end':
        break
    if self._environment() != name or len({len(r) for r in rows}) != 1:
      raise tree.ReadingError('a matrix of unequal rows')
    return tree.Matrix(tuple(rows))


class _Terms:
  """Counts what makes a tree deep."""

  number = 0

  def count(self) -> None:
    """Counts one more; a ReadingError where there are too many."""
    self.number += 1
    if self.number > _MAX_TERMS:
      raise tree.ReadingError('too many terms')


def _signed(sign: str | None, of: tree.Tree) -> tree.Tree:
  if sign == '-':
    return tree.Call('neg', (of,))
  return tree.Call('pm', (of,)) if sign == 'pm' else of
