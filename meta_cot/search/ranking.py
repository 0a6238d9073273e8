# SPDX-License-Identifier: Apache-2.0
"""Who comes first: by keys, then by the lower index, which is the older node.

NaN ranks as -inf.
"""

import jax
import jax.numpy as jnp

from meta_cot.search import tree as tree_lib


def best(is_candidate_BxN: jax.Array, *keys_BxN: jax.Array) -> jax.Array:
  """The candidate, [B] int32, with the highest first key, then second, ...

  NONE without candidates.
  """
  for key_BxN in keys_BxN:
    key_BxN = jnp.where(
        is_candidate_BxN & ~jnp.isnan(key_BxN), key_BxN, -jnp.inf)
    is_candidate_BxN &= key_BxN >= jnp.max(key_BxN, axis=1, keepdims=True)
  return jnp.where(
      jnp.any(is_candidate_BxN, axis=1),
      jnp.argmax(is_candidate_BxN, axis=1), tree_lib.NONE).astype(jnp.int32)


def top(
    is_candidate_BxN: jax.Array, key_BxN: jax.Array, num: int
) -> jax.Array:
  """The candidates with the highest keys, in order, [B, num]; NONE behind."""
  if num == 1:
    return best(is_candidate_BxN, key_BxN)[:, None]
  index_N = jnp.arange(key_BxN.shape[1])

  # Sorting would find all in one go, but takes ten times as long on a CPU.
  def take(is_left_BxN, _):
    chosen_B = best(is_left_BxN, key_BxN)
    is_left_BxN &= index_N[None] != chosen_B[:, None]
    return is_left_BxN, chosen_B

  return jax.lax.scan(take, is_candidate_BxN, length=num)[1].T


def best_terminal(tree: tree_lib.SearchTree, *keys_BxN: jax.Array) -> jax.Array:
  """The terminal node with the highest reward, then keys; [B], NONE = none."""
  return best(tree.is_valid & tree.is_terminal, tree.rewards, *keys_BxN)


def is_goal(tree: tree_lib.SearchTree, above: float) -> jax.Array:
  """[B, N] bool: terminal nodes with a reward above this."""
  return tree.is_valid & tree.is_terminal & (tree.rewards > above)


def is_expandable(
    tree: tree_lib.SearchTree, max_depth: int, *, again: bool = False
) -> jax.Array:
  """[B, N] bool: unexpanded nodes that may be expanded; `again`: others too."""
  is_in_BxN = tree.is_valid & ~tree.is_terminal & (tree.depths < max_depth)
  return is_in_BxN if again else is_in_BxN & ~tree.is_expanded
