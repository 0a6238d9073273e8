# SPDX-License-Identifier: Apache-2.0
"""Values of a search against the same numbers from its log-probs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.search import base
from meta_cot.search import engine
from meta_cot.search import values
from meta_cot.search.frontier import BestFirst

BRANCHING = 3
STRATEGY = BestFirst(
    num_expansions=12, branching=BRANCHING, max_depth=4, goal_test='pop')


def _step(params, rng, path):
  """Children with random log-probs and lengths; a third of them end."""
  del rng

  def one(key):
    ends, length, log_prob, reward = jax.random.split(key, 4)
    shape = (BRANCHING,)
    return base.Expansion(
        embedding=jnp.zeros(shape), value=jnp.full(shape, 7.0),
        is_valid=jnp.ones(shape, bool),
        is_terminal=jax.random.bernoulli(ends, 0.33, shape),
        reward=params * jax.random.uniform(reward, shape),
        num_tokens=jax.random.randint(length, shape, 1, 6),
        log_prob=-3 * jax.random.uniform(log_prob, shape))

  return jax.vmap(one)(path.keys)


def _tree(step_fn, *, is_counted, scale=-1.0):
  root = base.Root(
      embedding=jnp.zeros(4), value=jnp.ones(4), is_terminal=jnp.zeros(4, bool))
  params = jnp.float32(scale)
  if is_counted:
    params, root = (params, ()), values.begin(
        root, values.Likelihood().begin(None, None, root))
  return jax.device_get(engine.run(
      STRATEGY, params, jax.random.key(5), root, step_fn)).tree


@pytest.mark.parametrize('is_reward', [False, True])
def test_likelihood_is_the_geometric_mean_over_the_path(is_reward):
  tree = _tree(
      values.valued(_step, values.Likelihood(), is_reward=is_reward),
      is_counted=True)
  num_checked = 0
  for b, n in zip(*np.nonzero(tree.is_valid)):
    log_prob, num_tokens, node = 0.0, 0, n
    # Every node's own tokens follow from the counts of it and its parent.
    while node:
      parent = tree.parents[b, node]
      log_prob += float(tree.log_probs[b, node])
      num_tokens += int(tree.embeddings.kept.num_tokens[b, node]
                        - tree.embeddings.kept.num_tokens[b, parent])
      node = parent
    if n:
      value = np.exp(log_prob / num_tokens)
      np.testing.assert_allclose(tree.values[b, n], value, rtol=1e-5)
      num_checked += 1
      if is_reward and tree.is_terminal[b, n]:
        np.testing.assert_allclose(tree.rewards[b, n], value, rtol=1e-5)
      elif tree.is_terminal[b, n]:
        assert tree.rewards[b, n] <= 0
  assert num_checked > 20 and tree.depths.max() > 1


def test_settled_values_are_rewards_at_the_end_only():
  tree = _tree(values.settled(_step), is_counted=False)
  is_end = tree.is_terminal & tree.is_valid
  is_inner = ~tree.is_terminal & tree.is_valid
  is_inner[:, 0] = False
  assert is_end.sum() > 5 and is_inner.sum() > 5
  np.testing.assert_array_equal(tree.values[is_end], tree.rewards[is_end])
  assert (tree.values[is_inner] == 7.0).all()
