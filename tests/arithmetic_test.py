# SPDX-License-Identifier: Apache-2.0
"""The strict arithmetic judge against tables, Python's parser and laws."""

import ast
import collections
import fractions
import itertools
import operator
import warnings

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import verifiers
from meta_cot.verifiers import arithmetic

_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub,
    ast.Mult: operator.mul, ast.Div: operator.truediv}
_SIGNS = {
    '+': operator.add, '-': operator.sub,
    '*': operator.mul, '/': operator.truediv}


@pytest.mark.parametrize('text, numbers, target', [
    ('(9-3)*4', [4, 9, 3], 24),
    ('9-3=6\n4*6=24', [4, 9, 3], 24),
    (' ( 9 - 3 ) * 4 \n', [4, 9, 3], 24),
    ('9 - 3 = 6\n4 * 6 = 24\n', [4, 9, 3], 24),
    ('((9)-(3))*4', [4, 9, 3], 24),
    ('8/(3-8/3)', [3, 3, 8, 8], 24),  # needs rationals
    ('2-5+27', [2, 5, 27], 24),  # left to right, through a negative value
    ('100/10/2', [2, 10, 100], 5),
    ('3+4*5', [3, 4, 5], 23),
    ('7', [7], 7),
    ('5-5=0\n0*3=0', [5, 5, 3], 0),
    ('12+12=24', [12, 12], 24),
])
def test_right_answers(text, numbers, target):
  assert arithmetic.check(text, numbers, target).is_correct


@pytest.mark.parametrize('text, reason', [
    ('', 'empty'),
    (' \n ', 'empty'),
    (None, 'NoneType'),
    (b'(9-3)*4', 'bytes'),
    (24, 'int'),
    ('24', 'number 24 is not given'),
    ('24.9', "'.'"),
    ('(9-3)*4.0', "'.'"),
    ('9-3=6', 'numbers left at the end: 4, 6'),
    ('9*3-4', 'the value is 23, not 24'),
    ('9-3=6\n4+6=10', 'the value is 10, not 24'),
    ('(9-3)*4=24', 'line 1 is not'),
    ('(9-3)*4 is the answer', "'i'"),
    ('(9-3)*4\n', None),
    ('(9-3)\n*4', "'\\n'"),
    ('(9-3)*4\t', "'\\t'"),
    ('9-3=6\n4*6=24\nDone', '3 operations'),
    ('9-3=6\n4*6=24 x', 'line 2 is not'),
    ('9-3=6\n\n4*6=24', '3 operations'),
    ('9-3=6\r\n4*6=24', 'line 1 is not'),
    ('9-3=6\n4*6=24\n24+0=24', '3 operations'),
    ('9-3=6\n6*4=25', '6*4 is 24, not 25'),
    ('3-9=-6\n4*6=24', 'line 1 is not'),
    ('9/4=2\n2*12=24', '9/4 is 9/4, not 2'),
    ('9+9=18\n18+6=24', 'line 1: 9 is not available'),
    ('8*3=24\n24+0=24', 'line 1: 8 is not available'),
    ('9-3=6\n9-3=6', 'line 2: 9 is not available'),
    ('9/0=0\n0+24=24', 'line 1: 0 is not available'),
    ('4*6', 'number 6 is not given'),
    ('4*(9-3)+9-9', 'number 9 is not given, or used too often'),
    ('4*9', 'number 3 is not used'),
    ('4**9-3', '"*" stands where'),
    ('4//9+3', '"/" stands where'),
    ('-4*(3-9)', '"-" stands where'),
    ('+4*(9-3)', '"+" stands where'),
    ('4*-(3-9)', '"-" stands where'),
    ('4*(9-3)!', "'!'"),
    ('4(9-3)', '"(" stands where an operation'),
    ('(9-3)4', '"4" stands where an operation'),
    ('4*9 3', '"3" stands where an operation'),
    ('4*(9-3', '"(" without ")"'),
    ('4*9-3)', '")" without "("'),
    ('()4*9-3', '")" stands where a number'),
    ('4*9-3+', 'ends where a number is expected'),
    ('04*(9-3)', 'leading zero'),
    ('\u0664*(9-3)', "'\\u0664'"),
    ('4\u00d7(9-3)', "'\\xd7'"),
    ('4\u00a0*(9-3)', "'\\xa0'"),
    ('\ud800', "'\\ud800'"),
    ('4*(9-3)#', "'#'"),
    ('__import__("os")', "'_'"),
    ('1' * 19, '18 digits'),
    ('9' * 1001, '1000 characters'),
    ('(' * 5000, '1000 characters'),
    ('(' * 900 + '4*9-3' + ')' * 900, '1000 characters'),
])
def test_table_of_reasons(text, reason):
  judgement = arithmetic.check(text, [4, 9, 3], 24)
  assert judgement.is_correct == (reason is None)
  assert reason is None or reason in judgement.reason
  assert '\n' not in judgement.reason


