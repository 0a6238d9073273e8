# SPDX-License-Identifier: Apache-2.0
"""Attention by JAX's splash kernel (Pallas): scores never leave the chip.

Blocks of the score matrix that the causal or window mask empties are skipped.
"""

import jax
from jax.experimental.pallas.ops.tpu import splash_attention
import jax.numpy as jnp

from meta_cot.model import config as model_config

ROW_MULTIPLE = 128  # lanes of a TPU's vector unit; rows come in whole lanes
SAVED = 'attention_output'  # checkpoint name of what the backward pass needs
_MAX_BLOCK = 512  # longer blocks gain little and need more on-chip memory


def obstacle(config: model_config.ModelConfig, platform: str) -> str | None:
  """Why the kernel cannot run, as words for an error; None if it can."""
  del config  # any head width, softcap, window and type will do
  if platform not in ('tpu', 'cpu'):
    return f'the kernel is for TPUs, this is a {platform}'
  return None


def attend(
    config: model_config.ModelConfig, queries: jax.Array, keys: jax.Array,
    values: jax.Array, segment_ids_BxL: jax.Array | None = None, *,
    window: int | None, platform: str,
) -> jax.Array:
  """Causal self-attention of grouped heads; the softmax is in float32.

  Args:
    config: of the model.
    queries: [B, H, L, Dh], rotated, as is the result; L a multiple of
      ROW_MULTIPLE.
    keys: [B, K, L, Dh], rotated.
    values: [B, K, L, Dh].
    segment_ids_BxL: int32; a position sees its own segment only. None: all.
    window: indices that a position sees back, its own included. None: all.
    platform: on 'cpu' the kernel is interpreted: right, and slow.
  """
  num_heads, length = queries.shape[1:3]
  queries = queries * config.attention_scale  # the kernel itself has no scale
  shape = (length, length)
  mask = splash_attention.CausalMask(shape) if window is None else (
      splash_attention.LocalMask(shape, (window - 1, 0), 0))
  block = _block(length)
  kernel = splash_attention.make_splash_mha(
      splash_attention.MultiHeadMask([mask] * num_heads),
      block_sizes=splash_attention.BlockSizes(
          block_q=block, block_kv=block, block_q_dkv=block,
          block_kv_dkv=block, block_q_dq=block, block_kv_dq=block),
      head_shards=1, q_seq_shards=1,
      attn_logits_soft_cap=config.block.attention_softcap,
      residual_checkpoint_name=SAVED, interpret=platform == 'cpu')
  if segment_ids_BxL is None:
    return jax.vmap(kernel)(queries, keys, values)
  ids_BxL = segment_ids_BxL.astype(jnp.int32)
  return jax.vmap(kernel)(
      queries, keys, values, splash_attention.SegmentIds(ids_BxL, ids_BxL))


def _block(length: int) -> int:
  """The longest block of whole lanes that divides a row."""
  return max(
      size for size in range(ROW_MULTIPLE, _MAX_BLOCK + 1, ROW_MULTIPLE)
      if length % size == 0)
