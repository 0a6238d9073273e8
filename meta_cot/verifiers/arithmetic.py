# SPDX-License-Identifier: Apache-2.0
"""Strict judge of "join the given numbers into the target" answers.

Two forms are read. One expression on one line, `(9-3)*4`:

  expression := number | expression op expression | '(' expression ')'

or one operation per line, `9-3=6\\n4*6=24`, where an operation takes two of the
values available before it and leaves its result. `op` is + - * /, a number is
ASCII digits without sign, point or leading zero. Blanks may stand between
numbers and signs; blank lines may only surround the answer. In both forms every
given number is used exactly once and arithmetic is exact, over the rationals.
"""

import collections
from collections.abc import Iterator, Sequence
import fractions
import operator
import re

from meta_cot.problem import Verdict

MAX_CHARS = 1000
MAX_DIGITS = 18

_PRECEDENCE = {'+': 1, '-': 1, '*': 2, '/': 2}
_APPLY = {
    '+': operator.add, '-': operator.sub, '*': operator.mul,
    '/': operator.truediv}
_TOKEN = re.compile(r' *(?:([0-9]+)|([-+*/()])|(.))', re.DOTALL)
_OPERATION = re.compile(
    r' *([0-9]+) *([-+*/]) *([0-9]+) *= *([0-9]+) *')


class _Wrong(Exception):
  """The answer is wrong; the message is the reason."""


def check(text: str, numbers: Sequence[int], target: int) -> Verdict:
  """Judges `text`, whatever it is, in time linear in its bounded length.

  Args:
    text: the answer; at most `MAX_CHARS` characters.
    numbers: the given numbers, non-negative; a repeated one counts each time.
  """
  try:
    text = _readable(text)
    if '=' in text:
      value = _run_operations(text, numbers)
    else:
      value = _evaluate(text, numbers)
    if value != target:
      raise _Wrong(f'the value is {value}, not {target}')
  except _Wrong as e:
    return Verdict(False, str(e))
  return Verdict(True, f'the value is {target}')


def _readable(text: str) -> str:
  """The text without surrounding blanks, if it is worth reading."""
  if not isinstance(text, str):
    raise _Wrong(f'the answer is {type(text).__name__}, not text')
  if len(text) > MAX_CHARS:
    raise _Wrong(f'the answer has more than {MAX_CHARS} characters')
  text = text.strip(' \n')
  if not text:
    raise _Wrong('the answer is empty')
  return text


def _number(digits: str) -> int:
  if len(digits) > MAX_DIGITS:
    raise _Wrong(f'a number has more than {MAX_DIGITS} digits')
  if digits[0] == '0' and digits != '0':
    raise _Wrong(f'number {digits} has a leading zero')
  return int(digits)


def _run_operations(text: str, numbers: Sequence[int]) -> int:
  """The value left after all operations, which must use up the numbers."""
  available = collections.Counter(numbers)
  lines = text.split('\n')
  if len(lines) >= len(numbers):
    raise _Wrong(
        f'{len(lines)} operations; {len(numbers)} numbers need '
        f'{len(numbers) - 1}')
  value = None
  for place, line in enumerate(lines, start=1):
    match = _OPERATION.fullmatch(line)
    if match is None:
      raise _Wrong(f'line {place} is not "number op number = number"')
    a, b, value = (_number(match[k]) for k in (1, 3, 4))
    for operand in (a, b):
      if not available[operand]:
        raise _Wrong(f'line {place}: {operand} is not available')
      available[operand] -= 1
    result = _apply(match[2], fractions.Fraction(a), fractions.Fraction(b))
    if result != value:
      raise _Wrong(
          f'line {place}: {a}{match[2]}{b} is {result}, not {value}')
    available[value] += 1
  if available.total() != 1:
    left = ', '.join(map(str, sorted(available.elements())))
    raise _Wrong(f'numbers left at the end: {left}')
  return value


def _evaluate(text: str, numbers: Sequence[int]) -> fractions.Fraction:
  """The value of an expression, which must use up the numbers."""
  tokens = list(_tokens(text))
  used = collections.Counter(t for t in tokens if isinstance(t, int))
  given = collections.Counter(numbers)
  for words, numbers_left in (
      ('not given, or used too often', used - given),
      ('not used', given - used)):
    if numbers_left:
      raise _Wrong(f'number {min(numbers_left)} is {words}')
  return _fold(tokens)


def _tokens(text: str) -> Iterator[int | str]:
  """Numbers as int, signs as str; `text` has no blanks at its end."""
  for match in _TOKEN.finditer(text):
    digits, sign, other = match.groups()
    if other is not None:
      raise _Wrong(
          f'character {match.start(3) + 1} is {ascii(other)}; only numbers, '
          '+ - * / and parentheses are allowed')
    yield sign if sign is not None else _number(digits)


def _fold(tokens: Sequence[int | str]) -> fractions.Fraction:
  """Evaluates by precedence with explicit stacks: depth needs no recursion."""
  values, signs = [], []

  def reduce_while(level: int) -> None:
    while signs and _PRECEDENCE.get(signs[-1], 0) >= level:
      right, left = values.pop(), values.pop()
      values.append(_apply(signs.pop(), left, right))

  is_operand_next = True
  for token in tokens:
    if is_operand_next != (isinstance(token, int) or token == '('):
      wanted = 'a number or "("' if is_operand_next else 'an operation'
      raise _Wrong(f'"{token}" stands where {wanted} is expected')
    if isinstance(token, int):
      values.append(fractions.Fraction(token))
      is_operand_next = False
    elif token == '(':
      signs.append(token)
    elif token == ')':
      reduce_while(1)
      if not signs:
        raise _Wrong('")" without "("')
      signs.pop()
    else:
      reduce_while(_PRECEDENCE[token])
      signs.append(token)
      is_operand_next = True
  if is_operand_next:
    raise _Wrong('the expression ends where a number is expected')
  reduce_while(1)
  if signs:
    raise _Wrong('"(" without ")"')
  return values[0]


def _apply(
    sign: str, left: fractions.Fraction, right: fractions.Fraction
) -> fractions.Fraction:
  if sign == '/' and right == 0:
    raise _Wrong(f'{left}/{right} divides by zero')
  return _APPLY[sign](left, right)
