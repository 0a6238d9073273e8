# SPDX-License-Identifier: Apache-2.0
"""What an answer is read into: trees of plain values, which workers receive.

  Number(value, places)   an exact rational; places behind the point, if written
  Symbol(name)            x, pi, e, i, oo
  Call(name, arguments)   add mul div pow neg pm percent, and functions
  Several(kind, items)    list (unordered, "1 or 2"), set, union, and brackets
                          with their two signs: '()', '[)', ...
  Matrix(rows)
  Relation(sign, left, right)   = != < <= > >= in
  Words(text)             what is said and not computed
"""

from fractions import Fraction
from typing import NamedTuple, Union


class Number(NamedTuple):
  """A number that was written as digits."""

  value: Fraction
  places: int | None = None


class Symbol(NamedTuple):
  """An unknown or a constant."""

  name: str


class Call(NamedTuple):
  """An operation on trees."""

  name: str
  arguments: tuple['Tree', ...]


class Several(NamedTuple):
  """Items in a row."""

  kind: str
  items: tuple['Tree', ...]


class Matrix(NamedTuple):
  """Rows of equal length."""

  rows: tuple[tuple['Tree', ...], ...]


class Relation(NamedTuple):
  """Two sides and the sign between them."""

  sign: str
  left: 'Tree'
  right: 'Tree'


class Words(NamedTuple):
  """Text, in small letters and with single blanks."""

  text: str


Tree = Union[Number, Symbol, Call, Several, Matrix, Relation, Words]


class ReadingError(ValueError):
  """A text is no notation that is known here."""
