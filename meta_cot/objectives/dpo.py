# SPDX-License-Identifier: Apache-2.0
"""Step-level direct preference optimisation on pairs of siblings.

DPO (arXiv 2305.18290, Eq. 7) where the two answers are two next steps of one
state (Step-DPO, arXiv 2406.18629, Eq. 2).

Axes: B rows, L tokens. The texts of a pair are neighbours in a row: segment
2 k - 1 ends with the step that is preferred, segment 2 k with the other one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from meta_cot import types
from meta_cot.objectives import sft


def log_probs(
    read_out: Callable[[jax.Array], jax.Array], hidden_BxLxD: jax.Array,
    targets_BxL: jax.Array, *, num_chunks: int,
) -> jax.Array:
  """Computes log-probabilities of targets, nats [B, L] float32.

  Args:
    read_out: vectors [B, C, D] -> float32 logits [B, C, V].
    hidden_BxLxD: the trunk's output.
    targets_BxL: int32.
    num_chunks: pieces of a row whose logits exist one at a time; divides L.
  """
  def pieces(x):  # [B, L, ...] -> [chunks, B, L / chunks, ...]
    return jnp.swapaxes(
        x.reshape(x.shape[0], num_chunks, -1, *x.shape[2:]), 0, 1)

  @jax.checkpoint
  def score(piece):
    hidden, targets = piece
    return jnp.take_along_axis(
        jax.nn.log_softmax(read_out(hidden)), targets[..., None],
        axis=-1)[..., 0]

  found = jax.lax.map(score, (pieces(hidden_BxLxD), pieces(targets_BxL)))
  return jnp.swapaxes(found, 0, 1).reshape(targets_BxL.shape)


def pair_sums(
    log_probs_BxL: jax.Array, reference_BxL: jax.Array, batch: types.Batch, *,
    beta: float,
) -> sft.Sums:
  """Totals -log sigmoid(beta (ratio of one step - ratio of the other)).

  A ratio is log pi - log pi_ref, summed over the tokens of a step.

  Args:
    log_probs_BxL: of the targets; the gradient flows through them only.
    reference_BxL: of the same by the policy that stays.
    batch: of pairs; `loss_mask` is above 0 at the tokens of steps, and sums up
      to the weight of a pair.
    beta: above 0.

  Returns:
    Totals over pairs, by weight; `correct` are those whose preferred step has
    the larger ratio.
  """
  is_step_BxL = batch.loss_mask > 0
  ratios_BxL = jnp.where(
      is_step_BxL,
      log_probs_BxL - jax.lax.stop_gradient(reference_BxL), 0.0)
  sign_BxL = jnp.where(batch.segment_ids % 2 == 1, 1.0, -1.0)
  pair_BxL = (batch.segment_ids + 1) // 2  # 0: padding
  num_pairs = batch.tokens.shape[1] // 2 + 1
  add = jax.vmap(lambda x_L, pair_L: jax.ops.segment_sum(
      x_L, pair_L, num_segments=num_pairs))
  margins_BxP = beta * add(sign_BxL * ratios_BxL, pair_BxL)
  weights_BxP = add(batch.loss_mask, pair_BxL)
  return sft.Sums(
      loss=jnp.sum(weights_BxP * jax.nn.softplus(-margins_BxP)),
      correct=jnp.sum(weights_BxP * (margins_BxP > 0)),
      weight=jnp.sum(weights_BxP),
      tokens=jnp.sum((batch.segment_ids > 0).astype(jnp.float32)))
