# SPDX-License-Identifier: Apache-2.0
"""The value loss: against NumPy, clipped and not, and what it can reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.objectives import erl2
from meta_cot.objectives import value


def make_arrays():
  noise = np.random.default_rng(0)
  values, targets, old = noise.uniform(size=(3, 4, 6)).astype(np.float32)
  return values, targets, old, noise.uniform(size=(4, 6)) < 0.7


@pytest.mark.parametrize('clip', [None, 0.2])
def test_against_numpy(clip):
  values, targets, old, is_sampled = make_arrays()
  want, slope = (values - targets) ** 2 / 2, values - targets
  if clip is not None:
    held = np.clip(values, old - clip, old + clip)
    other = (held - targets) ** 2 / 2
    slope = np.where(other > want, (held == values) * slope, slope)
    want = np.maximum(want, other)
    assert np.any((slope == 0) & is_sampled)

  def loss(values):
    losses, sums = value.squared_error(
        values, jnp.asarray(targets), jnp.asarray(is_sampled), clip=clip,
        old_values_RxL=None if clip is None else jnp.asarray(old))
    return jnp.sum(losses), (losses, sums)

  noisy = jnp.asarray(np.where(is_sampled, values, np.nan))
  gradient, (losses, sums) = jax.grad(loss, has_aux=True)(noisy)
  np.testing.assert_allclose(losses, np.where(is_sampled, want, 0), rtol=1e-5)
  np.testing.assert_allclose(
      gradient, np.where(is_sampled, slope, 0), rtol=1e-5)
  error = ((values - targets) ** 2)[is_sampled].sum()
  np.testing.assert_allclose(sums.squared_error, error, rtol=1e-5)
  variance = sums.target_squared / sums.tokens - (sums.target / sums.tokens)**2
  np.testing.assert_allclose(variance, targets[is_sampled].var(), rtol=1e-4)


def test_micro_batches_add_up():
  values, targets, _, is_sampled = make_arrays()
  parts = [
      value.squared_error(*(jnp.asarray(x[rows]) for x in (
          values, targets, is_sampled)))[1]
      for rows in (slice(0, 4), slice(0, 2), slice(2, 4))]
  jax.tree.map(
      lambda whole, a, b: np.testing.assert_allclose(whole, a + b, rtol=1e-6),
      *parts)


@pytest.mark.parametrize('early', [0.0, 1.0, 0.6])
def test_returns_in_the_unit_of_the_head(early):
  rewards = jnp.asarray(
      np.random.default_rng(0).integers(0, 2, (64, 3)), jnp.float32)
  weights = erl2.reward_weights(3, early)
  returns = erl2.returns_to_go(rewards, weights)
  unit = value.to_unit(returns, weights)
  assert unit.min() == 0 and unit.max() == 1
  np.testing.assert_allclose(unit * weights.sum(), returns, rtol=1e-6)


def test_targets_out_of_reach_are_counted():
  targets = jnp.asarray([[-0.1, 0.0, 1.0, 1.5, 2.0]])
  is_sampled = jnp.asarray([[True, True, True, True, False]])
  sums = value.squared_error(jnp.zeros((1, 5)), targets, is_sampled)[1]
  assert sums.unreachable == 2 and sums.tokens == 4


@pytest.mark.parametrize('kwargs, message', [
    (dict(clip=0.2), 'old values that are missing'),
    (dict(old_values_RxL=jnp.zeros((1, 1))), 'got None and old values that ar'),
    (dict(clip=0.0, old_values_RxL=jnp.zeros((1, 1))), 'must be above 0')])
def test_clip_needs_both(kwargs, message):
  zeros = jnp.zeros((1, 1))
  with pytest.raises(ValueError, match=message):
    value.squared_error(zeros, zeros, zeros > 0, **kwargs)
