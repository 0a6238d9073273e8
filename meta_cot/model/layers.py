# SPDX-License-Identifier: Apache-2.0
"""The Flax Linen modules: norms, projections, blocks, embeddings, value head.

Parameters carry logical axis names (see `meta_cot.sharding.RULES`); they are
kept in `param_dtype` and cast to the compute dtype where they are used. Norms
and read-outs compute in float32.
"""

import math

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from meta_cot import sharding
from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import pages

_ACTIVATIONS = {
    'silu': jax.nn.silu,
    'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
}


def _param(module: nn.Module, name, init, axes, shape) -> jax.Array:
  """A parameter of a module, boxed with the logical names of its axes."""
  return module.param(
      name, nn.with_logical_partitioning(init, axes), shape,
      module.config.execution.param_dtype)


class RMSNorm(nn.Module):
  """Divides by the root mean square of the last axis, then scales."""

  config: model_config.ModelConfig
  axis: str = 'norm'  # logical axis of the scale

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    config = self.config
    plus_one = config.block.norm_plus_one
    init = nn.initializers.zeros if plus_one else nn.initializers.ones
    scale_D = _param(self, 'scale', init, (self.axis,), x.shape[-1:])
    scale_D = scale_D.astype(jnp.float32) + (1.0 if plus_one else 0)
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    normed = x32 * jax.lax.rsqrt(mean_square + config.block.norm_epsilon)
    scale = scale_D.reshape((1,) * (x.ndim - 1) + scale_D.shape)
    return (normed * scale).astype(x.dtype)


class Projection(nn.Module):
  """A linear map from the axes `in_shape` to the axes `out_shape`.

  Takes [B, L, prod(in_shape)] and gives [B, L, prod(out_shape)]: one plain
  matrix product, whatever the shape of the kernel.
  """

  config: model_config.ModelConfig
  in_shape: tuple[int, ...]
  out_shape: tuple[int, ...]
  axes: tuple[str, ...]  # logical axes of the kernel [*in_shape, *out_shape]
  use_bias: bool = False
  gain: float = 1.0  # standard deviation at the start times sqrt(fan in)

  @nn.compact
  def __call__(self, x_BxLxI: jax.Array) -> jax.Array:
    config, num_in = self.config, len(self.in_shape)
    rank = num_in + len(self.out_shape)
    init = nn.initializers.variance_scaling(
        self.gain ** 2, 'fan_in', 'truncated_normal',
        in_axis=tuple(range(num_in)), out_axis=tuple(range(num_in, rank)))
    kernel = _param(
        self, 'kernel', init, self.axes, self.in_shape + self.out_shape)
    kernel_IxO = kernel.reshape(math.prod(self.in_shape), -1)
    y_BxLxO = jnp.matmul(x_BxLxI, kernel_IxO.astype(config.dtype))
    if self.has_variable('params', 'lora_a'):  # see `model.lora`
      a, b = (self.get_variable('params', f'lora_{name}') for name in 'ab')
      a_IxR = a.reshape(-1, a.shape[-1]).astype(config.dtype)
      b_RxO = b.reshape(len(b), -1).astype(config.dtype)
      y_BxLxO += jnp.matmul(jnp.matmul(x_BxLxI, a_IxR), b_RxO)
    if self.use_bias:
      bias = _param(
          self, 'bias', nn.initializers.zeros, self.axes[num_in:],
          self.out_shape)
      y_BxLxO += bias.astype(config.dtype).reshape(1, 1, -1)
    return y_BxLxO


class Attention(nn.Module):
  """Grouped-query self-attention, over its own tokens or over a cache."""

  config: model_config.ModelConfig

  @nn.compact
  def __call__(
      self, x_BxLxD: jax.Array, context: attention.Context,
      view: cache_lib.View | None,
  ) -> tuple[jax.Array, cache_lib.View | None]:
    config = self.config
    q = self._heads('q_proj', x_BxLxD, config.num_heads, 'heads')
    k = self._heads('k_proj', x_BxLxD, config.num_kv_heads, 'kv_heads')
    v = self._heads('v_proj', x_BxLxD, config.num_kv_heads, 'kv_heads')
    if config.block.use_qk_norm:
      q = RMSNorm(config, axis='head_dim', name='q_norm')(q)
      k = RMSNorm(config, axis='head_dim', name='k_norm')(k)
    q, k = attention.rotate(q, context), attention.rotate(k, context)
    parts = [cache_lib.Part(k, v)]
    if view is not None:
      view = cache_lib.write(view, k, v)
      if context.mask is not None:  # what it sees lies in the caches
        parts = [
            cache_lib.layer_of(c, view.layer)
            for c in (*view.shared, view.cache)]
    if len(parts) > 1:
      y = pages.attend(config, q, parts, context.mask)
    else:
      y = attention.apply(config, q, parts[0].keys, parts[0].values, context)
    b, h, length, dh = y.shape
    y_BxLxO = y.transpose(0, 2, 1, 3).reshape(b, length, h * dh)
    return Projection(
        config, (h, dh), (config.embed_dim,), ('heads', 'head_dim', 'embed'),
        gain=(2 * config.num_layers) ** -0.5, name='o_proj')(y_BxLxO), view

  def _heads(self, name, x_BxLxD, num_heads, axis):
    """Projects to [B, num_heads, L, Dh]."""
    config = self.config
    y = Projection(
        config, (config.embed_dim,), (num_heads, config.head_dim),
        ('embed', axis, 'head_dim'), use_bias=config.block.use_qkv_bias,
        name=name)(x_BxLxD)
    return y.reshape(
        *y.shape[:2], num_heads, config.head_dim).transpose(0, 2, 1, 3)


