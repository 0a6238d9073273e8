# SPDX-License-Identifier: Apache-2.0
"""Nodes that are expanded again, against searches written anew."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import search
from meta_cot.search import engine
from meta_cot.search import tree as tree_lib
from meta_cot.search.frontier import BestFirst
from meta_cot.search.mcts import Mcts
from tests import language_search
from tests import mcts_reference as reference
from tests import mcts_test
from tests import siblings_test

A, ACTIONS, DEPTH, B = 2, reference.A, 3, 48
MOST = 24  # expansions of a search


def actions_of(keys):
  """The steps that are drawn with keys, [..., A]."""
  draw = lambda key: jax.random.randint(key, (A,), 0, ACTIONS)
  return jax.vmap(draw)(keys.reshape(-1)).reshape(*keys.shape, A)


def step_fn(world, rng, path):
  """Draws steps of a world; those of a node may be equal."""
  steps = reference.step_fn(world, rng, path)
  action_RxA = actions_of(path.keys)
  of_action = lambda x: jnp.take_along_axis(x, action_RxA, axis=1)
  return jax.tree.map(of_action, steps).replace(
      step_key=jnp.stack([action_RxA.astype(jnp.uint32)] * 2, -1))


@functools.cache
def draws(seed):
  """What is drawn below leaves that have 0, A, 2 A ... children, as NumPy."""
  @jax.jit
  def all_of_them():
    fold = lambda keys, numbers: jax.vmap(
        lambda key: jax.vmap(
            lambda number: jax.random.fold_in(key, number))(numbers))(keys)
    keys_B = fold(jax.random.key(seed)[None], jnp.arange(B))[0]
    keys_BxN = fold(keys_B, jnp.arange(1 + A * MOST))
    more = jnp.uint32(2**31) + A * jnp.arange(1, MOST, dtype=jnp.uint32)
    again = jax.vmap(lambda keys_N: fold(keys_N, more))(keys_BxN)
    return jnp.concatenate(
        [actions_of(keys_BxN)[:, :, None], actions_of(again)], 2)

  return np.asarray(all_of_them())


class Widened(reference.Search):
  """Of problem b; a node of n visits wants c n^alpha children."""

  def __init__(self, world, b, settings, seed, alpha=1.0, scale=1.0):
    super().__init__(world, b, settings)
    self.draws, self.alpha, self.scale = draws(seed)[b], alpha, scale
    self.times = {}  # node -> how often it was expanded

  def is_open(self, node, seen):
    if node.children is None or node in self.leaves:
      return super().is_open(node, seen)
    # Exact, unlike powers of floats: alpha is 1 / 2 or 1.
    num, root = A * self.times[node], round(1 / self.alpha)
    is_narrow = num**root < self.scale**root * seen[node][0]
    return is_narrow and self.has_room()

  def descend(self, node, seen):
    if node.children is not None and self.is_open(node, seen):
      return node
    return super().descend(node, seen)

  def expand(self, leaves):
    for leaf in leaves:
      if leaf.children is None:
        leaf.order, leaf.first = self.num_expansions, self.num_nodes
        leaf.children, self.times[leaf] = [], 0
      drawn = self.draws[leaf.index, self.times[leaf]].tolist()
      there = {child.branch for child in leaf.children}
      for action in dict.fromkeys(drawn):
        if action not in there and self.world['is_valid'][leaf.state, action]:
          child = self.child(leaf, action)
          child.index = self.num_nodes + drawn.index(action)
          child.log_prob += math.log(drawn.count(action))
          child.is_sum = drawn.count(action) > 1
          leaf.children.append(child)
      self.times[leaf] += 1
      self.num_nodes += A
      self.num_expansions += 1

  def best_first(self, num_expansions, num_leaves):
    """With goals when they are made; gives the solution."""
    value = lambda n: n.value - self.scale * self.times.get(n, 0)**self.alpha
    while self.num_expansions < num_expansions:
      frontier = [n for n in self.nodes()
                  if not n.is_terminal and n.depth < self.s.max_depth]
      frontier.sort(key=lambda n: (-value(n), n.index))
      self.expand(frontier[:min(
          num_leaves, num_expansions - self.num_expansions)])
      if any(n.is_terminal and n.reward > 0 for n in self.nodes()):
        break
    return self.solution()


@pytest.mark.parametrize('rule, num_leaves, alpha, scale, capacity', [
    ('uct', 1, 0.5, 2.0, None), ('puct', 2, 1.0, 0.5, 12)])
def test_mcts_equals_a_search_written_anew(
    rule, num_leaves, alpha, scale, capacity):
  strategy = Mcts(
      A, DEPTH, MOST, rule, 0.7, num_leaves=num_leaves, capacity=capacity,
      widening=alpha, widening_scale=scale)
  num_near, times = 0, []
  for seed in range(3):
    world = reference.worlds(seed, B)
    state, child_B = jax.device_get(mcts_test.run(
        strategy, world, jax.random.key(seed), step_fn))
    for b in range(B):
      expected = Widened(
          world, b, mcts_test.settings_of(strategy), seed, alpha, scale)
      try:
        expected.run()
      except reference.NearTie:
        num_near += 1
        continue
      mcts_test.check(expected, state, b)
      assert state.is_done[b] and child_B[b] == expected.best_child()
      times += expected.times.values()
  # Of a node with 16 visits no more than 8 children are wanted.
  assert num_near < B / 2 and 3 <= max(times) <= 6
  assert sum(x > 1 for x in times) > B


@pytest.mark.parametrize('num_leaves, alpha, scale', [
    (1, 1.0, 0.125), (2, 0.5, 0.25)])
def test_best_first_equals_a_search_written_anew(num_leaves, alpha, scale):
  run = functools.partial(
      search.best_first, branching=A, max_depth=DEPTH, num_expansions=9,
      num_leaves=num_leaves, widening=alpha, widening_scale=scale)
  times = []
  for seed in range(3):
    world = reference.worlds(seed, B)
    output = jax.device_get(run(
        world, jax.random.key(seed), reference.roots(world), step_fn))
    tree = output.tree
    for b in range(B):
      expected = Widened(
          world, b, reference.Settings(9, DEPTH, 'puct'), seed, alpha, scale)
      assert output.solution_index[b] == expected.best_first(9, num_leaves)
      assert tree.num_nodes[b] == expected.num_nodes
      assert tree.num_expansions[b] == expected.num_expansions
      nodes = {node.index: node for node in expected.nodes()}
      assert sorted(nodes) == list(np.flatnonzero(tree.is_valid[b]))
      for i, node in nodes.items():
        assert tree.parents[b, i] == (node.parent.index if i else -1)
        assert tree.expansion_order[b, i] == node.order
        assert tree.first_child[b, i] == node.first
        assert tree.embeddings[1][b, i] == node.state
      times += expected.times.values()
  assert max(times) > 2 and times.count(1) > B


def test_below_a_step_that_was_taken():
  """What is kept stays; nodes get as many children as their visits allow."""
  strategy = Mcts(A, DEPTH, 12, widening=0.5, widening_scale=2.0, capacity=24)
  world = reference.worlds(5, B)
  state, child_B = mcts_test.run(strategy, world, jax.random.key(0), step_fn)
  before, after = map(jax.device_get, go_on(strategy, world, state, child_B))
  np.testing.assert_array_equal(
      before.tree.visit_counts[:, 0], np.where(
          child_B < 0, state.tree.visit_counts[:, 0],
          tree_lib.at(state.tree.visit_counts, child_B)))
  grown = 0
  for b in range(B):
    old, new = before.tree, after.tree
    num = old.num_nodes[b]
    np.testing.assert_array_equal(old.parents[b, :num], new.parents[b, :num])
    np.testing.assert_array_equal(
        old.step_keys[b, :num], new.step_keys[b, :num])
    orders = new.expansion_order[b][new.is_expanded[b]]
    assert len(set(orders)) == len(orders) and min(orders, default=0) >= 0
    for i in np.flatnonzero(new.is_expanded[b]):
      mine = np.flatnonzero(new.parents[b] == i)
      wanted = 2 * math.sqrt(new.visit_counts[b, i])
      assert len(mine) < wanted + A and new.first_child[b, i] == mine[0]
      steps = new.step_keys[b, mine[new.is_valid[b, mine]], 0].tolist()
      assert len(set(steps)) == len(steps)
      grown += i < num and (mine >= num).any() and len(mine) > A
  assert grown > B / 2


@functools.partial(jax.jit, static_argnums=0)
def go_on(strategy, world, state, child_B):
  state = search.subtree.reroot(state, child_B)
  return state, engine.advance(
      strategy, world, jax.random.key(1), state, step_fn,
      num_steps=strategy.max_steps)


def test_a_tree_is_the_same_alone():
  strategy = BestFirst(A, DEPTH, 9, widening=1.0, widening_scale=0.25)
  world, rng = reference.worlds(1, B), jax.random.key(1)
  run = lambda *which: jax.device_get(engine.run(
      strategy, world, rng, reference.roots(world, which or None), step_fn))
  jax.tree.map(lambda all_B, few_B: np.testing.assert_array_equal(
      all_B[[7, 2]], few_B), run(), run(7, 2))


def test_steps_of_a_model_are_drawn_anew_and_once():
  """Without replacement within an expansion, and merged across them."""
  config, params = language_search.make_model(loop='scan')
  prompts = language_search.make_prompts(4)
  once = functools.partial(
      search.best_first, num_expansions=5, max_depth=1, widening=1.0)
  output = language_search.run(
      siblings_test.make_step(config, step_length=2), once, params, *prompts,
      jnp.arange(4), merge_steps=True)
  language_search.check_faithful(config, params, output, *prompts)
  tree = jax.device_get(output.tree)
  width = siblings_test.A
  lengths_BxN, num_new = tree.embeddings.page.length, []
  for b in range(4):
    assert tree.num_expansions[b] == 5 and (tree.parents[b, 1:] == 0).all()
    said = [tuple(tokens[:length]) for tokens, length in zip(
        tree.embeddings.tokens[b], lengths_BxN[b])][1:]
    families = [said[i:i + width] for i in range(0, len(said), width)]
    assert len(families) == 5 and len(set(map(tuple, families))) == 5
    is_new = [said.index(step) == i for i, step in enumerate(said)]
    np.testing.assert_array_equal(tree.is_valid[b, 1:], is_new)
    assert all(len({*family}) == width for family in families)
    assert tree.num_tokens[b] == lengths_BxN[b, 1:].sum()
    num_new.append(sum(is_new))
  assert width < min(num_new) < len(said)


@pytest.mark.parametrize('fields, message', [
    (dict(widening=0.0), 'widening: got 0.0; must be above 0 and at most 1'),
    (dict(widening=1.5), 'widening: got 1.5; must be above 0 and at most 1'),
    (dict(widening_scale=0.0), 'widening_scale: got 0.0; must be finite'),
    (dict(widening=0.5, rule='gumbel'), "got 0.5 with rule 'gumbel'; must be"),
])
def test_settings_that_allow_no_search(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    Mcts(A, DEPTH, 9, **fields)
  assert '\n' not in str(error.value)
  if 'rule' not in fields:
    with pytest.raises(ValueError, match=message):
      BestFirst(A, DEPTH, 9, **fields)


def test_trees_have_room_for_nodes_that_are_expanded_again():
  assert BestFirst((4, 1), 3, 9, widening=1.0).num_nodes == 1 + 4 * 9
  assert Mcts((4, 1), 3, 9, widening=1.0).num_nodes == 1 + 4 * 9
  assert Mcts(4, 3, 9, capacity=2, widening=1.0).num_nodes == 1 + 4 * 2
