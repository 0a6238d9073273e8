# SPDX-License-Identifier: Apache-2.0
"""Functions on the host, called out of a compiled program."""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp

# Of an argument of one call. What is larger than 100 KiB the CPU backend copies
# in a thread of its own, for which there may be none while it waits: then the
# program waits for ever.
_MAX_BYTES = 64 * 1024


def by_rows(
    function: Callable[..., Any], result: Any, *rows: jax.Array) -> Any:
  """Calls a pure function of rows, as many at a time as a call may have.

  Args:
    function: of NumPy or JAX arrays [S, ...], S of them any number, to a tree
      of arrays with as many rows.
    result: a tree of `jax.ShapeDtypeStruct`, of one row.
    *rows: arrays [N, ...].

  Returns:
    The tree with N rows. Under `jax.vmap` rows are called one batch element
    after another.
  """
  number = len(rows[0])
  widest = max(x.dtype.itemsize * math.prod(x.shape[1:]) for x in rows)
  per_call = min(number, max(1, _MAX_BYTES // widest))
  num_calls = -(-number // per_call)

  def cut(x):
    extra = [(0, num_calls * per_call - number)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, extra, mode='edge').reshape(
        num_calls, per_call, *x.shape[1:])

  shapes = jax.tree.map(
      lambda s: jax.ShapeDtypeStruct((per_call, *s.shape), s.dtype), result)
  found = jax.lax.map(
      lambda some: jax.pure_callback(
          function, shapes, *some, vmap_method='sequential'),
      tuple(map(cut, rows)))
  return jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[2:])[:number], found)
