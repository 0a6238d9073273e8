# SPDX-License-Identifier: Apache-2.0
"""Task sudoku4: grids, solver, splits, verdicts, states, the teacher."""

import collections
import dataclasses
import itertools
import random

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from meta_cot import tasks
from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks import sudoku4
from meta_cot.tasks import sudoku_symmetry
from meta_cot.traces.sudoku import grids
from tests import plain_sudoku

SETTINGS = sudoku4.Settings(
    min_empty=7, max_empty=12, num_train=600, num_validation=10_000,
    num_test=10_000)
TASK = sudoku4.make(SETTINGS, 3)
PROBLEMS = list(TASK.problems('train', 0, 600))
# 1...   1234
# ..12   3412
# 2..3   2143
# 4...   4321
SMALL = sudoku4.make_problem([1, 0, 0, 0, 0, 0, 1, 2, 2, 0, 0, 3, 4, 0, 0, 0])


def _keys(problems):
  return sudoku_symmetry.canonical(
      np.array([p.data['givens'] for p in problems])).tolist()


@hypothesis.given(
    st.integers(0, 287), st.integers(0, 14), st.integers(0, 10**9))
@hypothesis.settings(deadline=None, max_examples=60)
def test_the_solver_finds_what_trying_everything_finds(index, num_empty, seed):
  rng = random.Random(seed)
  puzzle = plain_sudoku.lose(rng, grids.complete()[index], num_empty)
  if rng.random() < 0.3:  # mostly one without a solution
    cell = rng.choice([i for i in range(16) if puzzle[i]])
    puzzle[cell] = rng.randint(1, 4)
  found = sorted(
      tuple(sum(grid, []))
      for grid in plain_sudoku.fill(plain_sudoku.rows(puzzle)))
  assert grids.solutions(puzzle) == found
  assert grids.num_solutions(puzzle) == len(found)
  for full in (grids.complete()[index], *found[:3]):
    assert grids.is_solution(tuple(puzzle), full) == (full in found)


