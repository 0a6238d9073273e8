# SPDX-License-Identifier: Apache-2.0
"""Mazes: the generator, A* against plain ones, verdicts, measures."""

import dataclasses
import random

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from meta_cot import tasks
from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks import maze
from meta_cot.traces.grid import astar
from meta_cot.traces.grid import mazes
from tests import plain_astar

SETTINGS = maze.Settings(
    sizes=(5, 8), num_train=400, num_validation=60, num_test=50, min_walls=0.3,
    max_walls=0.5, min_plan=1.0)
TASK = maze.make(SETTINGS, 3)
# .#G
# .#.
# S..   x to the right, y upwards
SMALL = maze.make_problem(3, (0, 0), (2, 2), [(1, 1), (1, 2)])
WAY = '0 0\n1 0\n2 0\n2 1\n2 2'


def _any_maze(seed, size):
  """A maze that need not have a way to its goal."""
  rng = random.Random(seed)
  cells = [[x, y] for y in range(size) for x in range(size)]
  rng.shuffle(cells)
  start, goal, *rest = cells
  walls = rest[:rng.randint(0, len(rest) // 2)]
  return Problem('m', '', '', dict(
      size=size, start=start, goal=goal, walls=walls))


def test_astar_is_that_of_the_rules_token_for_token():
  task = maze.make(dataclasses.replace(
      SETTINGS, sizes=(5, 6, 8, 10), num_train=400), 1)
  dense = list(task.problems('train', 0, 400))
  sparse = []  # many ties, and cells that are created again
  for seed in range(300):
    problem = _any_maze(seed, 4 + seed % 9)
    if plain_astar.stream(problem) is not None:
      sparse.append(maze.make_problem(**problem.data))
  assert len(sparse) > 150
  num_again = 0
  for problem in dense + sparse:
    record = task.teacher.search(problem, 'astar', 0)
    text = traces.render(traces.linearize(record), 'searchformer')
    words = text.removeprefix(problem.question).split(' ')[1:]
    assert words == plain_astar.stream(problem)
    assert problem.answer.count('\n') == plain_astar.shortest(problem)
    states = [node.state for node in record.nodes]
    num_again += len(states) > len(set(states))
  assert num_again > 3


def test_ties_at_random_find_ways_as_short():
  lengths = set()
  for i, problem in enumerate(TASK.problems('train', 0, 40)):
    for seed in range(3):
      record = TASK.teacher.search(problem, 'astar_random', seed)
      assert len(record.solution) - 2 == plain_astar.shortest(problem)
      lengths.add((i, len(record.nodes)))
      events = traces.linearize(record)
      text = traces.render(events, 'searchformer')
      assert traces.parse(text, 'searchformer') == events
  assert len(lengths) > 60


def test_the_beginning_of_the_line_that_searchformer_shows():
  problem = maze.make_problem(10, (1, 3), (5, 8), [(1, 2), (2, 3)])
  record = TASK.teacher.search(problem, 'astar', 0)
  text = traces.render(traces.linearize(record), 'searchformer')
  assert text.startswith(
      'start 1 3 goal 5 8 wall 1 2 wall 2 3 create 1 3 c0 c9 close 1 3 c0 c9 '
      'create 1 4 c1 c8 create 0 3 c1 c10 close 1 4 c1 c8 create')


def test_problems_are_as_the_settings_say():
  assert TASK.splits == ('train', 'validation', 'test_5', 'test_8')
  walls = {5: set(), 8: set()}
  for split in TASK.splits:
    for i, problem in enumerate(TASK.problems(split, 0, TASK.size(split))):
      size = problem.data['size']
      assert size == int(split[5:] or 0) if 'test' in split else (5, 8)[i % 2]
      assert problem.question.startswith(f'size {size} start ')
      walls[size].add(len(problem.data['walls']))
      assert plain_astar.shortest(problem) >= size - 1
      maze_ = mazes.of_question(problem.question)
      assert maze_ == mazes.of_data(problem.data)
      assert list(maze_.walls) == sorted(
          maze_.walls, key=lambda wall: wall[1] * size + wall[0])
  assert walls[5] == set(range(8, 13)) and walls[8] == set(range(19, 33))


def _layouts(task, split):
  return {
      (p.data['size'], str(p.data['walls']))
      for p in task.problems(split, 0, task.size(split))}


def test_layouts_of_walls_are_in_one_kind_of_split():
  small = maze.make(dataclasses.replace(SETTINGS, sizes=(4,)), 0)
  assert small.splits == ('train', 'validation', 'test')
  for task in (TASK, small):
    train, validation, *tests = (_layouts(task, s) for s in task.splits)
    assert not train & validation and not any(
        (train | validation) & test for test in tests)
  more = maze.make(dataclasses.replace(SETTINGS, num_train=3), 3)
  assert list(more.problems('train', 0, 9)) == list(
      TASK.problems('train', 0, 3))
  one, other = (
      list(maze.make(SETTINGS, seed).problems('test_5', 0, 50))
      for seed in (3, 4))
  assert one != other


def test_problems_are_different():
  task = maze.make(dataclasses.replace(SETTINGS, sizes=(6,), num_train=2000), 0)
  problems = list(task.problems('train', 0, 2000))
  assert len({p.id for p in problems}) == 2000


@pytest.mark.parametrize('answer, kind', [
    (WAY, None), ('0 0\n1 0\n0 0\n1 0\n2 0\n2 1\n2 2', None),
    ('0 0\n1 0\n2 0\n2 1', 'wrong_answer'), (WAY[4:], 'illegal_state'),
    ('0 0\n0 1\n1 1\n2 1\n2 2', 'illegal_state'),  # through a wall
    ('0 0\n1 0\n2 0\n3 0\n2 0\n2 1\n2 2', 'illegal_state'),  # and outside
    ('0 0\n2 0\n2 1\n2 2', 'illegal_state'), ('', 'format'),
    (WAY + '\n', 'format'), (WAY.replace('1 0', '01 0'), 'format'),
    (WAY.replace('\n', ' '), 'format'), (WAY.replace('1 0', '1 -0'), 'format'),
    ('0 0\n' * 99_999 + '0 0', 'illegal_state'), (None, 'format')])
def test_verdicts(answer, kind):
  assert SMALL.answer == WAY
  verdict = TASK.verify(SMALL, answer)
  assert verdict.is_correct == (kind is None)
  assert verdict.reason == (kind or 'right')


@pytest.mark.parametrize('changes, message', [
    (dict(walls=[(1, 0), (1, 1), (1, 2)]), 'the goal 2 2 cannot be reached'),
    (dict(goal=(1, 1)), 'different cells'), (dict(goal=(0, 0)), 'different'),
    (dict(goal=(3, 0)), r'in 0\.\.2'), (dict(start=(0, -1)), r'in 0\.\.2'),
    (dict(start=(0, 0, 0)), 'cells x y'), (dict(start=('0', '1')), 'cells x y'),
    (dict(walls=3), 'must have size'), (dict(size=None), 'must have size')])
def test_what_is_no_maze_is_refused(changes, message):
  data = dict(size=3, start=[0, 0], goal=[2, 2], walls=[[1, 1]]) | changes
  problem = Problem('m', '', '', data)
  for read in (lambda: TASK.verify(problem, WAY),
               lambda: TASK.teacher.search(problem, 'astar', 0)):
    with pytest.raises(config_lib.UserError, match=message) as error:
      read()
    assert '\n' not in str(error.value)
  with pytest.raises((config_lib.UserError, TypeError)):
    maze.make_problem(**data)


@hypothesis.given(st.integers(0, 10**6), st.integers(3, 9))
def test_reachable_is_what_astar_reaches(seed, size):
  problem = _any_maze(seed, size)
  if plain_astar.shortest(problem) is None:
    with pytest.raises(config_lib.UserError, match='cannot be reached'):
      maze.make_problem(**problem.data)
  else:
    made = maze.make_problem(**problem.data, has_size=True)
    assert TASK.verify(made, made.answer).is_correct


def _measure(problem, answer, text):
  return TASK.measure(problem, text, answer, TASK.verify(problem, answer))


def test_measures():
  record = TASK.teacher.search(SMALL, 'astar', 0)
  text = traces.render(traces.linearize(record), 'searchformer')
  best = dict(is_optimal=1.0, swc=1.0)
  assert _measure(SMALL, WAY, text) == best | dict(ilr=1.0)
  assert _measure(SMALL, WAY, SMALL.question) == best | dict(ilr=None)
  long = '0 0\n1 0\n0 0\n' + WAY[4:]
  assert _measure(SMALL, long, text + ' close 0 0 c0 c4' * 3) == dict(
      is_optimal=0.0, swc=5 / 7,
      ilr=pytest.approx(text.count(' c') / 3 / (text.count(' c') / 3 + 3)))
  wrong = dict(is_optimal=0.0, swc=0.0, ilr=0.0, error='wrong_answer')
  assert _measure(SMALL, '0 0', text) == wrong
  none = TASK.measure(SMALL, text, None, tasks.Verdict(False, ''))
  assert none == dict(is_optimal=0.0, swc=0.0, ilr=0.0)


def test_a_variation_lists_the_same_walls_otherwise():
  problem = next(TASK.problems('train', 0, 1))
  varied = TASK.vary(problem, np.random.default_rng(0))
  assert varied.question != problem.question
  assert sorted(varied.data['walls']) == sorted(problem.data['walls'])
  assert mazes.of_question(varied.question) == mazes.of_data(varied.data)


def test_impossible_settings_are_one_line():
  with pytest.raises(config_lib.ConfigError, match='min_walls: got 0.6; must'):
    dataclasses.replace(SETTINGS, min_walls=0.6)
  task = maze.make(dataclasses.replace(
      SETTINGS, sizes=(3,), min_plan=2.0, min_walls=0.7, max_walls=0.7), 0)
  with pytest.raises(config_lib.ConfigError, match='min_plan: got 2.0; among'):
    list(task.problems('train', 0, 1))


def test_the_teacher_knows_its_strategies():
  with pytest.raises(ValueError, match='must be one of astar, astar_random'):
    TASK.teacher.search(SMALL, 'dfs', 0)
  with pytest.raises(ValueError, match='no way leads to the goal 2 2'):
    astar.search(mazes.Maze((0, 0), (2, 2), ((1, 2), (2, 1)), 3))
