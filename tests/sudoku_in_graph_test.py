# SPDX-License-Identifier: Apache-2.0
"""The verdict on Sudoku in the graph, against plain Python and the task."""

import functools
import itertools
import random

import jax
import numpy as np
import pytest

from meta_cot import traces
from meta_cot.tasks import sudoku4
from tests import plain_sudoku

TASK = sudoku4.make(sudoku4.Settings(
    min_empty=3, max_empty=10, num_train=400, num_validation=9, num_test=9), 0)
PROBLEMS = list(TASK.problems('train', 0, 400))
LENGTH = 128  # tokens of a text
TOKENS = tuple(dict.fromkeys((
    *'0123456789rc=;,!xS@: ', '', '<eos>', ';r', ';S', '=3;', 'S;', 'S r',
    *(f'r{i}c{j}=' for i in range(1, 5) for j in range(1, 5)),
    *map(''.join, itertools.product('12rc=;S', repeat=2)))))


def _text(rng, problem):
  """A solution behind a search, both damaged at times."""
  steps = problem.answer.split('\n')
  if rng.random() < 0.3:
    rng.shuffle(steps)
  if rng.random() < 0.3:
    steps[rng.randrange(len(steps))] = 'r{}c{}={}'.format(
        *(rng.randint(1, 4) for _ in range(3)))
  search = ''.join(
      step + rng.choice(';;x!') for step in steps[:rng.choice([0, 0, 1, 2])])
  text = f'{search}S{";".join(steps)}'
  for _ in range(rng.choice([0, 0, 0, 1, 2])):
    at, new = rng.randrange(len(text) + 1), rng.choice('1234rc=;S,x 05')
    text = text[:at] + rng.choice(['', new]) + text[at + rng.randint(0, 1):]
  return text


def _tokens(rng, text):
  """A text cut into tokens, at every place in any of the possible ways."""
  tokens, at = [], 0
  while at < len(text):
    fitting = [t for t in TOKENS if t and text.startswith(t, at)]
    tokens.append('' if rng.random() < 0.02 else rng.choice(fitting))
    at += len(tokens[-1])
  return [TOKENS.index(t) for t in tokens]


ENDED = TOKENS.index('<eos>')  # writes what ends the last step


@functools.cache
def _program(part, end):
  texts = [end if i == ENDED else text for i, text in enumerate(TOKENS)]
  return jax.jit(jax.vmap(getattr(TASK.in_graph, part)(texts)))


def _verdicts(problems, rows, part='outcome', end='<eos>'):
  rows_NxM = np.full((len(rows), LENGTH), TOKENS.index('1'), np.int32)
  for row_M, tokens in zip(rows_NxM, rows, strict=True):
    row_M[:len(tokens)] = tokens
  inputs = jax.tree.map(
      lambda *x: np.stack(x), *map(TASK.in_graph.inputs, problems))
  return jax.device_get(_program(part, end)(
      inputs, rows_NxM, np.array([*map(len, rows)])))


def test_agrees_with_plain_python_and_the_task():
  rng = random.Random(0)
  problems = [rng.choice(PROBLEMS) for _ in range(4_000)]
  texts = [_text(rng, problem) for problem in problems]
  verdicts = _verdicts(problems, [_tokens(rng, text) for text in texts])
  assert 1_000 < sum(verdicts) < 3_000
  for problem, text, verdict in zip(problems, texts, verdicts, strict=True):
    solution = text.partition('S')[2].replace(';', '\n')
    is_right = plain_sudoku.is_right(problem.data['givens'], solution)
    assert verdict == is_right, (problem.question, text)
    # As a text behind a prompt is read and verified on the host.
    answer = traces.extract_answer(
        traces.prompt(problem, style='cells') + text, 'cells')
    assert verdict == (
        answer is not None and TASK.verify(problem, answer).is_correct), text


# 1...   1234
# ..12   3412
# 2..3   2143
# 4...   4321
SMALL = sudoku4.make_problem([1, 0, 0, 0, 0, 0, 1, 2, 2, 0, 0, 3, 4, 0, 0, 0])
RIGHT = f'S{SMALL.answer}'.replace('\n', ';')


