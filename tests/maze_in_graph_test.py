# SPDX-License-Identifier: Apache-2.0
"""The verdict on ways through mazes in the graph, against plain Python."""

import functools
import itertools
import random
import re

import jax
import numpy as np
import pytest

from meta_cot import tasks
from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.solvers import vocabulary
from meta_cot.tasks import maze as maze_task
from meta_cot.tasks import maze_arrays
from meta_cot.traces import format as format_lib
from tests import random_mazes

SIZE, LENGTH = 12, 64  # of the largest maze; tokens of a text
WORDS = (
    ' create', ' close', ' plan', ' pla', 'plan', ' plan 1', '0 plan ', ' 1 2',
    *(f' {i}' for i in range(12)), *(f'{i} ' for i in range(12)), '10', '11',
    ' c1', ' c10', '', '<eos>')
TOKENS = tuple(dict.fromkeys((
    *WORDS, *'0123456789 planxcreto<>s-',
    *map(''.join, itertools.product('012 plan', repeat=2)))))
IN_GRAPH = maze_arrays.InGraph(SIZE)


def right(problem, text):
  """The verdict by taking the text apart."""
  parts = text.split(' plan')[1:]
  cells = [re.fullmatch(' (0|[1-9][0-9]*) (0|[1-9][0-9]*)', p) for p in parts]
  if not cells or None in cells:
    return False
  cells = [(int(cell[1]), int(cell[2])) for cell in cells]
  ends = [tuple(problem.data[name]) for name in ('start', 'goal')]
  steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(cells)]
  return [cells[0], cells[-1]] == ends and set(cells) <= random_mazes.free(
      problem) and set(steps) <= set(random_mazes.MOVES)


def _way(rng, problem):
  """Mostly a right way, with detours at times; else a walk, or any cells."""
  way = random_mazes.shortest(problem)
  if way is None or rng.random() < 0.1:
    size = problem.data['size']
    way = [(rng.randrange(size), rng.randrange(size)) for _ in range(4)]
  if rng.random() < 0.3:
    at = rng.randrange(len(way))
    (x, y), (dx, dy) = way[at], rng.choice(random_mazes.MOVES)
    way[at + 1:at + 1] = [(x + dx, y + dy), (x, y)]
  return way


def _text(rng, problem):
  number = lambda: rng.randrange(12)
  search = ''.join(
      f' {rng.choice(["create", "close"])} {number()} {number()} c{number()} '
      f'c{number()}' for _ in range(rng.choice([0, 0, 1, 2])))
  plan = ''.join(f' plan {x} {y}' for x, y in _way(rng, problem))
  for _ in range(rng.choice([0, 0, 0, 1, 2])):
    search, plan = _changed(rng, search), _changed(rng, plan)
  return search + plan


def _changed(rng, text):
  """A word or a character lost, added, changed or doubled somewhere."""
  parts = re.findall(' [^ ]*', text) if rng.random() < 0.5 else list(text)
  at = rng.randrange(len(parts) + 1)
  new = rng.choice([*'0123456789 planx', *WORDS])
  kind = rng.randrange(4)
  if kind == 0:
    parts[at:at + 1] = []
  elif kind == 1:
    parts[at:at] = [new]
  elif kind == 2:
    parts[at:at + 1] = [new]
  else:
    parts[at:at] = parts[max(at - 2, 0):at]
  return ''.join(parts)


def _tokens(rng, text):
  """A text cut into tokens, at every place in any of the possible ways."""
  tokens, at = [], 0
  while at < len(text):
    fitting = [t for t in TOKENS if t and text.startswith(t, at)]
    tokens.append('' if rng.random() < 0.02 else rng.choice(fitting))
    at += len(tokens[-1])
  return [TOKENS.index(t) for t in tokens]


@functools.cache
def _judge():
  return jax.jit(jax.vmap(IN_GRAPH.outcome(TOKENS)))


def _verdicts(problems, rows):
  rows_NxM = np.full((len(rows), LENGTH), TOKENS.index('1'), np.int32)
  for row_M, tokens in zip(rows_NxM, rows, strict=True):
    row_M[:len(tokens)] = tokens
  inputs = jax.tree.map(
      lambda *x: np.stack(x), *map(IN_GRAPH.inputs, problems))
  return np.asarray(_judge()(inputs, rows_NxM, np.array([*map(len, rows)])))


