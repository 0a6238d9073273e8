# SPDX-License-Identifier: Apache-2.0
"""Monte-Carlo tree search equals a search written anew, on random trees."""

import dataclasses
import functools

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from meta_cot.search import engine
from meta_cot.search import halving
from meta_cot.search import subtree
from meta_cot.search.mcts import best_child
from meta_cot.search.mcts import Mcts
from meta_cot.search.mcts import RULES
from tests import mcts_reference as reference

A, B, DEPTH = reference.A, 64, 4
NUM_EXAMPLES = 4  # of B trees each
SEEDS = st.integers(0, 2**32 - 1)


@functools.partial(jax.jit, static_argnames=('strategy', 'step_fn'))
def run(strategy, world, rng, step_fn=reference.step_fn):
  """The last state, and the children to commit to."""
  state = engine.start(strategy, reference.roots(world))
  state = engine.advance(
      strategy, world, rng, state, step_fn, num_steps=strategy.max_steps)
  return state, best_child(state.tree)


@functools.partial(jax.jit, static_argnames='strategy')
def go_on(strategy, world, rng, state, child_B):
  """Below the children, or from the root without one."""
  state = subtree.reroot(state, child_B)
  return state, engine.advance(
      strategy, world, rng, state, reference.step_fn,
      num_steps=strategy.max_steps)


def noises(strategy, state):
  """Of every problem, [B, A]."""
  keys_B = jax.random.wrap_key_data(state.seeds, impl='threefry2x32')
  return np.asarray(jax.vmap(
      lambda key: halving.noise(key, A, strategy.gumbel))(keys_B))


def settings_of(strategy):
  return reference.Settings(
      strategy.num_simulations, strategy.max_depth, strategy.rule,
      strategy.exploration, strategy.backup_value, strategy.num_leaves,
      strategy.capacity, strategy.gumbel.max_considered,
      merges_states=strategy.merge_states)


def check(expected, state, b):
  """Row b of a state is what the reference has found."""
  tree = state.tree
  assert tree.num_nodes[b] == expected.num_nodes
  assert tree.num_expansions[b] == expected.num_expansions
  nodes = {node.index: node for node in expected.nodes()}
  assert sorted(nodes) == list(np.flatnonzero(tree.is_valid[b]))
  for i, node in nodes.items():
    assert tree.parents[b, i] == (node.parent.index if node.parent else -1)
    assert tree.first_child[b, i] == node.first
    assert tree.expansion_order[b, i] == node.order
    assert tree.visit_counts[b, i] == node.visits
    assert tree.depths[b, i] == node.depth
    assert tree.embeddings[1][b, i] == node.state
    np.testing.assert_allclose(tree.q_values[b, i], node.q, atol=1e-5)
  assert state.solution[b] == expected.solution()
  assert state.extra.num_simulations[b] == expected.num_over


# Compiling takes nearly all the time: every rule, every backup, some pairs.
CASES = [
    *((rule, 'leaf', 1) for rule in RULES), ('uct', 'max_child', 2),
    ('uct_paper', 'mean_child', 3), ('puct', 'mean_child', 2),
    ('puct', 'max_child', 1), ('gumbel', 'max_child', 2),
    ('gumbel', 'mean_child', 1)]


def compare(strategy, settings, step_fn=reference.step_fn):
  """Searches random worlds in both ways.

  Returns:
    The searches that were equal.
  """
  searches, near_ties = [], 0

  @hypothesis.settings(max_examples=NUM_EXAMPLES)
  @hypothesis.given(SEEDS)
  def of_seed(seed):
    nonlocal near_ties
    world = reference.worlds(seed, B)
    state, child_B = jax.device_get(
        run(strategy, world, jax.random.key(seed % 7), step_fn))
    noise_BxA = noises(strategy, state)
    for b in range(B):
      expected = reference.Search(world, b, settings, noise_BxA[b])
      try:
        expected.run()
      except reference.NearTie:
        near_ties += 1
        continue
      check(expected, state, b)
      assert state.is_done[b]
      assert child_B[b] == expected.best_child()
      searches.append(expected)

  of_seed()
  assert len(searches) > 4 * near_ties
  return searches


@pytest.mark.parametrize('rule, backup, num_leaves', CASES)
def test_equals_a_search_written_anew(rule, backup, num_leaves):
  strategy = Mcts(
      A, DEPTH, 20, rule, 0.7, backup, num_leaves,
      gumbel=halving.Settings(max_considered=2 + num_leaves % 2))
  assert len(compare(strategy, settings_of(strategy))) > NUM_EXAMPLES * B / 2


@pytest.mark.parametrize('rule, num_leaves, has_costs', [
    ('uct', 1, False), ('puct', 3, False),
    pytest.param('uct', 2, True, marks=pytest.mark.slow),
    ('gumbel', 1, True)])
def test_equal_states_become_one(rule, num_leaves, has_costs):
  """Costs keep a state that is there if the way to the new one is shorter."""
  strategy = Mcts(
      A, DEPTH, 20, rule, 0.7, num_leaves=num_leaves, merge_states=True)
  searches = compare(
      strategy,
      dataclasses.replace(settings_of(strategy), has_costs=has_costs),
      reference.step_fn_with_costs if has_costs
      else reference.step_fn_with_keys)
  num_lost = num_twice = 0
  for search in searches:
    nodes = search.nodes()
    num_twice += len(nodes) - len({node.state for node in nodes})
    num_lost += search.num_nodes - len(nodes)
  assert num_lost > len(searches)
  assert (num_twice > 0) == has_costs
