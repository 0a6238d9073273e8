# SPDX-License-Identifier: Apache-2.0
"""The model as pure functions of its parameters.

`init`, `forward` (training, scoring) and `decode` (with a cache) are all that
the rest of the code sees. Parameters of the blocks are stacked on a leading
'layers' axis; `config.execution.layer_loop` chooses whether a scan or an
unrolled loop runs over them. Policy and value head read one trunk (paper
section 2.2).
"""

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import sharding
from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.model import layers as layers_lib
from meta_cot.model import splash
from meta_cot.model.config import ModelConfig
from meta_cot.types import Params, PRNGKey

_policies = jax.checkpoint_policies
REMAT = {  # what the backward pass finds stored; all else is recomputed
    # The splash kernel is no dot to the compiler, and costs as much as one.
    'dots': _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names(splash.SAVED)),
    'outputs': _policies.save_only_these_names('block_output'),
    'full': _policies.nothing_saveable,
    'attention': _policies.save_only_these_names(splash.SAVED),
}


@struct.dataclass
class Output:
  """Heads at the positions that were read: L of them, or R (`read_at_BxR`)."""

  logits: jax.Array  # [B, L, V] float32
  value_logits: jax.Array | None  # [B, L] float32; None without a value head
  cache: cache_lib.Cache | None

  @property
  def values(self) -> jax.Array | None:
    """Probability of success in (0, 1), [B, L] float32."""
    return None if self.value_logits is None else (
        jax.nn.sigmoid(self.value_logits))


def init(config: ModelConfig, rng: PRNGKey) -> Params:
  """Makes random parameters, boxed with their logical axis names.

  {'embedder', 'layers', 'final_norm', 'value_head'}; leaves of 'layers' have a
  leading axis 'layers'. `flax.linen.meta.unbox` takes the boxes off.
  """
  embedder_rng, layers_rng, norm_rng, value_rng = jax.random.split(rng, 4)
  x_BxLxD = jnp.zeros((1, 1, config.embed_dim), config.dtype)
  zeros_BxL = jnp.zeros((1, 1), jnp.int32)
  context = attention.make_context(config, zeros_BxL, is_global=True)

  def new(module, rng, *args, **keywords):
    return module(config).init(rng, *args, **keywords)['params']

  blocks = jax.vmap(
      lambda rng: new(layers_lib.Block, rng, x_BxLxD, context, None))(
          jax.random.split(layers_rng, config.num_layers))
  params = {
      'embedder': new(
          layers_lib.Embedder, embedder_rng, zeros_BxL, method='encode'),
      'layers': nn.meta.add_axis(blocks, 0, {nn.PARTITION_NAME: 'layers'}),
      'final_norm': new(layers_lib.RMSNorm, norm_rng, x_BxLxD)}
  if config.value_head == 'shared':
    params['value_head'] = new(layers_lib.ValueHead, value_rng, x_BxLxD)
  return params


def forward(
    config: ModelConfig, params: Params, tokens_BxL: jax.Array, *,
    positions_BxL: jax.Array | None = None,
    segment_ids_BxL: jax.Array | None = None,
    read_at_BxR: jax.Array | None = None,
) -> Output:
  """Reads whole sequences, each position seeing its past in its segment.

  Args:
    config: of the model.
    params: unboxed, or as `slice_layers` returns them.
    tokens_BxL: int32, at most `config.max_length` in a row.
    positions_BxL: int32; 0 .. L-1 by default. Packed rows restart them; within
      a segment they count up by one (fused attention goes by the order).
    segment_ids_BxL: int32; a position sees its own segment only (padding, 0,
      is a segment like any other). One segment by default.
    read_at_BxR: int32 indices along L where the heads are read; all by default.

  Raises:
    ValueError: a row is too long.
    ConfigError: `config.execution.attention` names a kernel that cannot run.
  """
  x_BxLxD = hidden(
      config, params, tokens_BxL, positions_BxL=positions_BxL,
      segment_ids_BxL=segment_ids_BxL)
  return read_out(config, params, x_BxLxD, read_at_BxR=read_at_BxR)


