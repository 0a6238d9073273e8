# SPDX-License-Identifier: Apache-2.0
"""One budget: sizes that draw it, problem by problem, whatever the strategy."""

import dataclasses
import json

from etils import epath
import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from configs import budgets
from configs import kinds
from meta_cot import tasks
from meta_cot.evaluation import bench
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import spending
from meta_cot.search import branching as branching_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import sizing
from meta_cot.solvers import strategies
from meta_cot.stages import budgeted
from tests import bench_test

SEARCH = config_lib.parse(strategies.Settings, kinds.evaluate().search)
PLAN = spending.Plan(100, 2, 5, 60.0, 150.0, block=8)


def _rng(seed):
  return np.random.default_rng(seed)


@hypothesis.given(
    st.floats(0.3, 30), st.floats(0.6, 3), st.integers(30, 3_000))
def test_two_sizes_lie_around_any_budget(first, power, tokens):
  hypothesis.assume(first <= 0.75 * tokens)
  asked = []

  def measure(size):
    asked.append(size)
    return first * size ** power

  plan = spending.find(measure, tokens, block=16)
  assert plan.low < plan.high and len(asked) == len({*asked}) <= 9
  assert plan.drawn_low == measure(plan.low) <= 0.75 * tokens
  assert plan.drawn_high == measure(plan.high) >= 1.25 * tokens


@pytest.mark.parametrize('measure, tokens, words', [
    (lambda size: 63.4 * size, 80, 'draws 63.4 tokens .*; must be at least 85'),
    (lambda size: 63.4 * size, 3, 'must be at least 85'),
    (lambda size: min(10 * size, 50), 300,
     'draws at most 50.0 tokens .*; must be at most 40')])
def test_a_budget_that_nothing_draws_is_refused(measure, tokens, words):
  with pytest.raises(config_lib.ConfigError, match=words):
    spending.find(measure, tokens, block=16)


def test_the_budgets_that_are_named_will_do():
  linear = lambda size: 63.4 * size
  assert spending.find(linear, 85, 16).low == 1
  spending.find(lambda size: min(10 * size, 50), 40, 16)


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('scale', [0.85, 1.0, 1.15])
def test_what_problems_draw_is_made_up_for(seed, scale):
  # They vary as those of a search do, and differ from what was expected.
  rng, drawn = _rng(seed), []
  mean = {PLAN.low: PLAN.drawn_low, PLAN.high: PLAN.drawn_high}
  while len(drawn) < 320:
    sizes = PLAN.sizes(drawn)
    assert len(sizes) == 8
    drawn += [scale * mean[size] * rng.gamma(4) / 4 for size in sizes]
  assert np.mean(drawn) == pytest.approx(100, rel=0.02)


def test_the_larger_size_is_evenly_spread():
  half = dataclasses.replace(PLAN, drawn_low=50.0)
  assert half.sizes([]) == [2, 5] * 4
  assert half.sizes([150.0] * 8) == [2] * 8  # too much so far
  assert half.sizes([20.0] * 8) == [5] * 8


@pytest.mark.parametrize('name', sizing.NAMES)
@pytest.mark.parametrize('branching', [4, (6, 2, 1), 1])
@pytest.mark.parametrize('depth', [1, 2, 3])
def test_sizes_grow_and_allow_a_search(name, branching, depth):
  search = dataclasses.replace(SEARCH, branching=branching)
  assert kinds.evaluate()[sizing.sizes(name, search, 1, depth)[0]]
  before = None
  for size in range(1, 30):
    group, changes = sizing.sizes(name, search, size, depth)
    assert size in changes.values()
    if group == 'search':
      strategy = strategies.make(
          dataclasses.replace(search, **changes), name, depth)
      # More room in every tree, or as much where none is deeper.
      assert before is None or strategy.num_nodes >= before
      before = strategy.num_nodes
    if 'branching' in changes:
      first = branching_lib.at(branching, 0)
      assert branching_lib.at(changes['branching'], 0) >= first
      assert (size > first) or changes['branching'] == branching or (
          name in ('best_first', 'depth_first', 'mcts'))
  assert group != 'search' or before > 20  # so that no budget is too large


