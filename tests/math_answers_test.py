# SPDX-License-Identifier: Apache-2.0
"""Answers of mathematics: what is equal, what is not, what is found."""

from fractions import Fraction

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import verifiers
from meta_cot.verifiers import math
from meta_cot.verifiers.math import exact
from meta_cot.verifiers.math import reader

# Pairs of one kind on a line: what is right, what was answered.
EQUAL = [
    ('2/3', r'\frac{2}{3}'), ('2/3', r'\dfrac23'), ('-1/2', r'-\frac{1}{2}'),
    ('10/9', r'\cfrac{10}{9}'), (r'\frac12', '0.5'), ('.4', '0.4'),
    ('13', r'\text{13}'), ('13', r'\mathbf{13}'), ('13', r'\boxed{13}'),
    ('1,234', '1234'), ('1234', r'1{,}234'), ('1234567', r'1,\!234,\!567'),
    ('1000', '1000.0'), ('1000.99', '$1,000.99$'), (r'\$1,000', '1000 dollars'),
    ('12', '12 apples'), ('12', r'12\text{ cm}^2'), ('12', '12 cm^2'),
    ('60 miles per hour', '60'), ('60', r'60 \text{ miles/hour}'),
    ('90^\\circ', '90'), ('90', '90°'), ('90', r'90^{\circ}'),
    ('50%', '50'), (r'50\%', '0.5'), (r'28\%', '28 percent'), ('$5.00', '5'),
    ('7 3/4', '31/4'), (r'7\frac{3}{4}', '7.75'), ('1e3', '1000'),
    (r'1.5 \times 10^{3}', '1500'), ('2^{10}', '1024'), ('10!', '3628800'),
    (r'\sqrt{16}', '4'), (r'\binom{5}{2}', '10'), (r'\log_2 8', '3'),
    ('sqrt(8)', r'2\sqrt{2}'), (r'\frac{\sqrt{2}}{2}', r'\frac{1}{\sqrt2}'),
    (r'11\sqrt{2}', r'11 \cdot \sqrt{2}'), (r'\sqrt[3]{54}', r'3\sqrt[3]{2}'),
    (r'\sin^2 x + \cos^2 x', '1'), (r'\frac{\pi}{2}', r'0.5\pi'),
    ('(x+1)^2', 'x^2+2x+1'), ('n(n+1)/2', '(n^2+n)/2'), ('2-2p', '-2(p-1)'),
    (r'e^{i\pi}', '-1'), ('|x|', '|-x|'), (r'\lfloor 7/2 \rfloor', '3'),
    ('x=5', '5'), ('5', 'x = 5'), ('x=1, x=2', '1, 2'), ('y=2x+1', '2x-y=-1'),
    ('1 or 2', '2,1'), ('3,4,5', '5, 4, and 3'), (r'5 \text{ or } 6', '6,5'),
    (r'\{1,2\}', '{2, 1}'), (r'2\pm\sqrt{3}', r'2+\sqrt3, 2-\sqrt3'),
    (r'x = \pm 3', '-3, 3'), ('(3,4)', '( 3 , 4 )'), ('[1,2)',
    r'\left[1,2\right)'),
    (r'x \in (1,\infty)', r'(1,\infty)'), ('x>3', '3<x'), (r'x\ge 2', '2 <= x'),
    (r'(-\infty,1)\cup(2,\infty)', r'(2,\infty)\cup(-\infty, 1)'),
    (r'\begin{pmatrix}1&2\\3&4\end{pmatrix}',
     r'\begin{bmatrix} 1 & 2 \\ 3 & \frac{8}{2} \end{bmatrix}'),
    ('0.3333', '1/3'), ('1/3', '0.333'), (r'\pi', '3.14159'), ('3.14', r'\pi'),
    ('2.50', '5/2'), (r'\text{Tuesday}', 'tuesday.'), ('(B)', 'B'),
]
DIFFERENT = [
    ('1/1000000', '1/1000001'), (f'1/{10**22}', f'1/{10**22 + 1}'),
    ('0', '1/1000000'), ('1,2', '1,3'), ('1,2', '12'), ('(1,2)', '[1,2]'),
    ('(1,2)', '(2,1)'), ('{1,2}', '{1,2,3}'), ('{1,1,2}', '{1,2,2}'),
    ('x=x', 'y=y'), ('x+1=x+1', '2=2'), ('x-y=0', 'x+y=0'), ('y=2x', 'y=3x'),
    ('20', '20 or 22'), ('20 or 22', '20'), ('7 3/4', '73/4'),
    ('1-1/e', '1+1/e'), ('5', '6'), ('5', '-5'), ('x<3', 'x>3'),
    ('x<3', r'x\le 3'), ('0.5', '0.54'), ('2.5', '2.46'), ('0.33', '0.34'),
    ('x', 'y'), ('x^2', 'x^3'), ('1234', '1,235'), ('100', '1'),
    ('', '5'), ('5', ''), (r'\sqrt{2}', '1.4'), ('1/3', '0.33'), ('1/3', '0.3'),
    ('x=5', 'y'), ('x=5', 'y=5'), ('Tuesday', 'Monday'), ('e', '2.7'),
    ('28', '0.28'), ('28/100', '28'), (r'\infty', r'-\infty'), ('2', 'azyuk2a'),
    (r'\begin{pmatrix}1&2\end{pmatrix}', r'\begin{pmatrix}1\\2\end{pmatrix}'),
    (r'\sqrt{x^2}', 'x'), ('0.00', '1/1000'), ('3.14159', '3.14'),
]