class MLP(nn.Module):
  """Gated feed-forward layer: down(activation(gate(x)) * up(x))."""

  config: model_config.ModelConfig

  @nn.compact
  def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
    config = self.config
    d, f = (config.embed_dim,), (config.mlp_dim,)
    gate_BxLxF, up_BxLxF = (
        Projection(config, d, f, ('embed', 'mlp'), name=name)(x_BxLxD)
        for name in ('gate_proj', 'up_proj'))
    hidden_BxLxF = _ACTIVATIONS[config.block.activation](gate_BxLxF) * up_BxLxF
    return Projection(
        config, f, d, ('mlp', 'embed'),
        gain=(2 * config.num_layers) ** -0.5, name='down_proj')(hidden_BxLxF)


class Block(nn.Module):
  """Attention and MLP on the residual stream, each behind a norm."""

  config: model_config.ModelConfig

  @nn.compact
  def __call__(
      self, x_BxLxD: jax.Array, context: attention.Context,
      view: cache_lib.View | None,
  ) -> tuple[jax.Array, cache_lib.View | None]:
    config = self.config
    y_BxLxD, view = Attention(config, name='attention')(
        RMSNorm(config, name='attention_norm')(x_BxLxD), context, view)
    if config.block.use_post_norms:
      y_BxLxD = RMSNorm(config, name='attention_post_norm')(y_BxLxD)
    x_BxLxD += checkpoint_name(y_BxLxD, 'block_output')
    y_BxLxD = MLP(config, name='mlp')(
        RMSNorm(config, name='mlp_norm')(x_BxLxD))
    if config.block.use_post_norms:
      y_BxLxD = RMSNorm(config, name='mlp_post_norm')(y_BxLxD)
    return x_BxLxD + checkpoint_name(y_BxLxD, 'block_output'), view


class Embedder(nn.Module):
  """Token table, and the read-out to logits (the same table if tied)."""

  config: model_config.ModelConfig

  def setup(self):
    config, init = self.config, nn.initializers.normal(0.02)
    shape = (config.vocab_size, config.embed_dim)
    self.embedding = _param(
        self, 'embedding', init, ('vocab', 'embed'), shape)
    if not config.tie_embeddings:
      self.readout = _param(
          self, 'readout', init, ('embed', 'vocab'), shape[::-1])

  def encode(self, tokens_BxL: jax.Array) -> jax.Array:
    """Tokens to vectors [B, L, D] in the compute dtype."""
    dtype = self.config.dtype
    # Gathered along D first: a look-up in a table split along D would make the
    # compiler replicate its result over the batch.
    table_VxD = sharding.constrain(self.embedding.astype(dtype), 'vocab', None)
    x_BxLxD = jnp.take(table_VxD, tokens_BxL, axis=0)
    if self.config.embed_scale:
      x_BxLxD *= jnp.asarray(self.config.embed_dim ** 0.5, dtype)
    return x_BxLxD

  def decode(self, x_BxLxD: jax.Array) -> jax.Array:
    """Vectors to logits [B, L, V] in float32."""
    config = self.config
    product, table = (
        ('bld,vd->blv', self.embedding) if config.tie_embeddings
        else ('bld,dv->blv', self.readout))
    logits_BxLxV = jnp.einsum(
        product, x_BxLxD, table.astype(config.dtype),
        preferred_element_type=jnp.float32)
    return attention.softcap(logits_BxLxV, config.logit_softcap)


class ValueHead(nn.Module):
  """Linear read-out to one number a position; starts at zero."""

  config: model_config.ModelConfig

  @nn.compact
  def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
    zeros, width = nn.initializers.zeros, x_BxLxD.shape[-1]
    kernel_Dx1 = _param(self, 'kernel', zeros, ('embed', 'value'), (width, 1))
    bias_1 = _param(self, 'bias', zeros, ('value',), (1,))
    x_BxLx1 = jnp.matmul(
        x_BxLxD.astype(jnp.float32), kernel_Dx1.astype(jnp.float32))
    return x_BxLx1[..., 0] + bias_1.astype(jnp.float32)[None]