def test_what_is_widened_keeps_its_branching():
  widened = dataclasses.replace(
      SEARCH, tree=dataclasses.replace(SEARCH.tree, widening=0.5))
  for name in ('best_first', 'mcts'):
    assert sizing.sizes(name, widened, 30, 2)[1]['branching'] == 4
    assert sizing.sizes(name, SEARCH, 30, 2)[1]['branching'] > 4


PROBLEMS = [
    bench_test.countdown.make_problem([a, b], a + b)
    for a in range(1, 10) for b in range(a, 10)]


def _mixed(where):
  """Guesses by `PLAN`: five tokens a guess, 2 or 5 guesses."""
  task = tasks.make('countdown')
  solvers = {
      number: bench_test.Guess(bench_test.Settings(number), task, None)
      for number in (PLAN.low, PLAN.high)}
  plan = dataclasses.replace(PLAN, tokens=18, drawn_low=10., drawn_high=25.)
  history = lambda: {
      place: sum(r['num_tokens'] for r in rows)
      for (place,), rows in rows_lib.group(
          rows_lib.read(where), 'place').items()}
  return bench.Procedure(
      dataclasses.asdict(plan), sizing.Mixed(solvers, plan, history))


def _ask(directory, number=None, piece_size=1024):
  policy = bench_test._policy()
  where = bench.folder(epath.Path(directory), policy, 'samples', 'test')
  return bench.run(
      [policy], {'samples': _mixed(where)}, {'test': PROBLEMS[:number]},
      epath.Path(directory), rng=jax.random.key(0), piece_size=piece_size)


def _bare(rows):
  return [
      {k: v for k, v in row.items() if k not in ('seconds', 'occupancy')}
      for row in rows]


def test_rows_do_not_depend_on_when_they_were_asked_for(tmp_path):
  rows = _ask(tmp_path / 'a')
  drawn = [
      sum(r['num_tokens'] for r in mine)
      for mine in rows_lib.group(rows, 'place').values()]
  assert {*drawn} == {10.0, 25.0}
  assert np.mean(drawn) == pytest.approx(18, abs=0.4)
  # In pieces that end in the middle of a block, and as one grows.
  assert _bare(_ask(tmp_path / 'b', piece_size=5)) == _bare(rows)
  for number in (3, 17, 40, len(PROBLEMS)):
    grown = _ask(tmp_path / 'c', number)
  assert _bare(grown) == _bare(rows)
  # What a kill has left is gone on from.
  (folder,) = (tmp_path / 'b').rglob('test')
  for path in sorted(folder.glob('*.jsonl'))[4:]:
    path.unlink()
  assert _bare(_ask(tmp_path / 'b', piece_size=5)) == _bare(rows)


def test_attempts_that_others_have_more_are_not_counted(tmp_path):
  rows = _ask(tmp_path)
  assert {row['attempt'] for row in rows} == set(range(5))
  for mine in rows_lib.group(rows, 'place').values():
    sizes = {row['details'].get('size') for row in mine} - {None}
    assert len(sizes) == 1
    assert [row['num_tokens'] > 0 for row in mine] == [
        i < max(sizes) for i in range(5)]
  key = 'a', 0, 'samples'
  bought = {key: budgeted.Bought(
      dataclasses.replace(PLAN, tokens=18), {}, (dict(n=2), dict(n=5)))}
  even = budgeted.even(rows, bought)
  assert len(even) == 2 * len(PROBLEMS)
  assert all(row['num_tokens'] for row in even)
  (entry,) = budgeted.entries(rows, bought, 18)
  assert entry['drawn'] == sum(r['num_tokens'] for r in rows) / len(PROBLEMS)
  assert entry['error'] == entry['drawn'] / 18 - 1
  assert 0 < entry['share'] < 1
  assert entry['success'] == np.mean([
      any(r['is_correct'] for r in mine)
      for mine in rows_lib.group(rows, 'place').values()])
  assert json.loads(json.dumps(entry)) == entry


@pytest.mark.parametrize('variant', budgets.VARIANTS)
def test_shipped_configs_have_budgets(variant):
  config = budgets.get_config(variant)
  assert [config[name].budget.tokens for name in config.stages[-3:]] == [
      100, 300, 1_000]
