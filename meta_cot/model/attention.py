# SPDX-License-Identifier: Apache-2.0
"""Rotary positions, masks and scaled dot-product attention, as functions.

Three implementations compute the same: `dense` is plain XLA, for any mask and
any cache; `splash` (TPU) and `cudnn` (GPU) are fused kernels for rows that
attend to their own tokens: training, scoring and prefill.
"""

import functools
import math

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import sharding
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import cudnn
from meta_cot.model import splash
from meta_cot.settings import config as config_lib

NEG_INF = -1e30  # finite: a row without any key stays free of NaNs

_FUSED = {'splash': splash, 'cudnn': cudnn}
_BY_PLATFORM = {'tpu': 'splash', 'gpu': 'cudnn'}  # for 'auto'; others: dense
_MIN_FUSED_LENGTH = 128  # for 'auto': shorter rows do not fill one block


@struct.dataclass
class Context:
  """What attention of one kind of layer (global or windowed) needs to know.

  The batch axis is 1 where all rows are alike. With 'dense' the mask says what
  a query sees. A fused kernel builds its mask from segments and from the window
  of the layer, which must be known when the program is traced: where a scan
  runs over both kinds of layers, `window_index` picks among `windows`.
  """

  cos: jax.Array  # [B, 1, L, Dh] float32, of channels i and i + Dh/2 alike
  sin: jax.Array  # [B, 1, L, Dh] float32, negative for the first half
  mask: jax.Array | None = None  # [B, 1, 1, L, M] bool, True: query sees key
  segment_ids: jax.Array | None = None  # [B, L] int32; None: one segment
  window_index: jax.Array | None = None  # [] int32; None: the only window
  windows: tuple[int | None, ...] = struct.field(
      pytree_node=False, default=())  # None: no window
  implementation: str = struct.field(pytree_node=False, default='dense')


def make_context(
    config: model_config.ModelConfig, positions_BxL: jax.Array, *,
    is_global: bool, implementation: str = 'dense',
    segment_ids_BxL: jax.Array | None = None,
    key_positions_BxM: jax.Array | None = None,
    is_valid_BxM: jax.Array | None = None,
    num_seen_BxL: jax.Array | None = None,
) -> Context:
  """The context of a global or a windowed layer.

  With 'dense' a query sees keys at its own and earlier positions; in a windowed
  layer those less than `config.block.sliding_window` positions back. For a
  fused kernel what it sees follows from indices: earlier ones of its segment.
  That is the same where positions count up by one along every segment. Rows of
  padding (a segment of equal positions) differ: there they are causal too.

  Args:
    config: of the model.
    positions_BxL: of the queries.
    is_global: whether the layer is not windowed.
    implementation: see `choose`.
    segment_ids_BxL: a token sees its own segment only; one segment if None.
    key_positions_BxM: those of the queries by default; only for 'dense'.
    is_valid_BxM: False: nobody sees the key; only for 'dense'.
    num_seen_BxL: int32, tokens at the beginning of the row that a query sees
      besides its segment; only for 'dense'.
  """
  cos, sin = _rotation(config, positions_BxL, is_global)
  window = None if is_global else config.block.sliding_window
  if implementation != 'dense':
    return Context(
        cos=cos, sin=sin, segment_ids=segment_ids_BxL, windows=(window,),
        implementation=implementation)
  if key_positions_BxM is None:
    key_positions_BxM = positions_BxL
  distance_BxLxM = positions_BxL[:, :, None] - key_positions_BxM[:, None, :]
  mask_BxLxM = distance_BxLxM >= 0
  if window is not None:
    mask_BxLxM &= distance_BxLxM < window
  if segment_ids_BxL is not None:
    is_seen_BxLxM = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    if num_seen_BxL is not None:
      index_M = jnp.arange(mask_BxLxM.shape[2])
      is_seen_BxLxM |= index_M[None, None] < num_seen_BxL[:, :, None]
    mask_BxLxM &= is_seen_BxLxM
  if is_valid_BxM is not None:
    mask_BxLxM &= is_valid_BxM[:, None, :]
  return Context(cos=cos, sin=sin, mask=mask_BxLxM[:, None, None])


def select(contexts: dict[bool, Context], is_global: jax.Array) -> Context:
  """The context of a layer whose kind (scalar bool) is known at run time."""
  if len(contexts) == 1:
    return next(iter(contexts.values()))
  both = contexts[True], contexts[False]
  windows = tuple(w for context in both for w in context.windows)
  one, two = (c.replace(windows=windows, segment_ids=None) for c in both)
  chosen = jax.tree.map(lambda x, y: jnp.where(is_global, x, y), one, two)
  if chosen.implementation == 'dense':
    return chosen
  return chosen.replace(
      segment_ids=both[0].segment_ids,
      window_index=jnp.where(is_global, 0, 1))


def choose(
    config: model_config.ModelConfig, batch_size: int, length: int
) -> str:
  """The implementation for rows that attend to their own tokens.

  'auto' takes splash on a TPU and cuDNN on a GPU for rows of at least 128
  tokens, and 'dense' elsewhere and where the kernel cannot run. The platform is
  that of the mesh in use (`sharding.platform`).

  Raises:
    ConfigError: `config.execution.attention` names a kernel that cannot run.
  """
  platform, name = sharding.platform(), config.execution.attention
  if name == 'auto':
    name = _BY_PLATFORM.get(platform, 'dense')
  if name == 'dense':
    return name
  reason = _FUSED[name].obstacle(config, platform) or (
      _sharding_obstacle(config, batch_size))
  if config.execution.attention == 'auto':
    return name if reason is None and length >= _MIN_FUSED_LENGTH else 'dense'
  if reason is not None:
    raise config_lib.ConfigError(
        f'config.model.execution.attention: got {name!r}, but {reason}; '
        "change that, or set 'auto' or 'dense'.")
  return name


