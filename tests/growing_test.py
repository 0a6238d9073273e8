# SPDX-License-Identifier: Apache-2.0
"""When searches stop, and what settings make of them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from meta_cot import search
from meta_cot import tasks
from meta_cot.settings import config as config_lib
from meta_cot.solvers import growing
from meta_cot.solvers import strategies
from tests import explicit_trees
from tests import searching_test

SEARCHES = {
    'best_first': functools.partial(
        search.best_first, num_expansions=9, max_depth=4, goal_test='pop'),
    'mcts': functools.partial(
        search.mcts, num_simulations=14, max_depth=4, num_leaves=2)}


@pytest.mark.parametrize('name', SEARCHES)
def test_a_search_that_stops_is_the_beginning_of_one_that_goes_on(name):
  tables = explicit_trees.draw(5, 64, terminal=0.3)
  run = lambda **changes: jax.device_get(SEARCHES[name](
      tables, jax.random.key(0), explicit_trees.roots(tables),
      explicit_trees.step_fn, branching=explicit_trees.A, goal_above=0.25,
      **changes))
  stopped, whole = run(stops_at_goal=True), run(stops_at_goal=False)
  num_stopped = 0
  for b in range(64):
    n = int(stopped.tree.num_nodes[b])
    for field in ('parents', 'depths', 'is_valid', 'rewards', 'values'):
      of = lambda output, field=field: getattr(output.tree, field)[b, :n]
      np.testing.assert_array_equal(of(stopped), of(whole))
    tree = jax.tree.map(lambda x: x[b], stopped.tree)
    is_goal = tree.is_valid & tree.is_terminal & (tree.rewards > 0.25)
    if n < whole.tree.num_nodes[b]:
      num_stopped += 1
      assert is_goal.any() and stopped.solution_value[b] > 0.25
    if name == 'mcts' and is_goal.any():  # best_first may take it later
      first = tree.expansion_order[tree.parents[is_goal]].min()
      assert tree.num_expansions - first <= 2
  assert 5 < num_stopped < 64


def rules(name, outcome='verifier', **changes):
  tree = dataclasses.replace(searching_test.SETTINGS.tree, **changes)
  settings = dataclasses.replace(
      searching_test.SETTINGS, outcome=outcome, tree=tree)
  return strategies.make(settings, name, depth=2)


@pytest.mark.parametrize('name', strategies.STRATEGIES)
def test_when_a_search_is_over(name):
  usual = name not in ('beam', 'dvts', 'particles')
  assert rules(name).stops_at_goal == usual
  assert rules(name, 'value').stops_at_goal == (usual and name != 'mcts')
  assert rules(name).goal_above == rules(name, 'value').goal_above == 0
  assert not rules(name, early_stop='never').stops_at_goal
  made = rules(name, early_stop='verdict', stop_value=0.9)
  assert made.stops_at_goal and made.goal_above == 0
  made = rules(name, 'value', early_stop='value', stop_value=0.9)
  assert made.stops_at_goal and made.goal_above == 0.9
  with pytest.raises(config_lib.ConfigError) as error:
    rules(name, 'value', early_stop='verdict')
  assert str(error.value) == (
      "search.tree.early_stop: got 'verdict' with search.outcome 'value'; must "
      "be 'never' or 'value', or the outcome 'verifier'.")


def test_settings_reach_their_strategies():
  for merging, merged in dict(
      none=(False, False), steps=(True, False), states=(True, True)).items():
    made = rules('beam', merging=merging)
    assert (made.merge_steps, made.merge_states) == merged
  assert rules('best_first', goal_test='pop').goal_test == 'pop'
  assert rules('mcts', backup='max_child').backup_value == 'max_child'
  for name in ('mcts', 'best_first'):
    made = rules(name, widening=0.5, widening_scale=0.25)
    assert (made.widening, made.widening_scale) == (0.5, 0.25)
    assert rules(name).widening is None
  assert rules('beam', widening=0.5).widening is None  # has none


@pytest.mark.parametrize('field, words', [
    ('step_check', "'x'; must be one of 'none', 'task'"),
    ('merging', "'x'; must be one of 'none', 'steps', 'states'"),
    ('goal_test', "'x'; must be one of 'push', 'pop'"),
    ('backup', "'x'; must be one of 'leaf', 'max_child', 'mean_child'"),
    ('early_stop', "'x'; must be one of 'never', 'verdict', 'value'"),
    ('widening', '0.0; must be greater than 0.0'),
    ('widening_scale', '0.0; must be greater than 0.0')])
def test_values_that_are_none_are_named(field, words):
  wrong = 0.0 if field.startswith('widening') else 'x'
  given = dataclasses.asdict(searching_test.SETTINGS.tree) | {field: wrong}
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.parse(growing.Tree, given, 'config.search.tree')
  assert str(error.value) == f'config.search.tree.{field}: got {words}.'


@pytest.mark.parametrize('changes, step, style, size, words', [
    (dict(step_check='task'), 'event', 'compact', 128, "of this task, 'event'"),
    (dict(step_check='task'), 'solution', 'stream_of_search', 128, 'is_legal'),
    (dict(step_check='task'), 'solution', 'compact', 2**17, '131072 tokens'),
    (dict(merging='states'), 'episode', 'compact', 128, "must be 'steps'")])
def test_steps_that_no_program_reads(changes, step, style, size, words):
  tree = dataclasses.replace(searching_test.SETTINGS.tree, **changes)
  task = tasks.make('countdown')
  growing.check(tree, 'solution', task, 'compact', 128)
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    growing.check(tree, step, task, style, size)
  assert '\n' not in str(error.value)


def test_steps_are_checked_and_states_merged_in_a_whole_search():
  """Without a verifier too; no two nodes have one state."""
  tree = dataclasses.replace(
      searching_test.SETTINGS.tree, step_check='task', merging='states')
  made = searching_test.searcher(
      'best_first', tree=tree, branching=(12, 4), outcome='value',
      siblings='without_replacement', step_length=6)
  outcomes = made(
      searching_test.policy(), searching_test.PROBLEMS, jax.random.key(1))
  for record in outcomes.records[:, 0]:
    states = [node.state for node in record.nodes if node.state]
    assert len(set(states)) == len(states)
  assert (outcomes.num_tokens > 0).all()
