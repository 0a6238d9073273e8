# SPDX-License-Identifier: Apache-2.0
"""Steps that a task calls illegal, and states, in the graph."""

import functools
import random
import re

import jax
import jax.numpy as jnp
import numpy as np

from meta_cot import search
from meta_cot import tasks
from meta_cot.tasks import countdown
from meta_cot.tasks import maze_arrays
from tests import language_search
from tests import random_mazes

LENGTH, SIZE = 40, 5  # characters of a text; of the largest maze
NUMBERS = '0|[1-9][0-9]*'
STEP = re.compile(f'({NUMBERS})([-+*/])({NUMBERS})=({NUMBERS})')
BEGUN = re.compile(f'(({NUMBERS})([-+*/](({NUMBERS})(=({NUMBERS})?)?)?)?)?')
CHARACTERS = tuple('0123456789+-*/=,Sx plan') + ('',)  # the last ends a text
END = len(CHARACTERS) - 1


def ended(mark):
  return (*CHARACTERS[:-1], mark)


def tokens_of(texts):
  """Rows [B, L] of characters, '$' for the end, and lengths [B]."""
  rows_BxL = np.zeros((len(texts), LENGTH), np.int32)
  for row_L, text in zip(rows_BxL, texts):
    row_L[:len(text)] = [
        END if c == '$' else CHARACTERS.index(c) for c in text]
  return rows_BxL, np.array([*map(len, texts)])


def by_hand(text, numbers):
  """(whether an S text may become right, the numbers left)."""
  steps = text.removesuffix('$').split(',')
  begun = None if text.endswith('$') else steps.pop()
  left = list(numbers)
  for step in steps:
    match = STEP.fullmatch(step)
    if not match:
      return False, None
    a, b, c = (int(match[i]) for i in (1, 3, 4))
    is_true = {'+': a + b == c, '-': a - b == c, '*': a * b == c,
               '/': b != 0 and a == b * c}[match[2]]
    for x in (a, b):
      if x not in left:
        return False, None
      left.remove(x)
    if not is_true:
      return False, None
    left.append(c)
  return begun is None or bool(BEGUN.fullmatch(begun)), (
      left if begun == '' else None)


def random_text(rng, numbers):
  """Operations, most of them true, cut, ended or damaged somewhere."""
  left, text = list(numbers), ''
  while len(left) > 1 and rng.random() < 0.9:
    a, b = rng.sample(left, 2)
    left.remove(a), left.remove(b)
    sign = rng.choice('+*-' if a >= b else '+*')
    result = {'+': a + b, '*': a * b, '-': a - b}[sign]
    left.append(result)
    text += f'{a}{sign}{b}={result + (rng.random() < 0.1)},'
  kind = rng.random()
  if kind < 0.3:
    return text[:-1] + '$'
  if kind < 0.6:
    text = text[:rng.randrange(len(text) + 1)]
  if kind > 0.8 and text:
    at = rng.randrange(len(text))
    text = text[:at] + rng.choice('0123456789+-*/=,x') + text[at + 1:]
  return text


def test_numbers():
  """As by hand; and as the states of the task after whole steps."""
  rng, task = random.Random(0), tasks.make('countdown')
  numbers = [[rng.choice([0, 1, 2, 3, 7, 12]) for _ in range(3)]
             for _ in range(1500)]
  texts = [random_text(rng, n) for n in numbers]
  inputs = dict(numbers=np.array(numbers))
  rows = tokens_of(['S' + text for text in texts])
  legal = jax.jit(jax.vmap(task.in_graph.is_legal(ended(','))))(inputs, *rows)
  left, is_state = jax.jit(jax.vmap(task.in_graph.state(ended('\0'))))(
      inputs, *rows)
  seen = [0, 0, 0]
  for i, (text, given) in enumerate(zip(texts, numbers)):
    expected, expected_left = by_hand(text, given)
    assert bool(legal[i]) == expected, (text, given)
    is_whole = bool(expected and expected_left is not None)
    assert bool(is_state[i]) == is_whole, (text, given)
    seen[0] += expected
    if is_whole:
      assert [x for x in left[i].tolist() if x >= 0] == sorted(expected_left)
      seen[1] += 1
    if text.endswith((',', '$')) and text != '$':
      problem, state = countdown.make_problem(given, 1), ''
      state = task.states.first(problem)
      for step in text.strip(',$').split(','):
        state = state and task.states.after(problem, state, step)
      if not re.search(',,|,\\$|^,', text):
        assert (state is not None) == expected, (text, given)
        seen[2] += 1
  assert 300 < seen[0] < 1300 and seen[1] > 200 and seen[2] > 300


def test_cells_of_a_maze():
  rng, in_graph = random.Random(1), maze_arrays.InGraph(SIZE)
  problems, texts, expected, cells = [], [], [], []
  states = tasks.make('maze').states
  while len(texts) < 600:
    problem = random_mazes.draw(rng, rng.randint(3, SIZE), 0.2)
    if not random_mazes.shortest(problem):
      continue
    size, cell = problem.data['size'], tuple(problem.data['start'])
    way = [cell] if rng.random() < 0.9 else [(0, 0)]
    for _ in range(rng.randrange(3)):
      dx, dy = rng.choice(random_mazes.MOVES)
      way.append((way[-1][0] + dx, way[-1][1] + dy))
    if any(x not in range(size) or y not in range(size) for x, y in way):
      continue
    end = rng.choice([' plan', '$', ''])
    state = states.first(problem)
    for x, y in way if end else way[:-1]:  # the last number may go on
      state = state and states.after(problem, state, f'{x} {y}')
    problems.append(in_graph.inputs(problem))
    texts.append(''.join(f' plan {x} {y}' for x, y in way) + end)
    expected.append(state is not None)
    cells.append(way[-1] if state and end == ' plan' else None)
  inputs = jax.tree.map(lambda *x: np.stack(x), *problems)
  rows = tokens_of(texts)
  legal = jax.jit(jax.vmap(in_graph.is_legal(ended(' plan'))))(inputs, *rows)
  at, is_state = jax.jit(jax.vmap(in_graph.state(ended('\0'))))(inputs, *rows)
  np.testing.assert_array_equal(legal, expected)
  np.testing.assert_array_equal(is_state, [c is not None for c in cells])
  for i, cell in enumerate(cells):
    assert cell is None or tuple(at[i].tolist()) == cell
  assert 100 < sum(expected) < 550 and sum(map(bool, cells)) > 50


def is_even(problem, tokens_M, length):
  del problem
  is_text_M = jnp.arange(tokens_M.shape[0]) < length
  return jnp.sum(jnp.where(is_text_M, tokens_M, 0)) % 2 == 0


def test_an_illegal_step_is_no_node_and_is_paid_for():
  config, params = language_search.make_model()
  one_level = functools.partial(search.beam, beam_width=1, max_depth=1)
  run = lambda **changes: jax.device_get(language_search.run(
      language_search.make_step(config, **changes), one_level, params,
      *language_search.make_prompts(8), jnp.arange(8)).tree)
  free, checked = run(), run(is_legal=is_even)
  np.testing.assert_array_equal(free.num_tokens, checked.num_tokens)
  tokens, lengths = free.embeddings.tokens, free.embeddings.page.length
  totals = np.sum(
      tokens, axis=2, where=np.arange(tokens.shape[2]) < lengths[..., None])
  expected = totals[:, 1:] % 2 == 0
  assert 0 < expected.sum() < expected.size
  np.testing.assert_array_equal(checked.is_valid[:, 1:], expected)
  assert not (checked.is_terminal[:, 1:] & ~expected).any()