def _sharding_obstacle(config, batch_size):
  for size, what, axis in (
      (batch_size, 'rows in a batch', 'act_batch'),
      (config.num_heads, 'num_heads', 'act_heads'),
      (config.num_kv_heads, 'num_kv_heads', 'act_kv_heads')):
    parts = sharding.num_parts(axis)
    if size % parts:
      return f'{size} {what} do not divide over {parts} parts of the mesh'
  return None


def _rotation(config, positions_BxL, is_global):
  """Cosines and signed sines [B, 1, L, Dh] of every position.

  Joined to the width of a head here: the CPU's compiler would else compute them
  anew for every head that they turn.
  """
  angles = positions_BxL[:, None, :, None].astype(jnp.float32) * (
      _frequencies(config, is_global)[None, None, None, :])
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  join = lambda *halves: jnp.concatenate(halves, axis=-1)
  return join(cos, cos), join(-sin, sin)


def _frequencies(config, is_global) -> jax.Array:
  """Angle per position of every pair of channels, [Dh / 2] float32.

  theta ** (-2 i / Dh). With `rope.scaling_factor` s they are divided by s in
  global layers: all of them (linear), or, with frequency factors, only long
  wavelengths, blended in between as in Llama 3.1.
  """
  exponents = (
      jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim)
  rope = config.rope
  local = not is_global and rope.local_theta is not None
  theta = rope.local_theta if local else rope.theta
  frequencies = 1.0 / theta ** exponents
  if rope.scaling_factor is None or local:
    return frequencies
  scaled = frequencies / rope.scaling_factor
  if rope.low_freq_factor is None:
    return scaled
  low, high = rope.low_freq_factor, rope.high_freq_factor
  turns = rope.original_max_length * frequencies / (2 * math.pi)
  keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return keep * frequencies + (1.0 - keep) * scaled


def rotate(x: jax.Array, context: Context) -> jax.Array:
  """Turns channel pairs (i, i + Dh/2) of x [B, H, L, Dh] by their positions."""
  x_float32 = x.astype(jnp.float32)
  first, second = jnp.split(x_float32, 2, axis=-1)
  partner = jnp.concatenate([second, first], axis=-1)
  return (x_float32 * context.cos + partner * context.sin).astype(x.dtype)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
  """cap * tanh(x / cap); `x` itself without a cap."""
  return x if cap is None else jnp.tanh(x / cap) * cap


def apply(
    config: model_config.ModelConfig, queries: jax.Array, keys: jax.Array,
    values: jax.Array, context: Context,
) -> jax.Array:
  """Attention [B, H, L, Dh] as the context wants it; see `attend`."""
  if context.implementation == 'dense':
    return attend(config, queries, keys, values, context.mask)
  arrays = [queries, keys, values]
  if context.segment_ids is not None:
    arrays.append(jnp.broadcast_to(
        context.segment_ids, (queries.shape[0], queries.shape[2])))
  kernels = [
      functools.partial(_attend_fused, config, context.implementation, window)
      for window in context.windows]
  if len(kernels) == 1:
    return kernels[0](*arrays)
  return jax.lax.switch(context.window_index, kernels, *arrays)


def _attend_fused(config, implementation, window, *arrays):
  """A fused kernel on every device's own rows and heads."""
  module, platform = _FUSED[implementation], sharding.platform()
  length = arrays[0].shape[2]
  extra = -length % module.ROW_MULTIPLE

  def pad(x):  # behind the end of a row, where causal queries do not look
    axis = 2 if x.ndim == 4 else 1
    return jnp.pad(x, [(0, extra if i == axis else 0) for i in range(x.ndim)])

  def local(*arrays):
    return module.attend(
        config, *(map(pad, arrays) if extra else arrays), window=window,
        platform=platform)[:, :, :length]

  heads, kv = ('act_batch', 'act_heads', None, None), cache_lib.AXES
  in_axes = (heads, kv, kv, ('act_batch', None))[:len(arrays)]
  return sharding.map_shards(local, in_axes, heads)(*arrays)


def attend(
    config: model_config.ModelConfig, queries: jax.Array, keys: jax.Array,
    values: jax.Array, mask: jax.Array,
) -> jax.Array:
  """Dense attention of grouped heads; the softmax is in float32.

  Heads are the batch axis of two matrix products, and the G = H / K queries of
  a key head are rows of the same product: on the CPU 1.8 times as fast as one
  contraction over five axes.

  Args:
    config: of the model.
    queries: [B, H, L, Dh], rotated; the result has their shape and type.
    keys: [B, K, M, Dh], rotated; query head h reads key head h // G.
    values: [B, K, M, Dh].
    mask: [B or 1, 1, 1, L, M] bool.
  """
  b, h, length, dh = queries.shape
  k, m = keys.shape[1:3]
  rows = (queries * config.attention_scale).reshape(b, k, h // k * length, dh)
  scores = jnp.einsum(
      'bkrd,bkmd->bkrm', rows, keys, preferred_element_type=jnp.float32)
  scores = softcap(scores, config.block.attention_softcap)
  scores = scores.reshape(b, k, h // k, length, m)
  weights = jax.nn.softmax(jnp.where(mask, scores, NEG_INF), axis=-1)
  weights = weights.reshape(b, k, h // k * length, m).astype(values.dtype)
  return jnp.einsum('bkrm,bkmd->bkrd', weights, values).reshape(queries.shape)
