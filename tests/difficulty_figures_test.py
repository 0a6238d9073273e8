# SPDX-License-Identifier: Apache-2.0
"""Figures over attempts, and over how hard a problem is."""

import numpy as np
import pytest

from meta_cot.evaluation import figures
from meta_cot.evaluation import runs
from meta_cot.evaluation.figures import base
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base

_NODES = [30, 2, 9, 4, 11, 40, 3, 8]  # of the teacher, problem by problem
# The easiest first, two each, and their means.
_PARTS = ([1, 6], [3, 7], [2, 4], [0, 5])
_MEANS = [2.5, 6, 10, 35]


def _outcomes(is_correct, details=None, num_episodes=1):
  shape = np.shape(is_correct)
  return solvers_base.Outcomes(
      np.array(is_correct, bool), np.ones(shape, bool),
      np.full(shape, 5.0), np.full(shape, None, object),
      details={k: np.array(v, object) for k, v in (details or {}).items()},
      num_episodes=num_episodes)


def _run(policy, solver, outcomes):
  return base.Run({base.Key(solver, 'test', 0): outcomes}, {}, {}, policy)


def _teacher():
  return _run('symbolic', 'teacher', _outcomes(
      np.ones((8, 1)), dict(nodes=np.reshape(_NODES, (8, 1)))))


def test_problems_are_parted_by_the_search_of_the_teacher():
  rng = np.random.default_rng(0)
  right = rng.random((3, 8, 2)) < 0.5
  tries = rng.integers(1, 5, (3, 8, 2))
  group = base.Group('x', [_teacher(), *(
      _run('p', 'samples', _outcomes(r, dict(attempts=t)))
      for r, t in zip(right, tries, strict=True))])
  for name, values in (('difficulty', right), ('attempts', tries)):
    made = figures.FIGURES[name]([group])
    assert set(made.lines) == {'p'}  # no teacher among them
    for point, part, mean in zip(
        made.lines['p'], _PARTS, _MEANS, strict=True):
      by_seed = values[:, part].mean(axis=(1, 2))
      assert (point.x, point.num_runs) == (mean, 3)
      bounds = (0, 1) if made.is_rate else (-np.inf, np.inf)
      assert [point.y, point.low, point.high] == pytest.approx(
          [by_seed.mean(), *runs.interval(by_seed, *bounds)])
  assert made.lines['p'][0].y > 1 and not made.is_rate


def test_of_one_run_the_interval_is_over_problems():
  right = np.arange(8)[:, None] % 2 == 0
  group = base.Group('x', [
      _teacher(), _run('p', 'greedy', _outcomes(right))])
  made = figures.FIGURES['difficulty']([group, group])
  (line,) = made.lines.values()  # of one label
  assert list(made.lines) == ['x: p']
  assert [p.y for p in line] == [0.5, 0, 1, 0.5]
  assert line[0][2:4] == (0, 1)  # of two problems nothing is known
  assert figures.FIGURES['attempts']([group]).lines == {}


def test_without_a_teacher_nobody_knows_what_is_hard():
  group = base.Group('table', [_run('p', 'greedy', _outcomes([[1]]))])
  with pytest.raises(config_lib.UserError, match='table.*evaluate.teacher'):
    figures.FIGURES['difficulty']([group])


def test_success_by_the_number_of_an_attempt():
  rng = np.random.default_rng(1)
  right = [rng.random((6, 2 * 3)) < 0.5 for _ in range(3)]
  made = figures.FIGURES['revised']([base.Group('x', [
      _run('p', 'revisions', _outcomes(r, num_episodes=3)) for r in right])])
  for k, point in enumerate(made.lines['p']):
    by_seed = [r.reshape(6, 2, 3)[..., k].mean() for r in right]
    assert (point.x, point.num_runs) == (k + 1, 3)
    assert point.y == pytest.approx(np.mean(by_seed))
    low, high = runs.interval(by_seed)
    assert (point.low, point.high) == pytest.approx((max(low, 0), min(high, 1)))
