# SPDX-License-Identifier: Apache-2.0
"""Dimension legend and the array structures every layer shares.

Array names end in their shape, one letter per dimension:

  B  problems or sequences (batch)      H  attention heads
  L  query length                       K  key/value heads
  M  cache length (key/value slots)     D  model width
  P  prompt length                      F  feed-forward width
  T  generated tokens                   V  vocabulary
  N  tree nodes                         A  candidate steps of a node
  G  samples per prompt                 E  episodes per trajectory

Head width has no letter of its own in names; comments call it Dh. Scalars have
no suffix. Struct fields carry their shape in a comment instead.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

Params = Any  # a pytree of parameter arrays
PRNGKey = jax.Array  # a typed key from jax.random.key; consumed by its taker


@struct.dataclass
class Batch:
  """One batch of packed token sequences; all fields are [B, L].

  `targets[b, l]` is the token that follows `tokens[b, l]` in the same segment.
  Segment 0 is padding; segments are numbered from 1 in every row. `loss_mask`
  weighs the prediction of `targets`: 0 where it is not trained. Value targets
  are those of the state that ends with `tokens[b, l]`, at its last token.
  """

  tokens: jax.Array  # int32
  targets: jax.Array  # int32
  positions: jax.Array  # int32, restart at 0 in every segment
  segment_ids: jax.Array  # int32
  loss_mask: jax.Array  # float32
  # float32, or None where no value is trained.
  value_targets: jax.Array | None = None  # in [0, 1]
  value_weights: jax.Array | None = None  # 0 where there is no target
  value_offsets: jax.Array | None = None  # of the logits, in training

  @property
  def weight(self) -> jax.Array:
    """Sum of all weights, [] float32; the loss is the mean over them."""
    total = jnp.sum(self.loss_mask)
    if self.value_weights is not None:
      total += jnp.sum(self.value_weights)
    return total
