# SPDX-License-Identifier: Apache-2.0
"""One expansion: where children go, which are merged, which come first."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import search
from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib


def one_root():
  return search.Root(
      embedding=jnp.zeros(1), value=jnp.zeros(1),
      is_terminal=jnp.zeros(1, bool))


def fixed(**fields):
  """A step function whose children are always the same, for one problem."""
  def give(params, rng, path):
    del params, rng
    rows = path.length.shape[0]
    spread = lambda x: jnp.broadcast_to(
        jnp.asarray(x), (rows, *np.shape(x)))
    size = len(fields['value'])
    defaults = dict(
        embedding=np.zeros(size, np.float32),
        log_prob=np.zeros(size, np.float32),
        reward=np.zeros(size, np.float32),
        is_terminal=np.zeros(size, bool), is_valid=np.ones(size, bool))
    return search.Expansion(
        **{name: spread(x) for name, x in (defaults | fields).items()})
  return give


def expand_once(step_fn, branching, **settings):
  return search.best_first(
      None, jax.random.key(0), one_root(), step_fn, num_expansions=1,
      branching=branching, max_depth=2, **settings)


def keys(*pairs):
  return np.array(pairs, np.uint32)


def test_equal_steps_become_the_first_and_add_up():
  step_fn = fixed(
      value=np.arange(5, dtype=np.float32),
      log_prob=np.log(np.array([0.1, 0.2, 0.3, 0.15, 0.25], np.float32)),
      is_valid=np.array([True, True, True, True, False]),
      step_key=keys((1, 2), (3, 4), (1, 2), (1, 3), (1, 2)))
  tree = expand_once(step_fn, 5).tree
  np.testing.assert_array_equal(
      tree.is_valid[0, 1:6], [True, True, False, True, False])
  np.testing.assert_allclose(
      np.exp(tree.log_probs[0, [1, 2, 4]]), [0.4, 0.2, 0.15], rtol=1e-6)
  np.testing.assert_array_equal(tree.values[0, 1:4], [0, 1, 2])
  tree = expand_once(step_fn, 5, merge_steps=False).tree
  np.testing.assert_array_equal(
      tree.is_valid[0, 1:6], [True] * 4 + [False])
  np.testing.assert_allclose(np.exp(tree.log_probs[0, 1]), 0.1, rtol=1e-6)


def test_no_key_is_never_merged_and_the_root_has_one_if_given():
  step_fn = fixed(
      value=np.zeros(4, np.float32),
      state_key=keys((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0, 0), (0, 0)))
  tree = expand_once(step_fn, 4, merge_states=True).tree
  np.testing.assert_array_equal(
      tree.is_valid[0, 1:5], [True, True, True, False])
  root = one_root().replace(state_key=jnp.zeros((1, 2), jnp.uint32))
  tree = search.best_first(
      None, jax.random.key(0), root, step_fn, num_expansions=1, branching=4,
      max_depth=2, merge_states=True).tree
  np.testing.assert_array_equal(
      tree.is_valid[0, 1:5], [True, True, False, False])


def test_values_that_are_no_numbers_come_last():
  value = np.array([np.nan, -np.inf, -3.0, np.inf], np.float32)
  tree = search.best_first(
      None, jax.random.key(0), one_root(), fixed(value=value),
      num_expansions=5, branching=4, max_depth=2).tree
  np.testing.assert_array_equal(
      tree.expansion_order[0, :5], [0, 3, 4, 2, 1])


@hypothesis.given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(
        [-np.inf, -1.0, -0.0, 0.0, 2.0, np.nan])), min_size=1, max_size=8),
    st.integers(1, 10))
def test_ranking(entries, num):
  entries += [(False, 5.0)] * (8 - len(entries))
  worth = lambda x: -np.inf if np.isnan(x) else x
  expected = sorted(
      (i for i, (is_in, _) in enumerate(entries) if is_in),
      key=lambda i: -worth(entries[i][1]))
  expected = (expected + [-1] * num)[:num]
  is_in, key = (np.array(x)[None] for x in zip(*entries))
  chosen = ranking.top(jnp.asarray(is_in), jnp.asarray(key, jnp.float32), num)
  assert chosen[0].tolist() == expected
  assert ranking.best(
      jnp.asarray(is_in), jnp.asarray(key, jnp.float32))[0] == expected[0]


@pytest.mark.parametrize('fields, message', [
    (dict(reward=np.zeros(2)), r'reward has shape \(1, 2\)'),
    (dict(step_key=np.zeros(3, np.uint32)), r'step_key has shape \(1, 3\)'),
    (dict(embedding=np.zeros((3, 1))), r'embedding has shape \(1, 3, 1\)')])
def test_expansions_of_a_wrong_shape(fields, message):
  with pytest.raises(ValueError, match=message):
    expand_once(fixed(value=np.zeros(3), **fields), 3)


def test_a_tree_of_one_level():
  root = search.Root(
      embedding=jnp.zeros(2), value=jnp.zeros(2),
      is_terminal=jnp.zeros(2, bool))
  tree = tree_lib.create(root, 4)
  assert tree.shape == (2, 4)
  leaves = jnp.array([[-1], [0]])
  expansion = fixed(
      value=np.array([1.0, 2.0, 3.0], np.float32),
      is_terminal=np.array([True, True, False]),
      reward=np.array([0.5, 0.25, 9.0], np.float32),
      is_valid=np.array([True, False, True]))(
          None, None, search.Path(None, jnp.zeros(2, int), None, None))
  tree, children = tree_lib.insert(tree, leaves, expansion)
  np.testing.assert_array_equal(tree.num_nodes, [1, 4])
  np.testing.assert_array_equal(
      children.nodes, [[[4, 4, 4]], [[1, 2, 3]]])
  np.testing.assert_array_equal(
      children.is_valid[:, 0], [[False] * 3, [True, False, True]])
  np.testing.assert_array_equal(tree.rewards[1], [0, 0.5, 0, 0])
  np.testing.assert_array_equal(tree.is_terminal[1], [0, 1, 0, 0])
  np.testing.assert_array_equal(tree.first_child, [[-1] * 4, [1, -1, -1, -1]])