@pytest.mark.parametrize('text, is_right', [
    (RIGHT, True), (f'r1c2=2;r1c3=4x{RIGHT}', True), ('', False),
    (f'S{RIGHT}', False), (f'{RIGHT};', False), (f'{RIGHT}!', False),
    (f'{RIGHT}<eos>', False), (f'<eos>{RIGHT}', True), ('S', False),
    (RIGHT[1:], False), (RIGHT[:-1], False), (RIGHT[:-7], False),
    (f'{RIGHT};r1c2=2', False), (f'Sr1c1=1;{RIGHT[1:]}', False),
    (RIGHT.replace('r1c2=2', 'r1c2=3'), False),
    (RIGHT.replace('r1c2=2', 'r1c2= 2'), False),
    (RIGHT.replace('r1c2=2', 'r1c2=22'), False),
    (RIGHT.replace(';', ','), False), (RIGHT.replace('r1c', '1c'), False)])
def test_known_texts(text, is_right):
  rng = random.Random(text)
  for _ in range(5):
    assert _verdicts([SMALL], [_tokens(rng, text)]) == [is_right]


def _after(problem, steps):
  """The state of the task behind steps; None: one of them is illegal."""
  state = TASK.states.first(problem)
  for step in steps:
    state = state and TASK.states.after(problem, state, step)
  return state


def test_legal_steps_and_states_of_all_texts_of_two_steps():
  rng = random.Random(0)
  steps = [f'r{r}c{c}={digit}' for r in range(1, 5) for c in range(1, 5)
           for digit in range(1, 5)]
  pairs = [*itertools.product(steps, repeat=2)]
  rows = [_tokens(rng, f'S{a};{b}') for a, b in pairs]
  ended = [row + [ENDED] for row in rows]
  whole = [row + [TOKENS.index(';')] for row in rows]
  problems = [SMALL] * len(rows)
  legal = _verdicts(problems, ended, 'is_legal', ';')
  np.testing.assert_array_equal(
      legal, _verdicts(problems, whole, 'is_legal', ';'))
  grids, is_state = _verdicts(problems, whole, 'state', '\0')
  np.testing.assert_array_equal(is_state, legal)
  for some in (rows, ended):  # in a step; ended
    assert not _verdicts(problems, some, 'state', '\0')[1].any()
  num_open = 0
  for pair, is_legal, grid in zip(pairs, legal, grids, strict=True):
    filled = plain_sudoku.rows(SMALL.data['givens'])
    is_free = True
    for step in pair:
      r, c, digit = (int(x) for x in step[1::2])
      is_free &= not filled[r - 1][c - 1]
      filled[r - 1][c - 1] = digit
    assert is_legal == (is_free and not plain_sudoku.has_clash(filled)), pair
    state = _after(SMALL, pair)
    assert is_legal == (state is not None), pair
    if is_legal:
      assert plain_sudoku.rows(grid.tolist()) == filled, pair
      assert state == '|'.join(
          ''.join(map(str, row)).replace('0', '.') for row in filled)
      num_open += TASK.oracle(SMALL, state)
  # Some that are legal lead nowhere; those of the solution are all there.
  num_empty = SMALL.data['givens'].count(0)
  assert num_open == num_empty * (num_empty - 1) < sum(legal) < len(pairs) / 4


def test_only_what_no_right_text_begins_with_is_illegal():
  rng = random.Random(1)
  problems = [rng.choice(PROBLEMS) for _ in range(4_000)]
  texts = [_text(rng, problem) for problem in problems]
  cuts = [text[:rng.randrange(len(text) + 1)] for text in texts]
  rights = _verdicts(problems, [_tokens(rng, text) for text in texts])
  rows = [_tokens(rng, cut) for cut in cuts]
  legal = _verdicts(problems, rows, 'is_legal', ';')
  grids, is_state = _verdicts(problems, rows, 'state', '\0')
  assert legal[rights > 0].all()
  assert 100 < sum(~legal) and 100 < sum(is_state) < sum(legal) - 1_000
  for problem, cut, is_legal, is_there, grid in zip(
      problems, cuts, legal, is_state, grids, strict=True):
    steps = ''.join(cut.split()).partition('S')[2].split(';')[:-1]
    state = _after(problem, steps)
    assert not is_legal or state is not None, cut
    is_whole = ''.join(cut.split()).endswith((';', 'S')) and 'S' in cut
    assert is_there == (is_legal and is_whole), cut
    if is_there:
      assert state.replace('|', '') == ''.join(
          map(str, grid)).replace('0', '.'), cut