def decode(
    config: ModelConfig, params: Params, tokens_BxL: jax.Array,
    cache: cache_lib.Cache, *, positions_BxL: jax.Array,
    is_valid_BxL: jax.Array | None = None,
    read_at_BxR: jax.Array | None = None, is_prefill: bool = False,
) -> Output:
  """Reads the next L >= 1 tokens of every row and adds them to the cache.

  They take slots `cache.length` .. `cache.length + L - 1`, which must be free:
  beyond the last slot nothing is checked and earlier slots are overwritten.

  Args:
    config: of the model.
    params: unboxed; in a loop, pass them through `slice_layers` once before.
    tokens_BxL: int32.
    cache: of B rows.
    positions_BxL: int32, true positions in the row's text.
    is_valid_BxL: False leaves a hole that nobody sees; all True by default.
    read_at_BxR: as in `forward`.
    is_prefill: static; promises that the cache is empty, positions are 0 .. L-1
      and holes are at the ends of rows only, so that a fused kernel may read
      the tokens, or raises as in `forward`. Without it attention is dense.
  """
  x_BxLxD, cache = decode_hidden(
      config, params, tokens_BxL, cache, positions_BxL=positions_BxL,
      is_valid_BxL=is_valid_BxL, is_prefill=is_prefill)
  output = read_out(config, params, x_BxLxD, read_at_BxR=read_at_BxR)
  return output.replace(cache=cache)


