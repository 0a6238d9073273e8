# SPDX-License-Identifier: Apache-2.0
"""How devices split what a search over a language model's steps keeps."""

from typing import Any

import jax

from meta_cot.model import cache as cache_lib
from meta_cot.model import pages


def axes(tree: Any) -> Any:
  """Logical axes of arrays that problems lead.

  Problems are split over the data-parallel devices, keys and values also by
  their heads, as the model makes them.

  Args:
    tree: `Prompts`, or a pytree with `Node`s in it whose first axis is B.

  Returns:
    The tree with a tuple of logical axes in the place of every array.
  """
  return jax.tree.map(
      _axes, tree,
      is_leaf=lambda x: isinstance(x, (cache_lib.Cache, pages.Page)))


def _axes(x):
  of_rows = lambda x: ('act_batch', *[None] * (x.ndim - 1))
  if isinstance(x, cache_lib.Cache):  # [(layers,) B, K, M, Dh]
    of_keys = lambda x: (
        *[None] * (x.ndim - 4), 'act_batch', 'act_kv_heads', None, None)
    rest = dict(
        positions=of_rows(x.positions), is_valid=of_rows(x.is_valid),
        length=())
  elif isinstance(x, pages.Page):  # [B, ..., (layers,) K, T * Dh]
    of_keys = lambda x: (
        'act_batch', *[None] * (x.ndim - 3), 'act_kv_heads', None)
    rest = dict(length=of_rows(x.length), position=of_rows(x.position))
  else:
    return of_rows(x)
  return x.replace(
      keys=jax.tree.map(of_keys, x.keys),
      values=jax.tree.map(of_keys, x.values), **rest)
