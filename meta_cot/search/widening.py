# SPDX-License-Identifier: Apache-2.0
"""Progressive widening: nodes that are expanded again.

MCTS lets a node of n visits have c n^alpha children, and so looks at more of a
node's steps the longer it looks at the node (Coulom, "Computing Elo ratings of
move patterns in the game of Go", 2007; Couetoux et al., "Continuous upper
confidence trees", 2011). Best-first search, which counts no visits, puts an
expanded node back with a lower priority.
"""

import jax
import jax.numpy as jnp

from meta_cot.search import tree as tree_lib
from meta_cot.types import PRNGKey


def check(alpha: float | None, scale: float) -> None:
  """Raises a ValueError where alpha or c is out of its range."""
  if alpha is not None and not 0.0 < alpha <= 1.0:
    raise ValueError(
        f'widening: got {alpha}; must be above 0 and at most 1, or None.')
  if not 0.0 < scale < float('inf'):
    raise ValueError(
        f'widening_scale: got {scale}; must be finite and above 0.')


def num_children(tree: tree_lib.SearchTree) -> jax.Array:
  """The children of every node, valid or not, [B, N] int32."""
  def one(parents_N):
    # The root and free slots are no one's children.
    at_N = jnp.where(parents_N == tree_lib.NONE, len(parents_N), parents_N)
    return jnp.zeros_like(parents_N).at[at_N].add(1, mode='drop')

  return jax.vmap(one)(tree.parents)


def is_narrow(
    num_children: jax.Array, visits: jax.Array, alpha: float, scale: float
) -> jax.Array:
  """Whether nodes have fewer than ceil(c n^alpha) children, bool."""
  # A root of a square is not exact everywhere.
  wanted = scale * visits.astype(jnp.float32)**alpha * (1.0 - 1e-6)
  return num_children.astype(jnp.float32) < wanted


def keys(keys_BxK: PRNGKey, num_children_BxK: jax.Array) -> PRNGKey:
  """Keys of expansions; the leaves' own where they have no children yet."""
  def one(key, num):
    # No branch has this number.
    again = jax.random.fold_in(key, jnp.uint32(2**31) + num.astype(jnp.uint32))
    return jax.lax.cond(num > 0, lambda: again, lambda: key)

  return jax.vmap(jax.vmap(one))(keys_BxK, num_children_BxK)