@pytest.mark.parametrize('gold, answer', EQUAL)
def test_equal(gold, answer):
  assert math.verdict(gold, answer).is_correct


def test_the_public_name_judges_within_its_time():
  assert verifiers.math_equal('(x+1)^2', 'x^2+2x+1')
  assert not verifiers.math_equal('5', '6', timeout_s=1.0)
  # Time for algebra runs out: not equal, and nothing is raised.
  assert not verifiers.math_equal('(x+1)^2', 'x^2+2x+1', timeout_s=1e-6)


@pytest.mark.parametrize('gold, answer', DIFFERENT)
def test_different(gold, answer):
  found = math.verdict(gold, answer)
  assert not found.is_correct and found.is_decided


# Examples of math-verify (github.com/huggingface/Math-Verify), out of its
# tests/test_all.py without the texts around them, and what it says of them.
THEIRS = [
    ('-5', '-5', 1), ('7425000', '7,425,000', 1), ('1000.0', '1,000.0', 1),
    ('1000.99', '1,000.99€', 1), ('2', 'AZYUK2A', 0),
    ('10/9', r'\frac{10}{9}', 1),
    ('[0,1)', '[0,1)', 1), ('[0,9)', '[0,1)', 0), ('(0,9)', '[0,9)', 0),
    ('1', '-[0,1)', 0), ('10', '(9+1)', 1), ('1', r'\frac3{3}', 1),
    ('1/3', r'\left( \frac{1}{3} \right)', 1), ('1/3', r'k = \frac{1}{3}', 1),
    ('1/3', r'\frac{1}{3} \textbf{meters}', 1), (r'28\%', '28 pct', 1),
    ('0.28', '28', 0), ('28', '28/100', 0), (r'28*\frac{1}{100}', '28', 0),
    (r'14{,}916', '14916', 1), ('12 and 13', r'12\text{ and }13', 1),
    (r'15\mbox{ cm}^2', '15', 1), ('-2,1', '1,-2', 1), ('204_5', '204_5', 1),
    (r'1 \pm \sqrt{19}', r'1 \pm \sqrt{19}', 1),
    (r'\{1\pm\sqrt{5},-2\}', r'\{1\pm\sqrt{5},-2\}', 1),
    (r'2 \sin b \cos a', r'2 \cos a \sin b', 1),
    (r'\frac{9}{4}\pi', r'\frac94\pi', 1),
    ('125 miles', r'125\textnormal{ miles}', 1),
    (r'[-1, -\frac{1}{2}) \cup (0, 1)', r'(0, 1) \cup [-1, -\tfrac12)', 1),
    ('x >= 5', r'x \geq 5', 1), ('x != 3', r'x \neq 3', 1),
    ('x > 5', 'x < 5', 0),
    (r'x \leq 5', r'5 \geq x', 1), ('x = 11', 'x = 5+5+1 = 7 = 11', 1),
    ('7 = 11a+c', '11a+c', 0), ('11', r'x\approx11', 1),
    ('x < 1', '-x > -1', 1),
    ('x < 1', 'x > -1', 0), ('x <= 1', '-x >= -1', 1), ('a + 3z = 0', '0', 0),
    ('k=1', '1', 1), ('z = 1 + 1 = 2', 'z = 3+3 = 2', 1),
    ('2x + z = 1', '1', 0),
    ('2x+4y-3=0', r'y=-\frac{1}{2}x+\frac{3}{4}', 1),
    ('x^2/4 + y^2/3 = 1', 'x^2/16 + y^2/12 = 1/4', 1),
    (r'\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}',
     r'\left[\begin{array}{cc}1 & 2 \\3 & 4\end{array}\right]', 1),
    (r'\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}',
     r'\begin{pmatrix}1 & 2 \\ 3 & 5\end{pmatrix}', 0),
    (r'\frac{1}{12}', '0.0833333333333333', 1),
    (r'(1,\frac{9}{2})', '(1,4.5)', 1),
    (r'\frac{x+2}{7}', r'\frac{x}{7}+\frac{2}{7}', 1),
    (r'\tan^2(y)+1', r'\sec^2(y)', 1), ('(3,1)', '{1,3}', 0),
    ('x-2y+z-1=0', 'x-2y+z-1=0', 1), (r'\text{C}', r'\text{(C)}', 1),
    ('11111111100', r'11,\! 111,\! 111,\! 100', 1), ('32349', '32, 349', 0),
    (r'\text{E}', 'E', 1), (r'-2 \le x \le 7', r'x \in [-2,7]', 1),
    ('4.123105625617661', r'\sqrt{17}', 1), ('4', r'4\sqrt{2}', 0),
    (r'\frac{1}{3}', r'\frac{1}{3}.', 1), (r'\sqrt{2}', r'\sqrt{2}.', 1),
    ('(1,2)', '(1,2).', 1), ('5', r'5 \text{ cm}.', 1), ('42', '42.', 1),
    ('2', '2^{10}.', 0), ('1', '1/3.', 0), ('1, 2, 3', '1, 2, 3, ...', 0)]
