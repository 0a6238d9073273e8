# SPDX-License-Identifier: Apache-2.0
"""Training of the value head: on returns as PPO has it, on labels of states.

`cross_entropy_sums` is for labels (arXiv 2501.04682, section 5), the rest for
returns.

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
from meta_cot import types
from meta_cot.objectives import sft


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


def cross_entropy_sums(
    value_logits_BxL: jax.Array, batch: types.Batch
) -> sft.Sums:
  """Totals the cross-entropy of values with soft targets, at states.

  Logits are compared with `value_targets` after `value_offsets` are added. An
  offset is the log odds by which successes weigh more than they should: without
  it, as a model is used, values are those of states as they are.

  Args:
    value_logits_BxL: float32.
    batch: with value targets.

  Returns:
    Totals weighed by `value_weights`; `correct` are those on the right side of
    1/2, offsets added, and `tokens` are 0.
  """
  logits_BxL = value_logits_BxL.astype(jnp.float32) + batch.value_offsets
  weights_BxL = batch.value_weights
  losses_BxL = jax.nn.softplus(logits_BxL) - batch.value_targets * logits_BxL
  hits_BxL = (logits_BxL > 0) == (batch.value_targets > 0.5)
  return sft.Sums(
      loss=masked.masked_sum(losses_BxL, weights_BxL),
      correct=masked.masked_sum(hits_BxL, weights_BxL),
      weight=jnp.sum(weights_BxL), tokens=jnp.zeros((), jnp.float32))
