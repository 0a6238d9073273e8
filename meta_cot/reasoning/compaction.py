# SPDX-License-Identifier: Apache-2.0
"""Fewer rows once enough children have ended.

Children that are written together wait for the longest of them, and a pass
over the model costs as much for rows that wait. When the live ones fit in half
of the rows they go on in as many. A row draws what it would have drawn, and
reads what it read before: it gets copies of what it shared with others.

Axes as in `step`; P parts that the mesh splits rows into, H of the C / P rows
of a part that go on.
"""

import math
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import sharding
from meta_cot.model import cache as cache_lib
from meta_cot.reasoning import siblings
from meta_cot.types import PRNGKey


@struct.dataclass
class Places:
  """What rows read, and where they write."""

  start: jax.Array  # [C] int32, positions of the first tokens
  is_first: jax.Array  # [C] bool, of the first step of a text
  keys: PRNGKey  # [C]
  shared: tuple[cache_lib.Cache, ...]  # see `transformer.decode_hidden`


def half(num_rows: int) -> int:
  """H: no more than this many live rows of a part can go on alone."""
  return -(-num_rows // sharding.num_parts('act_batch') // 2)


def fits(is_live_C: jax.Array) -> jax.Array:
  """Whether no part has more live rows than can go on alone, [] bool."""
  return jnp.max(jnp.sum(_parts(is_live_C), axis=1)) <= half(len(is_live_C))


def choose(is_live_C: jax.Array) -> jax.Array:
  """The rows of every part that go on, the live ones in front, [P, H]."""
  order_PxN = jnp.argsort(~_parts(is_live_C), axis=1, stable=True)
  return order_PxN[:, :half(len(is_live_C))]


def take(
    places: Places, writing: siblings.Writing, rows_PxH: jax.Array
) -> tuple[Places, siblings.Writing]:
  """These rows alone."""
  num_rows = len(places.start)
  of_rows = lambda x: _take(x, rows_PxH, 0)

  def of_shared(cache):
    num_heirs = num_rows // len(cache.positions)
    return _each(
        cache, lambda x, axis: _take(x, rows_PxH // num_heirs, axis))

  rest = jax.tree.map(of_rows, writing.replace(step=None, cache=None))
  return Places(
      start=of_rows(places.start), is_first=of_rows(places.is_first),
      keys=of_rows(places.keys), shared=tuple(map(of_shared, places.shared))
  ), rest.replace(step=writing.step, cache=_each(
      writing.cache, lambda x, axis: _take(x, rows_PxH, axis)))


def put(
    writing: siblings.Writing, rows_PxH: jax.Array, some: siblings.Writing
) -> siblings.Writing:
  """All rows, of which `some` have gone on."""
  of_rows = lambda x, y: _put(x, rows_PxH, y, 0)
  rest = jax.tree.map(
      of_rows, writing.replace(step=None, cache=None),
      some.replace(step=None, cache=None))
  old, new = writing.cache, some.cache
  of_heads = lambda x, y: _put(x, rows_PxH, y, x.ndim - 4)
  return rest.replace(step=some.step, cache=old.replace(
      keys=jax.tree.map(of_heads, old.keys, new.keys),
      values=jax.tree.map(of_heads, old.values, new.values),
      positions=of_rows(old.positions, new.positions),
      is_valid=of_rows(old.is_valid, new.is_valid), length=new.length))


def _each(cache: cache_lib.Cache, function: Any) -> cache_lib.Cache:
  """What a function of arrays and their axes of rows makes of a cache."""
  of_heads = lambda x: function(x, x.ndim - 4)
  return cache.replace(
      keys=jax.tree.map(of_heads, cache.keys),
      values=jax.tree.map(of_heads, cache.values),
      positions=function(cache.positions, 0),
      is_valid=function(cache.is_valid, 0))


def _parts(x: jax.Array, axis: int = 0) -> jax.Array:
  """The axis of rows as two, [..., P, rows of a part, ...]."""
  num_parts = sharding.num_parts('act_batch')
  return x.reshape(*x.shape[:axis], num_parts, -1, *x.shape[axis + 1:])


def _rows(x: jax.Array, axis: int) -> jax.Array:
  """As one again."""
  shape = x.shape
  return x.reshape(
      *shape[:axis], math.prod(shape[axis:axis + 2]), *shape[axis + 2:])


def _take(x: jax.Array, rows_PxH: jax.Array, axis: int) -> jax.Array:
  of_part = lambda x, rows_H: jnp.take(x, rows_H, axis=axis)
  return _rows(jax.vmap(of_part, (axis, 0), axis)(
      _parts(x, axis), rows_PxH), axis)


def _put(x, rows_PxH, new, axis: int) -> jax.Array:
  index = (slice(None),) * axis
  of_part = lambda x, rows_H, y: x.at[*index, rows_H].set(
      y, unique_indices=True)
  return _rows(jax.vmap(of_part, (axis, 0, axis), axis)(
      _parts(x, axis), rows_PxH, _parts(new, axis)), axis)