OTHERWISE = [  # why
    (r'\text{13}', '13', 0, 'a number is a number, however it is set'),
    ('(1,3)', '{1,3}', 1, 'a pair is no set'),
    ('1000', '1 000', 1, 'two numbers; a blank groups no digits'),
    ('1000.99', '1000,99', 1, 'a list; a comma is no point'),
    (r'\begin{pmatrix}6&8\end{pmatrix}', r'\begin{pmatrix}1&2\end{pmatrix}+'
     r'\begin{pmatrix}5&6\end{pmatrix}', 1, 'matrices are not added here'),
    (r'x \in [-2,7]', r'-2 \le x \le 7', 0, 'the same set, whoever says it'),
    ('1/3', r'x=1/3\approx1.3', 1, 'what is said last counts'),
]


@pytest.mark.parametrize('gold, answer, wanted', THEIRS)
def test_agrees_with_math_verify(gold, answer, wanted):
  assert math.equal(gold, answer) == wanted


@pytest.mark.parametrize('gold, answer, theirs, why', OTHERWISE)
def test_differs_from_math_verify_for_a_reason(gold, answer, theirs, why):
  assert why and math.equal(gold, answer) != theirs


@pytest.mark.parametrize('text, answer', [
    (r'so \boxed{5}.', '5'), (r'\boxed{1} and then \boxed{2}', '2'),
    (r'\boxed{\frac{1}{\sqrt{2}}}', r'\frac{1}{\sqrt{2}}'),
    (r'\boxed{\{1,2\}}', r'\{1,2\}'), (r'\boxed 7', '7'), (r'\fbox{3}', '3'),
    (r'\boxed{1} \boxed{2', '1'), ('steps\n#### 1,234\n', '1,234'),
    ('#### 3\n#### 4', '4'), ('The answer is 42.', '42'),
    ('The final answer is $3.50. Done.', '$3.50'), ('**Answer:** 7', '7'),
    ('Answer: x = 3\nmore', 'x = 3'), ('I do not know', None), ('', None),
    (r'\boxed{}', ''), ('####', None),
])
def test_final_answers(text, answer):
  assert math.final_answer(text) == answer


@hypothesis.given(
    st.integers(-10**9, 10**9), st.integers(1, 10**6), st.integers(1, 50))
def test_one_fraction_in_many_notations(above, below, factor):
  value = Fraction(above, below)
  sign = '-' if above < 0 else ''
  for text in (
      f'{above}/{below}', rf'\frac{{{above}}}{{{below}}}',
      f'{above * factor}/{below * factor}',
      rf'{sign}\dfrac{{{abs(above) * factor:,}}}{{{below * factor}}}',
      f'({above}) / {below} apples', rf'x = {above} \div {below}'):
    assert math.equal(str(value), text), text
  assert not math.equal(str(value), f'{above * factor + 1}/{below * factor}')


def _write(tree_of) -> str:
  """Writes nested (operation, left, right) of whole numbers."""
  if isinstance(tree_of, int):
    return str(tree_of) if tree_of >= 0 else f'({tree_of})'
  sign, left, right = tree_of
  left, right = _write(left), _write(right)
  return {'/': rf'\frac{{{left}}}{{{right}}}',
  '^': f'({left})^{{{right}}}'}.get(
      sign, f'({left}{sign}{right})')


def _value(tree_of) -> Fraction:
  if isinstance(tree_of, int):
    return Fraction(tree_of)
  sign, left, right = tree_of
  left, right = _value(left), _value(right)
  return {'+': lambda: left + right, '-': lambda: left - right,
          '*': lambda: left * right, '/': lambda: left / right,
          '^': lambda: left**int(right)}[sign]()


@hypothesis.given(st.recursive(
    st.integers(-9, 99), lambda inner: st.one_of(
        st.tuples(st.sampled_from('+-*/'), inner, inner),
        st.tuples(st.just('^'), inner, st.integers(0, 3))), max_leaves=8))
def test_exact_values_are_those_of_plain_python(tree_of):
  try:
    wanted = _value(tree_of)
  except ZeroDivisionError:
    wanted = None
  assert exact.rational(reader.read(_write(tree_of))) == wanted


@hypothesis.given(st.text(max_size=40), st.text(
    alphabet=r'\{}()[]|^_!%,;&$=<>+-*/.0123xyefracsqrtbegin ', max_size=60))
def test_no_text_raises_and_every_text_is_equal_to_itself(gold, answer):
  assert math.equal(answer, answer) and math.equal(gold, gold)
  math.final_answer(gold + answer)
  for text in (gold, answer):
    try:
      reader.read(text)
    except ValueError as e:
      assert str(e)
