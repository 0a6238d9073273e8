# SPDX-License-Identifier: Apache-2.0
"""The verdict in the graph against the verdict on text."""

import random

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from meta_cot import traces
from meta_cot.verifiers import arithmetic
from meta_cot.verifiers import in_graph
from meta_cot.verifiers import symbols as symbols_lib

LENGTH = 48  # symbols; shorter texts are filled with blanks
_check = jax.jit(in_graph.check)


def _symbols(text):
  table_VxC = symbols_lib.table(list(text), in_graph.ALPHABET)
  symbols_L = np.full(LENGTH, symbols_lib.BLANK, np.int32)
  symbols_L[:len(text)] = table_VxC[:, 0]
  return symbols_L


def _verdict(text, numbers, target):
  return bool(_check(_symbols(text), np.array(numbers), target))


def _expected(text, numbers, target):
  """By the reader of model texts and the verifier on text."""
  answer = traces.extract_answer(f'1,2>3:{text}', 'compact')
  return answer is not None and arithmetic.check(
      answer, numbers, target).is_correct


def _solution(rng, numbers):
  """Random true operations that use up the numbers; (text, last value)."""
  left, steps = list(numbers), []
  while len(left) > 1:
    a, b = rng.sample(range(len(left)), 2)
    x, y = left[a], left[b]
    results = {'+': x + y, '*': x * y}
    if x >= y:
      results['-'] = x - y
    if y and x % y == 0:
      results['/'] = x // y
    sign = rng.choice(sorted(results))
    left = [v for i, v in enumerate(left) if i not in (a, b)]
    left.append(results[sign])
    steps.append(f'{x}{sign}{y}={results[sign]}')
  return 'S' + ','.join(steps), left[0]


def _damaged(rng, text):
  """The text with a few characters changed, lost, added or swapped."""
  text = list(text)
  for _ in range(rng.randint(1, 2)):
    at = rng.randrange(len(text))
    kind = rng.randrange(4)
    if kind == 0:
      text[at] = rng.choice('0123456789+-*/=,S x')
    elif kind == 1 and len(text) > 1:
      del text[at]
    elif kind == 2:
      text.insert(at, rng.choice('0123456789+-*/=,S'))
    else:
      text[at], text[-1] = text[-1], text[at]
  return ''.join(text)


@hypothesis.settings(max_examples=2000)
@hypothesis.given(st.integers(0, 2**32), st.booleans())
def test_agrees_with_the_verifier_on_text(seed, is_damaged):
  rng = random.Random(seed)
  numbers = [rng.choice([0, 1, 2, 3, 7, 10, 12, 99]) for _ in range(3)]
  text, target = _solution(rng, numbers)
  if rng.random() < 0.1:
    target += 1
  if is_damaged:
    text = _damaged(rng, text)
  assert _verdict(text, numbers, target) == _expected(text, numbers, target)


@pytest.mark.parametrize('text, numbers, target, is_right', [
    ('S9-3=6,4*6=24', [4, 9, 3], 24, True),
    ('S9-3=6,4*6=25', [4, 9, 3], 25, False),
    ('S9-3=6', [4, 9, 3], 6, False),
    ('S3-9=6,4*6=24', [4, 9, 3], 24, False),
    ('S9-3=6,4*6=24,', [4, 9, 3], 24, False),
    ('9-3=6,4*6=24', [4, 9, 3], 24, False),
    ('4,9=S9-3=6,4*6=24', [4, 9, 3], 24, True),
    ('S9-3=06,4*6=24', [4, 9, 3], 24, False),
    ('', [4, 9, 3], 24, False),
    ('S0/4=0,0+3=3', [4, 0, 3], 3, True),
    ('S4/0=0,0+3=3', [4, 0, 3], 3, False),
    ('S6/4=1,1+3=4', [4, 6, 3], 4, False),
    ('S65536*65536=0', [65536, 65536], 0, False),
    ('S65537*65537=131073', [65537, 65537], 131073, False),
    ('S30000*30000=900000000', [30000, 30000], 900_000_000, True),
    ('S999999999+999999999=999999999', [999999999] * 2, 999999999, False),
    ('S500000000+1=0500000001', [500000000, 1], 500000001, False),
])
def test_known_solutions(text, numbers, target, is_right):
  assert _verdict(text, numbers, target) is is_right
  assert _expected(text, numbers, target) == is_right


def test_tokens_of_several_characters():
  table = symbols_lib.table(
      ['', 'S', '12', '+', '3=', '15', ',x'], in_graph.ALPHABET)
  symbols = table[[1, 2, 3, 4, 5, 0]].reshape(-1)
  assert bool(in_graph.check(symbols, np.array([3, 12]), 15))
  assert not bool(in_graph.check(
      table[[1, 2, 3, 4, 5, 6]].reshape(-1), np.array([3, 12]), 15))


def test_problems_of_a_batch():
  texts = ['S9-3=6,4*6=24', 'S4+9=13,3+13=16', 'S4+9=13,13-3=10']
  right = jax.vmap(in_graph.check, in_axes=(0, None, 0))(
      np.stack([_symbols(t) for t in texts]), np.array([4, 9, 3]),
      np.array([24, 16, 11]))
  assert right.tolist() == [True, True, False]
