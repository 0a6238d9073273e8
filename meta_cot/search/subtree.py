# SPDX-License-Identifier: Apache-2.0
"""How MCTS begins, and begins again below a step that is committed to."""

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.search import engine
from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib


@struct.dataclass
class Progress:
  """What MCTS keeps beside the tree."""

  num_simulations: jax.Array  # [B] int32, those that are over
  visits: jax.Array  # [B, A] int32, of the root's children when it began
  is_expanded: jax.Array  # [B] bool, the root when it began


def begin(tree: tree_lib.SearchTree, branching: int) -> Progress:
  """No simulation is over; the root may have children already."""
  first_B = jnp.maximum(tree.first_child[:, 0], 0)
  children_BxA = first_B[:, None] + jnp.arange(branching, dtype=jnp.int32)[None]
  is_expanded_B = tree.is_expanded[:, 0]
  visits_BxA = tree_lib.gather(tree.visit_counts, children_BxA)
  return Progress(
      num_simulations=jnp.zeros_like(tree.num_nodes),
      visits=jnp.where(is_expanded_B[:, None], visits_BxA, 0),
      is_expanded=is_expanded_B)


def reroot(state: engine.State, child: jax.Array) -> engine.State:
  """MCTS that goes on below `child`, with what is known there.

  The kept nodes move to the front and stay in order, with their visits and Q;
  the tree has as many slots as before (`Mcts.capacity` gives it more). A new
  count of simulations begins; tokens are counted on.

  The step function no longer gets the nodes above: what it needs of them, such
  as their text, it must find in the new root's embedding or in its params.
  Search on with a new key: draws follow from key, problem and node index.

  The state is one of the strategy `Mcts`. `child` [B] int32 may be any node;
  NONE keeps the whole tree. Problems whose new root is terminal are done.
  """
  tree = jax.vmap(_subtree)(state.tree, jnp.maximum(child, 0))
  branching = state.extra.visits.shape[1]
  return state.replace(
      tree=tree, is_done=tree.is_terminal[:, 0],
      solution=ranking.best_terminal(tree, tree.values),
      num_steps=jnp.zeros_like(state.num_steps),
      extra=begin(tree, branching))


def _subtree(tree: tree_lib.SearchTree, child: jax.Array):
  """The tree of one problem below `child`."""
  num_slots = tree.parents.shape[0]
  slots_N = jnp.arange(num_slots, dtype=jnp.int32)
  parents_N = jnp.maximum(tree.parents, 0)
  is_kept_N = jax.lax.fori_loop(
      0, jnp.max(tree.depths),
      lambda _, is_kept_N: is_kept_N | (
          is_kept_N[parents_N] & (tree.parents != tree_lib.NONE)),
      slots_N == child)
  num_kept = jnp.sum(is_kept_N, dtype=jnp.int32)
  moved_N = jnp.cumsum(is_kept_N, dtype=jnp.int32) - 1
  source_N = jnp.argsort((~is_kept_N).astype(jnp.int32), stable=True)
  is_used_N = slots_N < num_kept

  def take(array_N, free=0):
    return jnp.where(is_used_N, array_N[source_N], free).astype(array_N.dtype)

  def index(array_N):
    new_N = moved_N[jnp.maximum(array_N, 0)]
    return take(
        jnp.where(array_N == tree_lib.NONE, tree_lib.NONE, new_N),
        tree_lib.NONE)

  kept = {name: take(getattr(tree, name)) for name in (
      'values', 'rewards', 'log_probs', 'q_values', 'visit_counts', 'is_valid',
      'is_terminal', 'is_expanded')}
  rows = lambda arrays: jax.tree.map(lambda x: x[source_N], arrays)
  return tree.replace(
      **kept, parents=index(tree.parents).at[0].set(tree_lib.NONE),
      first_child=index(tree.first_child),
      depths=take(tree.depths - tree.depths[child]),
      costs=take(tree.costs - tree.costs[child]),
      expansion_order=_ranks(take(tree.expansion_order, tree_lib.NONE)),
      num_nodes=num_kept,
      num_expansions=jnp.sum(kept['is_expanded'], dtype=jnp.int32),
      embeddings=rows(tree.embeddings), state_keys=rows(tree.state_keys),
      step_keys=rows(tree.step_keys))


def _ranks(order_N: jax.Array) -> jax.Array:
  """0, 1, ... in the given order; NONE stays."""
  is_there_N = order_N != tree_lib.NONE
  sorted_N = jnp.sort(jnp.where(is_there_N, order_N, len(order_N)))
  return jnp.where(
      is_there_N, jnp.searchsorted(sorted_N, order_N), tree_lib.NONE)
