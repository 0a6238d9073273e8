# SPDX-License-Identifier: Apache-2.0
"""Rotary positions, masks and scaled dot-product attention, as functions."""

import math

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.model import config as model_config

NEG_INF = -1e30  # finite: a row without any key stays free of NaNs


@struct.dataclass
class Context:
  """What attention of one kind of layer (global or windowed) needs to know.

  The batch axis is 1 where all rows are alike.
  """

  cos: jax.Array  # [B, 1, L, Dh / 2] float32
  sin: jax.Array  # [B, 1, L, Dh / 2] float32
  mask: jax.Array  # [B, 1, 1, L, M] bool, True where a query sees a key


def make_context(
    config: model_config.ModelConfig,
    positions_BxL: jax.Array,
    key_positions_BxM: jax.Array,
    may_see_BxLxM: jax.Array | None,
    *,
    is_global: bool,
) -> Context:
  """The context of a global or a windowed layer.

  A query sees keys at its own and earlier positions; in a windowed layer those
  less than `config.sliding_window` positions back.

  Args:
    config: of the model.
    positions_BxL: positions of the queries.
    key_positions_BxM: positions of the keys.
    may_see_BxLxM: False forbids a pair besides (other segment, unused slot).
    is_global: whether the layer is not windowed.
  """
  distance_BxLxM = positions_BxL[:, :, None] - key_positions_BxM[:, None, :]
  mask_BxLxM = distance_BxLxM >= 0
  if not is_global:
    mask_BxLxM &= distance_BxLxM < config.sliding_window
  if may_see_BxLxM is not None:
    mask_BxLxM &= may_see_BxLxM
  angles = positions_BxL[:, None, :, None].astype(jnp.float32) * (
      rotary_frequencies(config, is_global=is_global)[None, None, None, :])
  return Context(
      cos=jnp.cos(angles), sin=jnp.sin(angles),
      mask=mask_BxLxM[:, None, None])


def rotary_frequencies(
    config: model_config.ModelConfig, *, is_global: bool
) -> jax.Array:
  """Angle per position of every pair of channels, [Dh / 2] float32.

  theta ** (-2 i / Dh). With `rope_scaling_factor` s they are divided by s in
  global layers: all of them (linear), or, with frequency factors, only long
  wavelengths, blended in between as in Llama 3.1.
  """
  exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32)
  exponents = exponents / config.head_dim
  local = not is_global and config.rope_local_theta is not None
  theta = config.rope_local_theta if local else config.rope_theta
  frequencies = 1.0 / theta ** exponents
  if config.rope_scaling_factor is None or local:
    return frequencies
  scaled = frequencies / config.rope_scaling_factor
  if config.rope_low_freq_factor is None:
    return scaled
  low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
  turns = config.rope_original_max_length * frequencies / (2 * math.pi)
  keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return keep * frequencies + (1.0 - keep) * scaled


def rotate(x: jax.Array, context: Context) -> jax.Array:
  """Turns channel pairs (i, i + Dh/2) of x [B, H, L, Dh] by their positions."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
      [first * context.cos - second * context.sin,
       second * context.cos + first * context.sin], axis=-1)
  return turned.astype(x.dtype)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
  """cap * tanh(x / cap); `x` itself without a cap."""
  return x if cap is None else jnp.tanh(x / cap) * cap


def attend(
    config: model_config.ModelConfig,
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array,
) -> jax.Array:
  """Attention of grouped heads; the softmax is in float32.

  Heads are the batch axis of two matrix products, and the G = H / K queries of
  a key head are rows of the same product: on the CPU 1.8 times as fast as one
  contraction over five axes.

  Args:
    config: of the model.
    queries: [B, H, L, Dh], rotated.
    keys: [B, K, M, Dh], rotated; query head h reads key head h // G.
    values: [B, K, M, Dh].
    mask: [B or 1, 1, 1, L, M] bool.

  Returns:
    [B, H, L, Dh] in the type of `queries`.
  """
  b, h, length, dh = queries.shape
  k, m = keys.shape[1:3]
  scale = dh ** -0.5 if config.query_scale is None else config.query_scale
  rows = (queries * scale).reshape(b, k, h // k * length, dh)
  scores = jnp.einsum(
      'bkrd,bkmd->bkrm', rows, keys, preferred_element_type=jnp.float32)
  scores = softcap(scores, config.attention_softcap)
  scores = scores.reshape(b, k, h // k, length, m)
  weights = jax.nn.softmax(jnp.where(mask, scores, NEG_INF), axis=-1)
  weights = weights.reshape(b, k, h // k * length, m).astype(values.dtype)
  return jnp.einsum('bkrm,bkmd->bkrd', weights, values).reshape(queries.shape)