@pytest.mark.parametrize('text, numbers', [
    ('4/(3-3)', [4, 3, 3]),
    ('3-3=0\n4/0=0', [4, 3, 3]),
    ('0/0', [0, 0]),
])
def test_division_by_zero(text, numbers):
  judgement = arithmetic.check(text, numbers, 0)
  assert not judgement.is_correct
  assert 'divides by zero' in judgement.reason


def test_deep_nesting_is_judged():
  text = '(' * 490 + '4*6' + ')' * 490
  assert arithmetic.check(text, [4, 6], 24).is_correct
  assert not arithmetic.check(text[:-1], [4, 6], 24).is_correct


def test_package_exports_the_judge():
  assert verifiers.check_arithmetic is arithmetic.check


def _python_value(text, numbers):
  """The value by Python's own parser, None where `text` breaks the rules."""
  used = []

  def value(node):
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
      return _OPERATORS[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.Constant) and type(node.value) is int:
      used.append(node.value)
      return fractions.Fraction(node.value)
    raise SyntaxError

  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      result = value(ast.parse(text, mode='eval').body)
  except (SyntaxError, ZeroDivisionError):
    return None
  return result if sorted(used) == sorted(numbers) else None


def test_all_short_texts_agree_with_python():
  numbers, num_right = [1, 2], collections.Counter()
  for length in range(1, 6):
    for letters in itertools.product('12+-*/()', repeat=length):
      text = ''.join(letters)
      value = _python_value(text, numbers)
      for target in (1, 2, 3):
        is_right = arithmetic.check(text, numbers, target).is_correct
        assert is_right == (value == target), text
        num_right[target] += is_right
  # 2-1 | 1*2, 2*1, 2/1 | 1+2, 2+1: bare, in brackets, or with one operand so.
  assert num_right == {1: 4, 2: 12, 3: 8}


@st.composite
def _expressions(draw):
  """A random expression: (text, given numbers, value, operation lines)."""
  numbers = draw(st.lists(st.integers(1, 13), min_size=2, max_size=5))
  parts = [(str(n), fractions.Fraction(n)) for n in numbers]
  lines = []
  while len(parts) > 1:
    pair = [
        parts.pop(draw(st.integers(0, len(parts) - 1))) for _ in range(2)]
    (left, a), (right, b) = pair
    sign = draw(st.sampled_from('+-*' if b == 0 else '+-*/'))
    value = _SIGNS[sign](a, b)
    lines.append((a, sign, b, value))
    parts.append((f'({left}{sign}{right})', value))
  text, value = parts[0]
  return text, numbers, value, lines


@hypothesis.given(_expressions())
def test_random_expressions(expression):
  text, numbers, value, _ = expression
  whole = value.denominator == 1
  target = int(value) if whole else 1
  assert arithmetic.check(text, numbers, target).is_correct == whole
  assert arithmetic.check(text[1:-1], numbers, target).is_correct == whole
  assert not arithmetic.check(text, numbers, target + 1).is_correct
  assert not arithmetic.check(text, [*numbers, 1], target).is_correct
  assert not arithmetic.check(text, numbers[1:], target).is_correct
  assert not arithmetic.check(f'-{text}', numbers, -target).is_correct
  assert not arithmetic.check(f'{text}+0', numbers, target).is_correct


@hypothesis.given(_expressions())
def test_random_operation_lines(expression):
  _, numbers, value, lines = expression
  written = '\n'.join(f'{a}{sign}{b}={c}' for a, sign, b, c in lines)
  natural = all(
      n.denominator == 1 and n >= 0 for line in lines for n in
      (line[0], line[2], line[3]))
  target = int(value) if natural else 1
  assert arithmetic.check(written, numbers, target).is_correct == natural
  for k in range(len(lines)):
    a, sign, b, c = lines[k]
    wrong = written.split('\n')
    wrong[k] = f'{a}{sign}{b}={c + 1}'
    assert not arithmetic.check('\n'.join(wrong), numbers, target).is_correct
    del wrong[k]
    assert not arithmetic.check('\n'.join(wrong), numbers, target).is_correct


@hypothesis.given(
    st.one_of(
        st.text(), st.text(alphabet='0123456789+-*/()= \n', max_size=80),
        st.none(), st.integers(), st.binary()),
    st.lists(st.integers(0, 20), max_size=5), st.integers(0, 100))
def test_never_raises(text, numbers, target):
  judgement = arithmetic.check(text, numbers, target)
  assert isinstance(judgement.is_correct, bool)
  assert judgement.reason and '\n' not in judgement.reason