def decode_hidden(
    config: ModelConfig, params: Params, tokens_BxL: jax.Array,
    cache: cache_lib.Cache, *, positions_BxL: jax.Array,
    is_valid_BxL: jax.Array | None = None, is_prefill: bool = False,
    shared: tuple[cache_lib.Cache, ...] = (),
) -> tuple[jax.Array, cache_lib.Cache]:
  """`decode` without the heads: the trunk's output, and the new cache.

  The output [B, L, D] is normalised. `shared` are caches that are read besides,
  before one's own. One of S rows serves B / S consecutive rows each; coarser
  ones come first. Not for prefill.
  """
  if is_valid_BxL is None:
    is_valid_BxL = jnp.ones(tokens_BxL.shape, bool)
  slot = cache.length
  cache = cache_lib.reserve(cache, positions_BxL, is_valid_BxL)
  implementation = 'dense'
  if is_prefill:
    implementation = attention.choose(config, *tokens_BxL.shape)
  keys = {}  # of a kernel are the tokens: what these see ends before the holes
  if implementation == 'dense':
    # The caches side by side; row b of those that share S is b // (B / S).
    beside = lambda *arrays: jnp.concatenate([
        jnp.repeat(x, len(tokens_BxL) // len(x), axis=0) for x in arrays], 1)
    caches = *shared, cache
    keys = dict(
        key_positions_BxM=beside(*(c.positions for c in caches)),
        is_valid_BxM=beside(*(c.is_valid for c in caches)))
  contexts = _contexts(config, positions_BxL, implementation, **keys)
  x_BxLxD, cache = _decode_layers(
      config, params['layers'], _embed(config, params, tokens_BxL), contexts,
      cache, slot, shared)
  return _apply(
      layers_lib.RMSNorm, config, params['final_norm'], x_BxLxD), cache


def hidden(
    config: ModelConfig, params: Params, tokens_BxL: jax.Array, *,
    positions_BxL: jax.Array | None = None,
    segment_ids_BxL: jax.Array | None = None,
    num_seen_BxL: jax.Array | None = None,
) -> jax.Array:
  """The trunk's normalised output [B, L, D]; arguments as in `forward`.

  With `num_seen_BxL` a position also sees as many tokens at the beginning of
  its row, in another segment; attention is dense then.
  """
  length = tokens_BxL.shape[1]
  if num_seen_BxL is None and length > config.max_length:
    raise ValueError(
        f'tokens: got rows of {length} tokens; must be at most '
        f'config.model.max_length, {config.max_length}.')
  if positions_BxL is None:
    positions_BxL = jnp.arange(length, dtype=jnp.int32)[None]
  implementation, beside = 'dense', dict(num_seen_BxL=num_seen_BxL)
  if num_seen_BxL is None:
    implementation, beside = attention.choose(config, *tokens_BxL.shape), {}
  contexts = _contexts(
      config, positions_BxL, implementation, segment_ids_BxL=segment_ids_BxL,
      **beside)
  x_BxLxD = _forward_layers(
      config, params['layers'], _embed(config, params, tokens_BxL), contexts)
  return _apply(layers_lib.RMSNorm, config, params['final_norm'], x_BxLxD)


def read_out(
    config: ModelConfig, params: Params, hidden_BxLxD: jax.Array, *,
    read_at_BxR: jax.Array | None = None,
) -> Output:
  """Both heads on the trunk's output, at all or at some positions."""
  if read_at_BxR is not None:
    hidden_BxLxD = jnp.take_along_axis(
        hidden_BxLxD, read_at_BxR[:, :, None], axis=1)
  logits_BxLxV = _apply(
      layers_lib.Embedder, config, params['embedder'], hidden_BxLxD,
      method='decode')
  value_logits_BxL = None
  if config.value_head == 'shared':
    value_logits_BxL = _apply(
        layers_lib.ValueHead, config, params['value_head'], hidden_BxLxD)
  return Output(
      logits=sharding.constrain(
          logits_BxLxV, 'act_batch', 'act_length', 'act_vocab'),
      value_logits=value_logits_BxL, cache=None)


def slice_layers(config: ModelConfig, params: Params) -> Params:
  """Parameters as a decoding loop wants them; call it once, before the loop.

  Matrices are cast to the compute dtype, and with `layer_loop` 'unroll' the
  stacked blocks become a tuple of blocks, so that no step casts or cuts them.
  What has gone through it once stays as it is.
  """
  def cast(path, x):
    names = {k.key for k in path if isinstance(k, jax.tree_util.DictKey)}
    is_kept = names & {'scale', 'value_head'}  # used in float32
    return x if is_kept else x.astype(config.dtype)

  params = jax.tree_util.tree_map_with_path(cast, params)
  if config.execution.layer_loop == 'unroll':
    return params | {'layers': _unstack(config, params['layers'])}
  return params


def _unstack(config, blocks):
  """Stacked blocks -> tuple of blocks. A tuple is returned as it is."""
  if isinstance(blocks, tuple):
    return blocks
  n = config.num_layers
  # A split's gradient is one concatenation; that of n slices is n paddings.
  cut = jax.tree.map(
      lambda x: [y[0] for y in jax.lax.split(x, (1,) * n)], blocks)
  return tuple(
      jax.tree.map(lambda x: x[i], cut, is_leaf=lambda x: isinstance(x, list))
      for i in range(n))


def _apply(module, config, params, *args, **keywords):
  return module(config).apply({'params': params}, *args, **keywords)


def _embed(config, params, tokens_BxL):
  return _apply(
      layers_lib.Embedder, config, params['embedder'], tokens_BxL,
      method='encode')


def _apply_block(config, block, x_BxLxD, context, view=None):
  x_BxLxD = sharding.constrain(x_BxLxD, 'act_batch', 'act_length', 'act_embed')
  return _apply(layers_lib.Block, config, block, x_BxLxD, context, view)


def _contexts(config, positions_BxL, implementation, **arrays):
  """{is_global: Context}, for the kinds of layers that the model has."""
  kinds = {config.is_global(i) for i in range(config.num_layers)}
  return {
      kind: attention.make_context(
          config, positions_BxL, is_global=kind, implementation=implementation,
          **arrays)
      for kind in sorted(kinds)}


def _kinds(config):
  return jnp.array([config.is_global(i) for i in range(config.num_layers)])


def _forward_layers(config, blocks, x_BxLxD, contexts):
  apply = lambda *args: _apply_block(config, *args)[0]
  is_unrolled = config.execution.layer_loop == 'unroll'
  if config.execution.remat != 'none':
    apply = jax.checkpoint(
        apply, policy=REMAT[config.execution.remat], prevent_cse=is_unrolled)
  if is_unrolled:
    for i, block in enumerate(_unstack(config, blocks)):
      x_BxLxD = apply(block, x_BxLxD, contexts[config.is_global(i)])
    return x_BxLxD

  def body(x_BxLxD, xs):
    block, is_global = xs
    return apply(block, x_BxLxD, attention.select(contexts, is_global)), None

  return jax.lax.scan(body, x_BxLxD, (blocks, _kinds(config)))[0]


def _decode_layers(config, blocks, x_BxLxD, contexts, cache, slot, shared):
  if config.execution.layer_loop == 'unroll':
    for i, block in enumerate(_unstack(config, blocks)):
      x_BxLxD, view = _apply_block(
          config, block, x_BxLxD, contexts[config.is_global(i)],
          cache_lib.View(cache, slot, i, shared))
      cache = view.cache
    return x_BxLxD, cache

  def body(carry, xs):  # the cache is carried, so that its update is in place
    x_BxLxD, keys, values = carry
    block, is_global, layer = xs
    x_BxLxD, view = _apply_block(
        config, block, x_BxLxD, attention.select(contexts, is_global),
        cache_lib.View(
            cache.replace(keys=keys, values=values), slot, layer, shared))
    return (x_BxLxD, view.cache.keys, view.cache.values), None

  xs = (blocks, _kinds(config), jnp.arange(config.num_layers))
  (x_BxLxD, keys, values), _ = jax.lax.scan(
      body, (x_BxLxD, cache.keys, cache.values), xs)
  return x_BxLxD, cache.replace(keys=keys, values=values)
