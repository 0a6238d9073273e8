# SPDX-License-Identifier: Apache-2.0
"""Attention by cuDNN's fused kernel on NVIDIA GPUs, through `jax.nn`."""

import jax
import jax.numpy as jnp

from meta_cot.model import config as model_config

ROW_MULTIPLE = 2  # gradients with a mask need rows of even length


def obstacle(config: model_config.ModelConfig, platform: str) -> str | None:
  """Why cuDNN cannot run this, as words for an error; None if it can."""
  if platform not in ('gpu', 'cpu'):
    return f'cuDNN is for GPUs, this is a {platform}'
  if config.block.attention_softcap is not None:
    return 'cuDNN has no attention_softcap, and the model has one'
  if config.head_dim % 8 or config.head_dim > 256:
    return (f'cuDNN wants a head_dim that is a multiple of 8 and at most 256, '
            f'the model has {config.head_dim}')
  if platform == 'gpu' and config.dtype != jnp.bfloat16:
    return f'cuDNN computes in bfloat16, compute_dtype is {config.dtype.name}'
  return None


def attend(
    config, queries, keys, values, segment_ids_BxL=None, *, window, platform
) -> jax.Array:
  """Causal self-attention; arguments and result as in `splash.attend`.

  Segments become a mask of [B, 1, L, L], shared by the heads. On the CPU the
  same call runs as plain XLA.
  """
  mask = None
  if segment_ids_BxL is not None:
    mask_BxLxM = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    mask = mask_BxLxM[:, None]
  swap = lambda x: x.transpose(0, 2, 1, 3)  # to and from [B, L, H, Dh]
  return swap(jax.nn.dot_product_attention(
      swap(queries), swap(keys), swap(values), mask=mask,
      scale=config.attention_scale, is_causal=True,
      local_window_size=None if window is None else (window - 1, 0),
      implementation='xla' if platform == 'cpu' else 'cudnn'))