def _draw(seed, make=lambda problem: problem):
  """10,000 problems, texts and their tokens."""
  rng, problems, texts, rows = random.Random(seed), [], [], []
  while len(texts) < 10_000:
    problem = random_mazes.draw(rng, rng.randint(2, 7))
    text = _text(rng, problem)
    tokens = _tokens(rng, text)
    if len(tokens) <= LENGTH and (problem := make(problem)):
      problems.append(problem)
      texts.append(text)
      rows.append(tokens)
  return problems, texts, rows


def _check(problems, texts, rows, expected):
  assert 3_000 < sum(expected) < 7_000
  wrong = np.flatnonzero(_verdicts(problems, rows) != expected)
  assert not wrong.size, (problems[wrong[0]].data, texts[wrong[0]])


@pytest.mark.parametrize('seed', [
    0, pytest.param(1, marks=pytest.mark.slow)])
def test_agrees_with_plain_python(seed):
  problems, texts, rows = _draw(seed)
  _check(problems, texts, rows, [
      right(*pair) for pair in zip(problems, texts, strict=True)])


def test_agrees_with_the_task():
  """As texts behind a prompt are read and verified on the host."""
  task, style = tasks.make('maze'), 'searchformer'

  def make(problem):
    # Without walls, what stands right behind a prompt is read as part of it.
    maze = problem.data
    return maze['walls'] and random_mazes.shortest(problem) and (
        maze_task.make_problem(
            maze['size'], maze['start'], maze['goal'], maze['walls']))

  problems, texts, rows = _draw(2, make)
  answers = [
      traces.extract_answer(traces.prompt(problem, style=style) + text, style)
      for problem, text in zip(problems, texts, strict=True)]
  _check(problems, texts, rows, [
      answer is not None and task.verify(problem, answer).is_correct
      for problem, answer in zip(problems, answers, strict=True)])


MAZE = Problem(id='m', question='', answer='', data=dict(
    size=11, start=[9, 0], goal=[10, 1], walls=[[9, 1], [0, 0]]))
WAY = ' plan 9 0 plan 10 0 plan 10 1'


@pytest.mark.parametrize('text, is_right', [
    (WAY, True), (f' close 9 0 c0 c2{WAY}', True), (f' pla{WAY}', True),
    (f' plan{WAY}', False), (f' p{WAY}', True), (f' planet{WAY}', False),
    (f'{WAY} ', False), (f'{WAY} plan', False), (f'{WAY} plan 10', False),
    (f'{WAY} plan 10 0 plan 10 1', True), (f'{WAY}0', False), (WAY[1:], False),
    ('', False), (' plan', False), (' plan 9 0', False), (WAY[:-1], False),
    (f'{WAY[:-1]}01', False), (f'{WAY[:-1]} 1', False),
    (' plan 9 0 plan 9 1 plan 10 1', False),  # through a wall
    (' plan 9 0 plan 10 1', False), (' plan 9 0 plan 9 0' + WAY[9:], False),
    (' plan 9 0 plan 10 0 plan 11 0 plan 10 0 plan 10 1', False),  # outside
    (' plan 10 0 plan 10 1', False), ('<eos>' + WAY, True),
    (f'{WAY}<eos>', False), (' plan 9 0 plan 010 0 plan 10 1', False)])
def test_known_texts(text, is_right):
  rng = random.Random(text)
  assert right(MAZE, text) == is_right
  for _ in range(5):
    assert _verdicts([MAZE], [_tokens(rng, text)]) == [is_right]


def test_it_reads_the_style_of_mazes_alone():
  assert [style for style in format_lib.STYLES if vocabulary.is_in_graph(
      tasks.make('maze'), style, 128)] == ['searchformer']


def test_a_maze_is_put_among_walls():
  found = maze_arrays.InGraph(13).inputs(MAZE)
  is_free = np.argwhere(~found['is_wall'])
  assert set(map(tuple, is_free)) == random_mazes.free(MAZE)
  assert found['is_wall'].shape == (13, 13)
  own = maze_arrays.InGraph().inputs(MAZE)
  assert own['is_wall'].shape == (11, 11)
  for name in ('start', 'goal'):
    assert found[name].tolist() == own[name].tolist() == MAZE.data[name]
    assert found[name].dtype == np.int32
