# SPDX-License-Identifier: Apache-2.0
"""MCTS: kept subtrees, room, independent problems, budgets, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import search
from meta_cot import sharding
from meta_cot.search import engine
from meta_cot.search import halving
from meta_cot.search.mcts import best_child
from meta_cot.search.mcts import Mcts
from tests import mcts_reference as reference
from tests import mcts_test

A, B = reference.A, 32
UCT = Mcts(A, 5, 14)
GUMBEL = Mcts(A, 5, 14, 'gumbel', num_leaves=2)
WORLD = reference.worlds(5)


def run(strategy, root, world=WORLD, seed=3):
  return engine.run(
      strategy, world, jax.random.key(seed), root, reference.step_fn)


def assert_equal(left, right, index=slice(None)):
  """`left` is `index` of `right`, bit for bit."""
  jax.tree.map(
      lambda x, y: np.testing.assert_array_equal(x, np.asarray(y)[index]),
      left, right)


@pytest.mark.parametrize('rule, backup, num_leaves, capacity', [
    pytest.param('uct', 'leaf', 1, 40, marks=pytest.mark.slow),
    ('puct', 'max_child', 2, 30), ('gumbel', 'leaf', 1, 40),
    ('uct', 'leaf', 2, 7)])
def test_a_kept_subtree_is_searched_on(rule, backup, num_leaves, capacity):
  """With room for all nodes, and with so little that the trees are full."""
  strategy = Mcts(
      A, 5, 15, rule, 0.7, backup, num_leaves, capacity=capacity,
      gumbel=halving.Settings(max_considered=2))
  settings = mcts_test.settings_of(strategy)
  num_compared = num_near_ties = num_kept = num_full = 0
  for seed in range(4):
    world = reference.worlds(seed)
    first, child_B = jax.device_get(
        mcts_test.run(strategy, world, jax.random.key(seed)))
    kept, second = jax.device_get(mcts_test.go_on(
        strategy, world, jax.random.key(seed + 1), first, child_B))
    noise_BxA, next_noise_BxA = (
        mcts_test.noises(strategy, state) for state in (first, second))
    for b in range(B):
      expected = reference.Search(world, b, settings, noise_BxA[b])
      try:
        nodes = {n.index: n for n in expected.run().nodes()}
        mcts_test.check(expected, first, b)
        expected.reroot(nodes[max(child_B[b], 0)], next_noise_BxA[b])
        mcts_test.check(expected, kept, b)
        num_kept += expected.num_nodes
        assert kept.is_done[b] == expected.root.is_terminal
        if not expected.root.is_terminal:
          mcts_test.check(expected.run(), second, b)
        num_full += expected.num_expansions == capacity
        num_compared += 1
      except reference.NearTie:
        num_near_ties += 1
  assert num_compared > 4 * num_near_ties
  assert num_kept > 5 * num_compared
  assert (num_full > num_compared / 2) == (capacity == 7)


def test_a_problem_has_one_tree_in_any_batch():
  batch = run(GUMBEL, reference.roots(WORLD))
  for b in (0, 9, 31):
    assert_equal(
        run(GUMBEL, reference.roots(WORLD, [b])), batch, slice(b, b + 1))
  order = np.random.default_rng(0).permutation(B)
  assert_equal(run(GUMBEL, reference.roots(WORLD, order)), batch, order)


def test_eight_devices_search_as_one():
  root = reference.roots(WORLD)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=8, fsdp=1, model=1))
  with sharding.use_mesh(mesh):
    parts = run(GUMBEL, jax.device_put(root, sharding.batch(mesh)))
  assert_equal(run(GUMBEL, root), parts)
  assert len(parts.tree.values.sharding.device_set) == 8


def test_chunks_of_steps_are_the_whole_search():
  advance = jax.jit(
      engine.advance, static_argnums=(0, 4), static_argnames='num_steps')
  root = reference.roots(WORLD)
  state = engine.start(GUMBEL, root)
  for _ in range(GUMBEL.max_steps):
    state = advance(
        GUMBEL, WORLD, jax.random.key(3), state, reference.step_fn,
        num_steps=1)
  assert np.all(state.is_done)
  assert_equal(engine.output(state), run(GUMBEL, root))


def test_noise_follows_from_the_key():
  worlds = reference.worlds(1)
  trees = [
      run(GUMBEL, reference.roots(worlds), worlds, seed).tree
      for seed in (1, 1, 2)]
  assert_equal(trees[0], trees[1])
  assert np.any(trees[0].visit_counts != trees[2].visit_counts)


@pytest.mark.parametrize('rule, num_leaves', [
    ('puct', 1), ('puct', 5), ('gumbel', 3)])
def test_virtual_visits_are_undone(rule, num_leaves):
  """What is left is one visit per simulation, and no leaf twice."""
  strategy = Mcts(A, 5, 23, rule, num_leaves=num_leaves)
  tree = jax.device_get(run(strategy, reference.roots(WORLD)).tree)
  assert np.all(tree.visit_counts[:, 0] == 23)
  for b in range(B):
    order = tree.expansion_order[b][tree.is_expanded[b]]
    assert sorted(order) == list(range(tree.num_expansions[b]))
    for i in np.flatnonzero(tree.is_expanded[b]):
      below = tree.visit_counts[b][(tree.parents[b] == i)]
      assert 1 + below.sum() <= tree.visit_counts[b, i]
      if np.any(tree.is_valid[b][tree.parents[b] == i]):
        assert 1 + below.sum() == tree.visit_counts[b, i]


def test_more_leaves_are_fewer_steps():
  wide = reference.worlds(8)
  wide['is_terminal'][:] = False
  wide['is_valid'][:] = True
  steps = []
  for num_leaves in (1, 4):
    strategy = Mcts(A, 8, 33, num_leaves=num_leaves)
    state, _ = mcts_test.run(strategy, wide, jax.random.key(0))
    assert np.all(state.tree.visit_counts[:, 0] == 33)
    steps.append(np.asarray(state.num_steps))
  assert np.all(steps[1] < 0.6 * steps[0])


def test_simulations_that_expand_nothing_take_no_step():
  ended = dict(WORLD)
  ended['is_terminal'] = np.ones_like(WORLD['is_terminal'])
  strategy = Mcts(A, 5, 200)
  state, _ = mcts_test.run(strategy, ended, jax.random.key(0))
  assert np.all(state.num_steps <= 2)
  assert np.all(state.tree.num_expansions == 1)
  assert np.all(state.tree.visit_counts[:, 0] == 200)


def test_tokens_are_bounded():
  strategy = dataclasses.replace(UCT, max_tokens=20)
  tree = run(strategy, reference.roots(WORLD)).tree
  assert np.all(tree.num_tokens == 2 * A * np.asarray(tree.num_expansions))
  assert np.all(tree.num_tokens < 20 + 2 * A * 2)
  assert np.any(tree.num_tokens >= 20)


def test_a_terminal_root_is_its_own_answer():
  root = reference.roots(WORLD)
  even = jnp.arange(B) % 2 == 0
  output = run(UCT, root.replace(is_terminal=even))
  np.testing.assert_array_equal(output.solution_index[::2], 0)
  np.testing.assert_array_equal(output.solution_value[::2], root.value[::2])
  np.testing.assert_array_equal(output.tree.num_nodes[::2], 1)
  assert_equal(
      jax.tree.map(lambda x: x[1::2], output), run(UCT, root),
      slice(1, None, 2))


@pytest.mark.parametrize('strategy', [UCT, GUMBEL])
def test_no_children_is_no_solution(strategy):
  nothing = dict(WORLD, is_valid=np.zeros_like(WORLD['is_valid']))
  output = run(strategy, reference.roots(WORLD), nothing)
  assert np.all(output.solution_index == -1) and np.all(output.is_done)
  assert np.all(output.solution_value == 0)
  assert np.all(best_child(output.tree) == -1)
  np.testing.assert_array_equal(
      output.tree.q_values[:, 0], output.tree.values[:, 0])


def test_values_that_are_no_numbers_are_tried_last():
  world = dict(WORLD, is_terminal=np.zeros_like(WORLD['is_terminal']),
               is_valid=np.ones_like(WORLD['is_valid']))
  world['children'] = np.broadcast_to(
      np.array([1, 2, 3], np.int32), WORLD['children'].shape)
  world['value'] = np.zeros_like(WORLD['value'])
  world['value'][:, 1] = np.nan
  world['value'][:, 2] = -np.inf
  strategy = Mcts(A, 2, 2)
  tree = run(strategy, reference.roots(world), world).tree
  np.testing.assert_array_equal(
      tree.expansion_order[:, 1:4], [[-1, -1, 1]] * B)


@pytest.mark.parametrize('rule', ['uct', 'puct', 'gumbel'])
def test_a_child_without_a_value_is_never_preferred(rule):
  for bad in (np.nan, -np.inf):
    world = dict(WORLD, is_terminal=np.zeros_like(WORLD['is_terminal']),
                 is_valid=np.ones_like(WORLD['is_valid']))
    world['children'] = np.broadcast_to(
        np.array([1, 2, 3], np.int32), WORLD['children'].shape)
    world['value'] = np.full_like(WORLD['value'], 0.5)
    world['value'][:, 1] = bad
    strategy = Mcts(A, 2, 20, rule)
    tree = run(strategy, reference.roots(world), world).tree
    is_bad_BxN = ~np.isfinite(tree.values) & np.asarray(tree.is_valid)
    assert is_bad_BxN.any() and not np.any(tree.is_expanded & is_bad_BxN)
    assert np.isfinite(tree.q_values[~is_bad_BxN]).all()
    assert np.all(tree.q_values[:, 0] == 0.5)


def test_improbable_children_do_no_harm():
  world = dict(WORLD, log_prob=np.full_like(WORLD['log_prob'], -np.inf))
  for rule in ('puct', 'gumbel'):
    tree = run(Mcts(A, 5, 14, rule), reference.roots(WORLD), world).tree
    assert np.all(np.isfinite(tree.q_values))
    assert np.all(tree.visit_counts[:, 0] == 14)


def test_the_tree_is_as_large_as_it_can_become():
  assert Mcts(3, 2, 100).num_nodes == 1 + 3 * (1 + 3)
  assert Mcts(3, 9, 3).num_nodes == 1 + 3 * 3
  assert Mcts(3, 9, 3, capacity=6).num_nodes == 1 + 3 * 6
  assert Mcts(1, 5, 9).num_nodes == 1 + 5


def test_best_child():
  tree = run(UCT, reference.roots(WORLD)).tree
  visits, q, parents = (
      np.asarray(x) for x in (tree.visit_counts, tree.q_values, tree.parents))
  for b, child in enumerate(np.asarray(best_child(tree))):
    children = np.flatnonzero((parents[b] == 0) & tree.is_valid[b])
    ranked = [(-visits[b, i], -q[b, i], i) for i in children]
    assert child == (min(ranked)[2] if ranked else -1)


@pytest.mark.parametrize('settings, message', [
    (dict(num_simulations=0), 'num_simulations: got 0; must be at least 1'),
    (dict(branching=0), 'branching: got 0'),
    (dict(max_depth=0), 'max_depth: got 0'),
    (dict(num_leaves=0), 'num_leaves: got 0'),
    (dict(max_tokens=0), 'max_tokens: got 0'),
    (dict(rule='ucb'), "rule: got 'ucb'; must be one of uct, uct_paper"),
    (dict(backup='max'), "backup: got 'max'; must be one of leaf, max_child"),
    (dict(exploration=-1.0), 'exploration: got -1.0; must be'),
    (dict(exploration=float('nan')), 'exploration: got nan'),
    (dict(branching=2), r'must be \(32, 2\)'),
    (dict(merge_states=True), 'gives no state_key')])
def test_bad_settings(settings, message):
  good = dict(num_simulations=4, branching=A, max_depth=3)
  with pytest.raises(ValueError, match=message):
    search.mcts(
        WORLD, jax.random.key(0), reference.roots(WORLD), reference.step_fn,
        **(good | settings))


@pytest.mark.parametrize('settings, message', [
    (dict(max_considered=0), 'max_considered: got 0; must be at least 1'),
    (dict(gumbel_scale=-1.0), 'gumbel_scale: got -1.0'),
    (dict(value_scale=float('inf')), 'value_scale: got inf'),
    (dict(max_visit_init=-0.5), 'max_visit_init: got -0.5')])
def test_bad_gumbel_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    halving.Settings(**settings)


def test_bad_capacity():
  with pytest.raises(ValueError, match='capacity: got 0; must be at least 1'):
    Mcts(A, 3, 4, capacity=0)
