# SPDX-License-Identifier: Apache-2.0
"""Regression of the value head on returns, as PPO has it.

The value head is a sigmoid: it reaches (0, 1) and nothing else. Targets are
therefore returns divided by the sum of the episodes' weights, which lie in
[0, 1] if rewards do, discounted or not. A KL penalty in the reward makes
returns negative, and those cannot be reached: with a value head put the KL in
the loss.

Axes: R rows, L tokens.
"""

import jax
import jax.numpy as jnp

from meta_cot import masked


def squared_error(
    values_RxL: jax.Array, targets_RxL: jax.Array, is_sampled_RxL: jax.Array,
    *, old_values_RxL: jax.Array | None = None, clip: float | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Halves the squared error of every token.

  (V - target)^2 / 2 (PPO, arXiv 1707.06347, Eq. 9) or, with `clip`, the larger
  of this and that of V held within +-clip of its value at sampling time (as
  PPO is commonly run): a value beyond that has no gradient.

  Args:
    values_RxL: float32 in [0, 1]; V of the context before the token.
    targets_RxL: float32 in [0, 1]; see the module.
    is_sampled_RxL: bool.
    old_values_RxL: V when the rows were sampled; with `clip` only.
    clip: above 0.

  Returns:
    Losses [R, L] float32, 0 at forced tokens, and the sum [] float32 of
    (V - target)^2 over the others, not clipped.
  """
  is_sampled_RxL = is_sampled_RxL.astype(bool)
  own = lambda x: jnp.where(is_sampled_RxL, x.astype(jnp.float32), 0.0)
  values_RxL = own(values_RxL)
  targets_RxL = jax.lax.stop_gradient(own(targets_RxL))
  error_RxL = worst_RxL = jnp.square(values_RxL - targets_RxL)
  if clip is not None:
    old_RxL = jax.lax.stop_gradient(own(old_values_RxL))
    held_RxL = jnp.clip(values_RxL, old_RxL - clip, old_RxL + clip)
    worst_RxL = jnp.maximum(error_RxL, jnp.square(held_RxL - targets_RxL))
  return worst_RxL / 2, masked.masked_sum(
      jax.lax.stop_gradient(error_RxL), is_sampled_RxL)
