# SPDX-License-Identifier: Apache-2.0
"""Game of 24: its puzzles, splits, rank file, teacher and verdicts."""

import dataclasses
import fractions
import itertools

import jax
import numpy as np
import pytest

from configs import game24 as game24_config
from meta_cot import tasks
from meta_cot import traces
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import game24

SETTINGS = game24.Settings(
    rank_file=None, num_train=3000, num_validation=100, num_test=100,
    max_value=None, operands='descending')


def _puzzle(problem):
  return tuple(sorted(problem.data['numbers']))


def _puzzles(task, split):
  return [_puzzle(p) for p in task.problems(split, 0, task.size(split))]


def _makes_24(values):
  """Whether some order of operations on two values at a time makes 24."""
  if len(values) == 1:
    return values[0] == 24
  for i, j in itertools.permutations(range(len(values)), 2):
    a, b = values[i], values[j]
    rest = [v for k, v in enumerate(values) if k not in (i, j)]
    results = [a + b, a - b, a * b] + ([a / b] if b else [])
    if any(_makes_24([*rest, r]) for r in results):
      return True
  return False


def _brute_force():
  """As `_makes_24`, in float64 first: exact only where that is near."""
  for numbers in itertools.combinations_with_replacement(range(1, 14), 4):
    values = np.array([numbers], float)
    for n in (4, 3, 2):
      parts = []
      for i, j in itertools.combinations(range(n), 2):
        a, b = values[:, i], values[:, j]
        rest = values[:, [k for k in range(n) if k not in (i, j)]]
        with np.errstate(divide='ignore', invalid='ignore'):
          results = (a + b, a * b, a - b, b - a, a / b, b / a)
        parts += [np.column_stack([rest, r]) for r in results]
      values = np.concatenate(parts)
    if (np.abs(values - 24) < 1e-6).any() and _makes_24(
        list(map(fractions.Fraction, numbers))):
      yield numbers


def test_there_are_1362_puzzles_as_brute_force_finds_them():
  task = tasks.make('game24', dataclasses.replace(SETTINGS, num_train=0))
  found = [p for split in task.splits for p in _puzzles(task, split)]
  assert len(found) == len(set(found)) == 1362
  assert sorted(found) == list(_brute_force())


@pytest.mark.parametrize('numbers, answer, is_correct', [
    ((3, 3, 8, 8), '8/(3-8/3)', True),  # fractions on the way
    ((1, 5, 5, 5), '5*(5-1/5)', True),
    ((4, 9, 3, 1), '9-3=6\n4*6=24\n24*1=24', True),
    ((4, 9, 3, 1), '(9-3)*4*1', True),
    ((4, 9, 3, 1), '(9-3)*4', False),  # 1 is left
    ((4, 9, 3, 1), '(9-3)*4*1*1', False),
    ((3, 3, 8, 8), '8/(3-3)*8', False),
    ((4, 9, 3, 1), '9-3=5\n4*5=24\n24*1=24', False),
    ((4, 9, 3, 1), '', False), ((4, 9, 3, 1), '24', False),
    ((4, 9, 3, 1), 'import os', False), ((4, 9, 3, 1), None, False)])
def test_the_verifier_is_exact(numbers, answer, is_correct):
  problem = tasks.Problem('p', '?', '24', {'numbers': numbers, 'target': 24})
  assert tasks.make('game24').verify(problem, answer).is_correct == is_correct


@pytest.mark.parametrize('num_train', [0, 3000])
def test_no_puzzle_is_in_two_splits(num_train):
  task = tasks.make(
      'game24', dataclasses.replace(SETTINGS, num_train=num_train), 3)
  train, validation, test = (_puzzles(task, s) for s in task.splits)
  assert len(validation) == len(test) == 100
  assert len(train) == (num_train or 1162)
  assert len({*train, *validation, *test}) == 1362
  assert len(set(train)) == 1162 and len({*validation, *test}) == 200
  other = tasks.make('game24', SETTINGS, 4)
  assert set(_puzzles(other, 'test')) != set(test)


def test_training_repeats_puzzles_in_other_orders():
  task = tasks.make('game24', SETTINGS)
  problems = list(task.problems('train', 0, 3000))
  first, again = problems[:1162], problems[1162:2324]
  assert list(map(_puzzle, first)) == list(map(_puzzle, again))
  same = sum(a == b for a, b in zip(first, again))
  assert 0 < same < 150  # one in 24 where all four differ


def _ranks(numbers):
  """The lines of a rank file with these puzzles, in order."""
  return ['Rank,Puzzles,AMT (s)', *(
      f'{rank},{" ".join(map(str, puzzle))},4.5'
      for rank, puzzle in enumerate(numbers, start=1))]


@pytest.fixture(scope='module')
def lines():
  task = tasks.make('game24', dataclasses.replace(SETTINGS, num_train=0), 5)
  return _ranks(p for split in task.splits for p in _puzzles(task, split))


