# SPDX-License-Identifier: Apache-2.0
"""Keys and values in pages, one page per step of a text, shared by its heirs.

A page keeps what one step added. A text is a list of pages; all of its
continuations read that list as one cache, without copies of it. Axes besides
those of `types`: S rows that share, U pages of a list, T slots of a page.
"""

from collections.abc import Sequence
import functools
import math

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config


@struct.dataclass
class Page:
  """The tokens of one step; the leading axes are the caller's.

  Keys and values are tuples or stacked as in `cache.Cache`. Slots and widths
  are one axis: a TPU stores the last one in multiples of 128, so that heads of
  64 would take twice the room, and programs copy what others left in another
  order.
  """

  keys: jax.Array | tuple[jax.Array, ...]  # [..., (layers,) K, T * Dh]
  values: jax.Array | tuple[jax.Array, ...]
  length: jax.Array  # [...] int32, slots in use, the first ones
  position: jax.Array  # [...] int32, of the first slot in the text
  num_slots: int = struct.field(pytree_node=False)  # T

  @property
  def end(self) -> jax.Array:
    """Position of the token that follows the page, [...] int32."""
    return self.position + self.length


def empty(
    config: model_config.ModelConfig, num_slots: int, position_B: jax.Array
) -> Page:
  """Pages of T = `num_slots` slots without a token, at these positions.

  Compilers know positions as little as any argument. Of pages that were plain
  zeros they would compute the arrays of a search tree, while they compile.
  """
  shape = (
      *position_B.shape, config.num_kv_heads, num_slots * config.head_dim)
  zero_B = (position_B < 0).astype(config.dtype)
  empty = lambda: jax.tree.map(
      lambda x: x + zero_B.reshape(
          *zero_B.shape, *[1] * (x.ndim - zero_B.ndim)),
      cache_lib.zeros(config, shape, axis=-2))
  return Page(
      keys=empty(), values=empty(), length=jnp.zeros_like(position_B),
      position=position_B, num_slots=num_slots)


def join(page: Page, is_used_SxU: jax.Array) -> cache_lib.Cache:
  """Lists [S, U] of pages as one full cache of S rows, for reading.

  Where `is_used_SxU` is False, a page is not part of its list.
  """
  num_rows, num_pages = is_used_SxU.shape
  num_slots = num_pages * page.num_slots

  def flat(x):  # [S, U, (layers,) K, T * Dh] -> [(layers,) S, K, U * T, Dh]
    x = jnp.moveaxis(x, 1, -2)  # [S, (layers,) K, U, T * Dh]
    width = x.shape[-1] // page.num_slots
    x = x.reshape(*x.shape[:-2], num_slots, width)
    return cache_lib.split(
        x if isinstance(page.keys, tuple) else jnp.swapaxes(x, 0, 1))

  slots_T = jnp.arange(page.num_slots, dtype=jnp.int32)[None, None]
  is_valid_SxUxT = (slots_T < page.length[..., None]) & is_used_SxU[..., None]
  positions_SxUxT = page.position[..., None] + slots_T
  return cache_lib.turn(cache_lib.Cache(
      keys=jax.tree.map(flat, page.keys),
      values=jax.tree.map(flat, page.values),
      positions=positions_SxUxT.reshape(num_rows, num_slots),
      is_valid=is_valid_SxUxT.reshape(num_rows, num_slots),
      length=jnp.asarray(num_slots, jnp.int32)))


def cut(
    cache: cache_lib.Cache, shape: tuple[int, ...], length: jax.Array,
    position: jax.Array,
) -> Page:
  """The rows of a cache as pages with the leading axes `shape`.

  `length` and `position` [*shape] are those of `Page`.
  """

  def rows(x):  # [(layers,) B, K, T, Dh] -> [*shape, (layers,) K, T * Dh]
    x = jnp.moveaxis(x, -4, 0)
    return x.reshape(*shape, *x.shape[1:-2], x.shape[-2] * x.shape[-1])

  return Page(
      keys=jax.tree.map(rows, cache.keys),
      values=jax.tree.map(rows, cache.values), length=length,
      position=position, num_slots=cache.num_slots)


def attend(
    config: model_config.ModelConfig, queries: jax.Array,
    parts: Sequence[cache_lib.Part], mask: jax.Array,
) -> jax.Array:
  """Dense attention over several caches with one softmax, in float32.

  A cache of fewer rows is shared: row b of the queries reads its row
  b // (B / rows), and the queries of one such row are one matrix product.

  Args:
    config: of the model.
    queries: [B, H, L, Dh], rotated; the result has their shape and type.
    parts: of at most three caches; the rows of each divide those of the next,
      and the last has B.
    mask: [B, 1, 1, L, sum of M] bool; every query sees a key.
  """
  length, dh = queries.shape[2:]
  parts = [part for part in parts if part.num_slots]
  # Numbers of coarsest rows, of finer ones in each, of finest in each.
  rows = [len(part.values) for part in parts]
  fine = rows[-2:][0]
  sizes = rows[0], fine // rows[0], rows[-1] // fine
  # Rows b, c, a; key heads k with g heads each; positions l, slots m, width d.
  queries_bcakgld = (queries * config.attention_scale).reshape(
      *sizes, config.num_kv_heads, -1, length, dh)
  scores, start = [], 0
  for part in parts:
    stop = start + part.num_slots
    x_bckaglm = attention.softcap(
        _product(
            'bcakgld', 'kdm' if part.is_turned else 'kmd', 'bckaglm',
            queries_bcakgld, part.keys, sizes),
        config.block.attention_softcap)
    seen = mask[..., start:stop].reshape(
        *sizes[:2], 1, sizes[2], 1, length, stop - start)
    scores.append(jnp.where(seen, x_bckaglm, attention.NEG_INF))
    start = stop
  top = functools.reduce(jnp.maximum, (
      jnp.max(x, axis=-1, keepdims=True) for x in scores))
  total, mixed = 0.0, 0.0
  for x_bckaglm, part in zip(scores, parts):
    x_bckaglm = jnp.exp(x_bckaglm - top)
    total += jnp.sum(x_bckaglm, axis=-1, keepdims=True)
    mixed += _product(
        'bckaglm', 'kmd', 'bckagld', x_bckaglm.astype(part.values.dtype),
        part.values, sizes)
  return jnp.swapaxes(mixed / total, 2, 3).reshape(queries.shape).astype(
      queries.dtype)


def _product(left, right, out, x, y, sizes):
  """einsum('left,right->out'), in float32, `y` having its row axes merged.

  `y` is left as it is: a reshape of a cache that was just written makes the
  compiler copy it, and so does, on the CPU, more than one axis of rows in `x`.
  Nor are heads merged with other axes, or they would change devices.
  """
  num_axes = 1
  while math.prod(sizes[:num_axes]) < y.shape[0]:
    num_axes += 1
  batch = ('bca'[:num_axes]) + 'k'
  rows = ''.join(a for a in left if a in out and a not in batch)
  summed, = set(left) - set(out)
  column, = set(right) - set(left)
  x = x.transpose([left.index(a) for a in batch + rows + summed])
  shape = x.shape
  z = jax.lax.dot_general(
      x.reshape(y.shape[0], y.shape[1], -1, shape[-1]), y,
      (((3,), (right.index(summed) + 1,)), ((0, 1), (0, 1))),
      preferred_element_type=jnp.float32)
  z = z.reshape(*shape[:-1], z.shape[-1])
  order = batch + rows + column
  return z.transpose([order.index(a) for a in out])
