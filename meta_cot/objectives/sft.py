# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning on (q, Z, S): weighted next-token cross-entropy.

Which tokens of a sequence are trained (sec. Appendix C, Eqs. 22-24 of
arXiv 2501.04682) is decided by the data pipeline and arrives as
`Batch.loss_mask`; the loss itself is the same for every objective.
"""

from collections.abc import Callable

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import masked
from meta_cot import types


@struct.dataclass
class Sums:
  """Totals over a batch; sums of micro-batches and hosts add up exactly."""

  loss: jax.Array  # [] float32, nats, weighted by the mask
  correct: jax.Array  # [] float32, argmax hits, weighted by the mask
  weight: jax.Array  # [] float32, sum of the mask
  tokens: jax.Array  # [] float32, positions that are not padding


def loss_sums(logits_BxLxV: jax.Array, batch: types.Batch) -> Sums:
  """Totals the cross-entropy of float32 predictions of `batch.targets`.

  The loss of the batch is `loss / weight`.
  """
  log_normaliser_BxL = jax.nn.logsumexp(logits_BxLxV, axis=-1)
  chosen_BxL = jnp.take_along_axis(
      logits_BxLxV, batch.targets[..., None], axis=-1)[..., 0]
  hits_BxL = jnp.argmax(logits_BxLxV, axis=-1) == batch.targets
  return Sums(
      loss=masked.masked_sum(log_normaliser_BxL - chosen_BxL, batch.loss_mask),
      correct=masked.masked_sum(hits_BxL, batch.loss_mask),
      weight=jnp.sum(batch.loss_mask.astype(jnp.float32)),
      tokens=jnp.sum((batch.segment_ids > 0).astype(jnp.float32)))


def chunked_loss_sums(
    read_out: Callable[[jax.Array], jax.Array], hidden_BxLxD: jax.Array,
    batch: types.Batch, *, num_chunks: int,
) -> Sums:
  """Computes `loss_sums` of rows whose logits never exist as a whole.

  Logits of one piece of every row are made, summed up and forgotten; the
  backward pass makes them again. The totals are the same sums in another
  order. One piece is `loss_sums` itself.

  Args:
    read_out: vectors [B, C, D] -> float32 logits [B, C, V].
    hidden_BxLxD: the trunk's output.
    batch: of the same tokens.
    num_chunks: pieces that a row is cut into.

  Raises:
    ValueError: L is not a multiple of `num_chunks`.
  """
  if num_chunks == 1:
    return loss_sums(read_out(hidden_BxLxD), batch)
  length = hidden_BxLxD.shape[1]
  if length % num_chunks:
    raise ValueError(
        f'num_chunks: got {num_chunks}; must divide the {length} tokens of a '
        'row.')

  def pieces(x):  # [B, L, ...] -> [chunks, B, L / chunks, ...]
    cut = x.reshape(x.shape[0], num_chunks, length // num_chunks, *x.shape[2:])
    return jnp.swapaxes(cut, 0, 1)

  @jax.checkpoint
  def add(total, piece):
    hidden, part = piece
    sums = loss_sums(read_out(hidden), part)
    return jax.tree.map(jnp.add, total, sums), None

  zero = jnp.zeros((), jnp.float32)
  return jax.lax.scan(
      add, Sums(zero, zero, zero, zero),
      jax.tree.map(pieces, (hidden_BxLxD, batch)))[0]
