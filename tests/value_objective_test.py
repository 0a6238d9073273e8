# SPDX-License-Identifier: Apache-2.0
"""The value loss: against NumPy, clipped and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    losses, total = value.squared_error(
        values, jnp.asarray(targets), jnp.asarray(is_sampled), clip=clip,
        old_values_RxL=None if clip is None else jnp.asarray(old))
    return jnp.sum(losses), (losses, total)

  noisy = jnp.asarray(np.where(is_sampled, values, np.nan))
  gradient, (losses, total) = jax.grad(loss, has_aux=True)(noisy)
  np.testing.assert_allclose(losses, np.where(is_sampled, want, 0), rtol=1e-5)
  np.testing.assert_allclose(
      gradient, np.where(is_sampled, slope, 0), rtol=1e-5)
  error = ((values - targets) ** 2)[is_sampled].sum()
  np.testing.assert_allclose(total, error, rtol=1e-5)


def test_micro_batches_add_up():
  values, targets, _, is_sampled = make_arrays()
  parts = [
      value.squared_error(*(jnp.asarray(x[rows]) for x in (
          values, targets, is_sampled)))[1]
      for rows in (slice(0, 4), slice(0, 2), slice(2, 4))]
  jax.tree.map(
      lambda whole, a, b: np.testing.assert_allclose(whole, a + b, rtol=1e-6),
      *parts)
