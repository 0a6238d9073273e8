# SPDX-License-Identifier: Apache-2.0
"""Key/value cache of the tokens a model has read: an explicit pytree.

All rows write the same slots. Rows of different length are padded on the
right: their holes are slots with `is_valid` False, and `positions` keep the
true position of every token, so holes change nothing.
"""

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import sharding
from meta_cot.model import config as model_config

AXES = ('act_batch', 'act_kv_heads', None, None)  # of one layer's keys, values


@struct.dataclass
class Cache:
  """Keys and values of M slots, in the compute dtype.

  With `execution.layer_loop` 'unroll' they are tuples of [B, K, M, Dh], one
  array per layer; with 'scan' one array [layers, B, K, M, Dh].
  """

  keys: jax.Array | tuple[jax.Array, ...]
  values: jax.Array | tuple[jax.Array, ...]
  positions: jax.Array  # [B, M] int32
  is_valid: jax.Array  # [B, M] bool
  length: jax.Array  # [] int32; slots from here on are free
  # Keys have their last two axes swapped; see `turn`.
  is_turned: bool = struct.field(pytree_node=False, default=False)

  @property
  def num_slots(self) -> int:
    return self.positions.shape[1]


@struct.dataclass
class Part:
  """What is read of one layer."""

  keys: jax.Array  # [B, K, M, Dh]; turned: [B, K, Dh, M]
  values: jax.Array  # [B, K, M, Dh]
  is_turned: bool = struct.field(pytree_node=False, default=False)

  @property
  def num_slots(self) -> int:
    return self.values.shape[2]


@struct.dataclass
class View:
  """A cache, and others that are read besides, as one layer sees them."""

  cache: Cache
  slot: jax.Array  # [] int32, where the new tokens go
  layer: int | jax.Array  # an int where layers are tuples
  shared: tuple[Cache, ...] = ()  # see `transformer.decode_hidden`


def zeros(
    config: model_config.ModelConfig, shape: tuple[int, ...], axis: int = 0
) -> jax.Array | tuple[jax.Array, ...]:
  """Zeros [*shape] per layer: a tuple, or with a scan stacked on an axis."""
  num_layers = config.num_layers
  if config.execution.layer_loop == 'unroll':
    return tuple(jnp.zeros(shape, config.dtype) for _ in range(num_layers))
  return jnp.zeros((*shape[:axis], num_layers, *shape[axis:]), config.dtype)


def split(array: jax.Array) -> jax.Array:
  """Lays keys or values [(layers,) B, K, ...] out by rows and heads."""
  return sharding.constrain(array, *('layers',) * (array.ndim - 4), *AXES)


def create(
    config: model_config.ModelConfig, batch_size: int, num_slots: int
) -> Cache:
  """An empty cache for `batch_size` rows of up to `num_slots` tokens."""
  shape = (batch_size, config.num_kv_heads, num_slots, config.head_dim)
  empty = lambda: jax.tree.map(split, zeros(config, shape))
  return Cache(
      keys=empty(), values=empty(),
      positions=jnp.zeros((batch_size, num_slots), jnp.int32),
      is_valid=jnp.zeros((batch_size, num_slots), bool),
      length=jnp.zeros((), jnp.int32))


def grow(cache: Cache, num_slots: int) -> Cache:
  """The same cache with room for `num_slots` tokens; the new slots are free.

  Raises:
    ValueError: `num_slots` is smaller than what the cache has.
  """
  extra = num_slots - cache.num_slots
  if extra < 0:
    raise ValueError(
        f'num_slots: got {num_slots}; must be at least the {cache.num_slots} '
        'slots that the cache has.')
  pad = lambda x, axis: jnp.pad(
      x, [(0, extra if i == axis % x.ndim else 0) for i in range(x.ndim)])
  return cache.replace(
      keys=jax.tree.map(lambda x: pad(x, -2), cache.keys),
      values=jax.tree.map(lambda x: pad(x, -2), cache.values),
      positions=pad(cache.positions, 1), is_valid=pad(cache.is_valid, 1))


def turn(cache: Cache) -> Cache:
  """The same cache for reading only, its keys stored as [..., Dh, M].

  Scores of all slots are then plain matrix products, without a packing of the
  keys at every token: a search on the CPU takes a tenth less time.
  """
  turned = jax.tree.map(lambda x: jnp.swapaxes(x, -1, -2), cache.keys)
  return cache.replace(keys=turned, is_turned=True)


def share_rows(cache: Cache, lengths_B: jax.Array) -> Cache:
  """Row b is the first `lengths_B[b]` slots of row b // (B / R) of R rows."""
  repeats = len(lengths_B) // len(cache.positions)
  repeat = lambda x, axis=0: jnp.repeat(x, repeats, axis=axis)
  of_heads = lambda x: split(repeat(x, x.ndim - 4))
  is_inside_BxM = jnp.arange(cache.num_slots)[None] < lengths_B[:, None]
  return cache.replace(
      keys=jax.tree.map(of_heads, cache.keys),
      values=jax.tree.map(of_heads, cache.values),
      positions=repeat(cache.positions),
      is_valid=repeat(cache.is_valid) & is_inside_BxM)


def reserve(
    cache: Cache, positions_BxL: jax.Array, is_valid_BxL: jax.Array
) -> Cache:
  """Marks the next L slots as taken; what `write` puts there is to follow."""
  put = lambda x, new: jax.lax.dynamic_update_slice(
      x, new.astype(x.dtype), (0, cache.length))
  return cache.replace(
      positions=put(cache.positions, positions_BxL),
      is_valid=put(cache.is_valid, is_valid_BxL),
      length=cache.length + positions_BxL.shape[1])


def write(view: View, keys: jax.Array, values: jax.Array) -> View:
  """Puts keys and values [B, K, L, Dh] of new tokens into a layer's view."""
  put = jax.lax.dynamic_update_slice

  def put_layer(layers, new):
    at = 0, 0, view.slot, 0
    if isinstance(layers, tuple):
      i = view.layer
      new = put(layers[i], new.astype(layers[i].dtype), at)
      return (*layers[:i], new, *layers[i + 1:])
    return put(layers, new.astype(layers.dtype)[None], (view.layer, *at))

  return view.replace(cache=view.cache.replace(
      keys=put_layer(view.cache.keys, keys),
      values=put_layer(view.cache.values, values)))


def layer_of(cache: Cache, layer: int | jax.Array) -> Part:
  """Takes out a layer."""
  return Part(
      _at(cache.keys, layer), _at(cache.values, layer),
      is_turned=cache.is_turned)


def _at(layers, layer):
  if isinstance(layers, tuple):
    return layers[layer]
  return jax.lax.dynamic_index_in_dim(layers, layer, 0, keepdims=False)
