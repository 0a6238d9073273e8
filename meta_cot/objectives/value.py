# SPDX-License-Identifier: Apache-2.0
"""Regression of the value head on returns, as PPO has it.

The value head is a sigmoid: it reaches (0, 1) and nothing else. Targets are
therefore returns divided by the sum of the episodes' weights (`to_unit`),
which lie in [0, 1] if rewards do, discounted or not. A KL penalty in the
reward makes returns negative, and those cannot be reached: with a value head
put the KL in the loss. `Sums.unreachable` counts such targets.

Axes: N trajectories, K episodes, R rows, L tokens.
"""

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import masked


@struct.dataclass
class Sums:
  """Totals over sampled tokens; sums of micro-batches add up exactly.

  The explained variance is 1 - squared_error / (target_squared - target^2 /
  tokens).
  """

  tokens: jax.Array  # [] float32, how many
  squared_error: jax.Array  # [] float32, (V - target)^2, not clipped
  target: jax.Array  # [] float32
  target_squared: jax.Array  # [] float32
  unreachable: jax.Array  # [] float32, targets outside of [0, 1]


def to_unit(returns_NxK: jax.Array, weights_K: jax.Array) -> jax.Array:
  """Returns over the sum of the weights: what the head can say, [N, K].

  Advantages made of values in this unit are those of the returns, over the
  same sum.

  Args:
    returns_NxK: float32 weighted returns or rewards, any number of columns.
    weights_K: `erl2.reward_weights`; they sum to at least 1.
  """
  return returns_NxK.astype(jnp.float32) / jnp.sum(
      weights_K.astype(jnp.float32))


def squared_error(
    values_RxL: jax.Array,
    targets_RxL: jax.Array,
    is_sampled_RxL: jax.Array,
    *,
    old_values_RxL: jax.Array | None = None,
    clip: float | None = None,
) -> tuple[jax.Array, Sums]:
  """Half the squared error of every token, and its totals.

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
    Losses [R, L] float32, 0 at forced tokens, and `Sums`.

  Raises:
    ValueError: only one of `old_values_RxL` and `clip`, or `clip` not above 0.
  """
  if (clip is None) != (old_values_RxL is None):
    raise ValueError(
        f'clip: got {clip} and old values that are '
        f"{'missing' if old_values_RxL is None else 'given'}; give both to "
        'clip, or neither.')
  if clip is not None and not clip > 0:
    raise ValueError(f'clip: got {clip}; must be above 0, None for no clip.')
  is_sampled_RxL = is_sampled_RxL.astype(bool)
  values_RxL = jnp.where(is_sampled_RxL, values_RxL.astype(jnp.float32), 0.0)
  targets_RxL = jax.lax.stop_gradient(
      jnp.where(is_sampled_RxL, targets_RxL.astype(jnp.float32), 0.0))
  error_RxL = jnp.square(values_RxL - targets_RxL)
  worst_RxL = error_RxL
  if clip is not None:
    old_RxL = jax.lax.stop_gradient(
        jnp.where(is_sampled_RxL, old_values_RxL.astype(jnp.float32), 0.0))
    held_RxL = jnp.clip(values_RxL, old_RxL - clip, old_RxL + clip)
    worst_RxL = jnp.maximum(error_RxL, jnp.square(held_RxL - targets_RxL))
  is_outside_RxL = (targets_RxL < 0) | (targets_RxL > 1)
  return worst_RxL / 2, Sums(
      tokens=jnp.sum(is_sampled_RxL.astype(jnp.float32)),
      squared_error=masked.masked_sum(
          jax.lax.stop_gradient(error_RxL), is_sampled_RxL),
      target=masked.masked_sum(targets_RxL, is_sampled_RxL),
      target_squared=masked.masked_sum(
          jnp.square(targets_RxL), is_sampled_RxL),
      unreachable=masked.masked_sum(is_outside_RxL, is_sampled_RxL))