def test_problems_have_one_solution_and_their_settings():
  num_empty = collections.Counter()
  for problem in PROBLEMS[:200]:
    puzzle = plain_sudoku.rows(problem.data['givens'])
    (solution,) = plain_sudoku.fill(puzzle)
    assert plain_sudoku.is_right(problem.data['givens'], problem.answer)
    num_empty[problem.data['givens'].count(0)] += 1
    assert grids.of_question(problem.question) == tuple(problem.data['givens'])
    steps = [grids.step(line) for line in problem.answer.split('\n')]
    assert steps == sorted(steps) and all(
        solution[cell // 4][cell % 4] == digit for cell, digit in steps)
  assert set(num_empty) >= {7, 8, 9, 10} and max(num_empty) <= 12


def test_no_class_is_in_two_splits():
  keys = {split: _keys(TASK.problems(split, 0, TASK.size(split)))
          for split in TASK.splits}
  for a, b in itertools.combinations(keys.values(), 2):
    assert not set(a) & set(b)
  for split in ('validation', 'test'):
    assert len(keys[split]) == len(set(keys[split])) == TASK.size(split)
  # All classes with so many empty cells are in some split.
  classes = sudoku_symmetry.classes()
  total = (classes.num_empty >= 7).sum()
  assert len(keys['validation']) == pytest.approx(0.1 * total, rel=0.2)
  assert len(keys['test']) == pytest.approx(0.3 * total, rel=0.1)


def test_training_problems_are_all_different_up_to_the_last():
  settings = sudoku4.Settings(
      min_empty=12, max_empty=12, num_train=10**6, num_validation=0, num_test=0)
  for seed in range(3):
    task = sudoku4.make(settings, seed)
    size = task.size('train')
    classes = sudoku_symmetry.classes()
    assert 0 < size < classes.sizes[classes.num_empty == 12].sum()
    some = [*range(0, 40), *range(size - 40, size)]
    problems = [next(task.problems('train', i, i + 1)) for i in some]
    assert len({p.id for p in problems}) == len(some)
    assert not list(task.problems('train', size, size + 5))
    sizes = {key: len(sudoku_symmetry.members(sudoku_symmetry.of_key(key)))
             for key in _keys(problems)}
    assert sum(sizes.values()) == size
  assert len({p.id for p in PROBLEMS}) == len(PROBLEMS)
  first = collections.Counter(_keys(PROBLEMS))
  assert set(first.values()) == {1}  # the classes take turns


def test_more_problems_leave_the_others_as_they_are():
  few = sudoku4.make(dataclasses.replace(SETTINGS, num_train=5), 3)
  assert list(few.problems('train', 0, 9)) == PROBLEMS[:5]
  other = sudoku4.make(SETTINGS, 4)
  assert list(other.problems('test', 0, 5)) != list(TASK.problems('test', 0, 5))


def _changed(rng, answer):
  """A step lost, changed, doubled or moved somewhere."""
  steps = answer.split('\n')
  for _ in range(rng.choice([0, 1, 1, 2])):
    at, kind = rng.randrange(len(steps)), rng.randrange(5)
    cell, digit = (rng.randint(1, 4) for _ in range(2))
    if kind == 0 and len(steps) > 1:
      del steps[at]
    elif kind == 1:
      steps[at] = f'{steps[at][:-1]}{digit}'
    elif kind == 2:
      steps[at] = f'r{rng.randint(1, 4)}c{cell}={digit}'
    elif kind == 3:
      steps.insert(at, rng.choice(steps))
    else:
      rng.shuffle(steps)
  return '\n'.join(steps)


def test_verdicts_are_those_of_plain_python():
  rng, num_right = random.Random(0), 0
  for problem in PROBLEMS:
    answer = _changed(rng, problem.answer)
    verdict = TASK.verify(problem, answer)
    assert verdict.is_correct == plain_sudoku.is_right(
        problem.data['givens'], answer)
    num_right += verdict.is_correct
  assert 200 < num_right < 400


@pytest.mark.parametrize('answer, kind', [
    (SMALL.answer, None), ('\n'.join(SMALL.answer.split('\n')[::-1]), None),
    (SMALL.answer[7:], 'wrong_answer'), ('r1c2=2', 'wrong_answer'),
    (f'{SMALL.answer}\nr1c2=2', 'illegal_state'),
    (f'r1c1=1\n{SMALL.answer}', 'illegal_state'),  # a given
    (SMALL.answer.replace('r1c2=2', 'r1c2=1'), 'illegal_state'),
    ('', 'format'), (f'{SMALL.answer}\n', 'format'), ('r1c2=0', 'format'),
    ('r1c5=1', 'format'), ('r1c2=2 r1c3=3', 'format'), (None, 'format'),
    ('r1c2=2\n' * 99_999 + 'r1c2=2', 'illegal_state')])
def test_kinds_of_verdicts(answer, kind):
  verdict = TASK.verify(SMALL, answer)
  assert (verdict.is_correct, verdict.reason) == (kind is None, kind or 'right')


@pytest.mark.parametrize('givens, message', [
    ([0] * 16, 'has 288 solutions; a puzzle must have one'),
    ([1, 1] + [0] * 14, 'has 0 solutions'),
    ([1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1], 'an empty cell'),
    ([1] * 15, '16 digits'), ([5] * 16, '16 digits'), ([True] * 16, '16 dig'),
    ('1' * 16, '16 digits'), (None, '16 digits')])
def test_what_is_no_puzzle_is_refused(givens, message):
  problem = Problem('s', '', '', dict(givens=givens))
  for read in (lambda: TASK.verify(problem, SMALL.answer),
               lambda: TASK.teacher.search(problem, 'depth_first', 0)):
    with pytest.raises(config_lib.UserError, match=message) as error:
      read()
    assert '\n' not in str(error.value)


def test_states_along_a_solution():
  states = TASK.states
  state = states.first(SMALL)
  assert state == '1...|..12|2..3|4...'
  for number, step in enumerate(SMALL.answer.split('\n')):
    assert states.after(SMALL, state, 'r1c1=1') is None
    assert states.after(SMALL, state, f'{step} ') is None
    assert states.after(SMALL, state, f'{step[:-1]}5') is None
    state = states.after(SMALL, state, step)
    assert state.count('.') == states.max_steps(SMALL) - number - 1
    assert states.after(SMALL, state, step) is None
  assert state == '1234|3412|2143|4321'
  for other in ('', 'start', state[1:], state.replace('1', '5')):
    assert states.after(SMALL, other, 'r1c2=2') is None
    assert not TASK.oracle(SMALL, other)


@hypothesis.given(st.sampled_from(PROBLEMS), st.integers(0, 10**9))
@hypothesis.settings(deadline=None)
def test_legal_steps_and_reachability_are_those_of_plain_python(problem, seed):
  rng, states = random.Random(seed), TASK.states
  state = states.first(problem)
  (solution,) = plain_sudoku.fill(plain_sudoku.rows(problem.data['givens']))
  while state is not None:
    grid = plain_sudoku.rows(grids.of_state(state))
    found = list(plain_sudoku.fill(grid))
    assert TASK.oracle(problem, state) == (solution in found)
    after = {}
    for cell, digit in itertools.product(range(16), range(1, 5)):
      r, c = divmod(cell, 4)
      text = f'r{r + 1}c{c + 1}={digit}'
      after[text] = states.after(problem, state, text)
      copy = [list(row) for row in grid]
      copy[r][c] = digit
      is_legal = not grid[r][c] and not plain_sudoku.has_clash(copy)
      expected = '|'.join(
          ''.join(str(d or '.') for d in row) for row in copy)
      assert after[text] == (expected if is_legal else None)
    legal = [text for text, new in after.items() if new]
    state = after[rng.choice(legal)] if legal else None


def test_the_teacher_tries_cells_in_order_and_comes_to_dead_ends():
  num_dead = 0
  for problem in PROBLEMS[:200]:
    tried = [n.step for n in TASK.teacher.search(
        problem, 'depth_first', 0).nodes]
    assert tried == [''] + _tried(problem.data['givens'])
    for seed in range(2):
      record = TASK.teacher.search(problem, 'depth_first_random', seed)
      steps = [record.nodes[i].step for i in record.solution[1:]]
      assert '\n'.join(steps) == problem.answer
      num_dead += sum(
          n.is_terminal and not n.is_correct for n in record.nodes)
  assert num_dead > 100
  assert TASK.teacher.search(problem, 'depth_first_random', 0) == (
      TASK.teacher.search(problem, 'depth_first_random', 0))


def _tried(givens):
  """The steps of a search by the rules, until the grid is full."""
  steps = []

  def go_on(grid):
    cell = next(((r, c) for r in range(4) for c in range(4)
                 if not grid[r][c]), None)
    if cell is None:
      return True
    for digit in range(1, 5):
      copy = [list(row) for row in grid]
      copy[cell[0]][cell[1]] = digit
      if not plain_sudoku.has_clash(copy):
        steps.append(f'r{cell[0] + 1}c{cell[1] + 1}={digit}')
        if go_on(copy):
          return True
    return False

  assert go_on(plain_sudoku.rows(givens))
  return steps


def _measure(answer):
  return TASK.measure(SMALL, '', answer, TASK.verify(SMALL, answer))


def test_measures():
  steps = SMALL.answer.split('\n')
  assert _measure(SMALL.answer) == dict(kept=1.0)
  assert _measure(steps[0]) == dict(kept=0.1, error='wrong_answer')
  assert _measure('\n'.join(steps[:4] + ['r1c1=1'] + steps[4:])) == dict(
      kept=0.4, error='illegal_state')
  assert _measure('r1c2=3') == dict(kept=0.0, error='wrong_answer')
  assert _measure('?') == dict(kept=0.0, error='format')
  assert TASK.measure(SMALL, '', None, tasks.Verdict(False, '')) == dict(
      kept=0.0)


def test_a_variation_lists_the_same_givens_otherwise():
  problem = PROBLEMS[0]
  varied = TASK.vary(problem, np.random.default_rng(0))
  assert varied.question != problem.question
  assert sorted(varied.question.split(',')) == problem.question.split(',')
  assert dataclasses.replace(varied, question=problem.question) == problem


def test_the_teacher_and_settings_refuse_in_one_line():
  with pytest.raises(ValueError, match="strategy: got 'dfs'; must be one of"):
    TASK.teacher.search(SMALL, 'dfs', 0)
  with pytest.raises(config_lib.ConfigError, match='min_empty: got 9; must'):
    dataclasses.replace(SETTINGS, min_empty=9, max_empty=8)


def test_traces_read_as_prose_too():
  for problem in PROBLEMS[:20]:
    record = TASK.teacher.search(problem, 'depth_first', 0)
    events = traces.linearize(record)
    text = traces.render(events, 'prose')
    assert traces.parse(text, 'prose') == events
    assert TASK.verify(
        problem, traces.extract_answer(text, 'prose')).is_correct