def _with_file(path, lines, **changes):
  path.write_text('\n'.join(lines) + '\n')
  return tasks.make('game24', dataclasses.replace(
      SETTINGS, rank_file=str(path), **changes))


def test_ranks_901_to_1000_are_the_test_split(tmp_path, lines):
  task = _with_file(tmp_path / 'ranks.csv', lines, num_test=7)
  wanted = [
      tuple(map(int, line.split(',')[1].split())) for line in lines[901:1001]]
  assert _puzzles(task, 'test') == wanted
  rest = {*_puzzles(task, 'train'), *_puzzles(task, 'validation')}
  assert len(rest) == 1262 and not rest & set(wanted)


@pytest.mark.parametrize('number, line, message', [
    (1, 'Place,Puzzles', "line 1: the columns begin with 'Place,Puzzles'"),
    (7, '6,1 1 4', "line 7: got '6,1 1 4'; must begin with a rank"),
    (7, 'six,1 1 4 6', "line 7: got 'six,1 1 4 6'"),
    (7, '6,1 1 4 x', "line 7: got '6,1 1 4 x'"), (7, '', "line 7: got ''"),
    (8, '7,1 1 1 1', "line 8: got the puzzle '1 1 1 1'; must be"),
    (8, '7,24 1 1 1', "line 8: got the puzzle '24 1 1 1'"),
    (950, '2,1 1 4 6', 'line 950: rank 2 or its puzzle stood'),
    (950, '5000,3 3 8 8', 'no rank 949')])
def test_bad_rows_are_named(tmp_path, lines, number, line, message):
  changed = [x for x in lines if ',3 3 8 8,' not in x or line[:4] != '5000']
  changed[number - 1] = line
  with pytest.raises(config_lib.UserError) as error:
    _with_file(tmp_path / 'ranks.csv', changed)
  assert f'{tmp_path / "ranks.csv"}' in str(error.value)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(config_lib.UserError, match='none.csv: cannot be read'):
    tasks.make('game24', dataclasses.replace(
        SETTINGS, rank_file=str(tmp_path / 'none.csv')))


@pytest.mark.parametrize('max_value, num_solved', [(None, 1346), (100, 1335)])
def test_the_teacher_solves_what_whole_numbers_solve(max_value, num_solved):
  task = tasks.make('game24', dataclasses.replace(
      SETTINGS, num_train=0, max_value=max_value))
  solved = 0
  for split in task.splits:
    for problem in task.problems(split, 0, task.size(split)):
      record = task.teacher.search(problem, 'compact', 0)
      if record.is_solved:
        solved += 1
        answer = '\n'.join(record.nodes[i].step for i in record.solution[1:])
        assert task.verify(problem, answer).is_correct
        if solved % 100 == 0:  # the style writes it, and reads it back
          events = traces.linearize(record)
          text = traces.render(events, style='compact')
          assert traces.parse(text, style='compact') == events
  assert solved == num_solved


def test_the_judge_in_the_graph_agrees_with_the_verifier():
  task, rng = tasks.make('game24', SETTINGS), np.random.default_rng(0)
  texts = ['', *map(str, range(60)), *'+-*/=,S', '=24', ',S']
  judge = jax.jit(task.in_graph.outcome(texts))
  num_right = 0
  for problem in task.problems('train', 0, 60):
    record = task.teacher.search(problem, 'compact', 0)
    steps = [record.nodes[i].step for i in record.solution[1:]]
    for draw in range(6):
      solution = list(','.join(steps))
      for _ in range(draw // 2):  # damaged more and more
        at = rng.integers(len(solution) + 1)
        solution[at:at + rng.integers(2)] = str(rng.choice(
            list('0123456789+-*/=,')))
      text = 'S' + ''.join(solution)
      tokens = [texts.index(c) for c in text]
      row = np.zeros(64, np.int32)
      row[:len(tokens)] = tokens
      right = judge(task.in_graph.inputs(problem), row, len(tokens))
      answer = traces.extract_answer(
          traces.prompt(problem, style='compact') + text, style='compact')
      expected = answer is not None and task.verify(problem, answer).is_correct
      assert float(right) == expected
      num_right += expected
  assert 100 < num_right < 300


@pytest.mark.parametrize('variant', game24_config.VARIANTS)
def test_variants(variant):
  parsed = experiment_lib.parse(game24_config.get_config(variant))
  more = ('search',) if variant == 'tiny' else (
      'search4', 'search16', 'search64')
  solutions = ('solutions',) if variant == 'laptop' else ()
  assert parsed.stages == (
      'problems', 'traces', 'tokenizer', 'sft', *solutions, 'evaluate', *more)
  assert parsed.shared.task_kind == 'game24'
  task = parsed.shared.task
  assert [task.size(split) for split in task.splits] == [12_000, 100, 100]
