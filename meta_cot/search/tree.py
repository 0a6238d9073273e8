# SPDX-License-Identifier: Apache-2.0
"""The search tree: arrays allocated once, written in place.

Node 0 is the root. An expansion takes the next slots, one per branch of its
leaf, valid or not; so children are consecutive and a lower index was created
earlier. A node that is expanded again gets more of them elsewhere (see
`widening`), which only their parents tell.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.search import base

NONE = -1  # no node


@struct.dataclass
class SearchTree:
  """One tree per problem."""

  parents: jax.Array  # [B, N] int32; NONE at the root and at free slots
  first_child: jax.Array  # [B, N] int32; NONE where not expanded; of the first
  depths: jax.Array  # [B, N] int32; the root has 0
  values: jax.Array  # [B, N] float32, as the step function gave them
  rewards: jax.Array  # [B, N] float32, of terminal nodes; else 0
  log_probs: jax.Array  # [B, N] float32, of the node's step
  costs: jax.Array  # [B, N] float32, summed from the root
  q_values: jax.Array  # [B, N] float32, mean of what was backed up
  visit_counts: jax.Array  # [B, N] int32
  is_valid: jax.Array  # [B, N] bool; False: free slot or no such child
  is_terminal: jax.Array  # [B, N] bool
  is_expanded: jax.Array  # [B, N] bool
  expansion_order: jax.Array  # [B, N] int32; NONE = never; of the first
  num_nodes: jax.Array  # [B] int32, slots in use
  num_expansions: jax.Array  # [B] int32
  num_tokens: jax.Array  # [B] int32, spent on all children
  embeddings: Any  # pytree, [B, N, ...]
  state_keys: jax.Array | None  # [B, N, 2] uint32
  step_keys: jax.Array | None  # [B, N, 2] uint32

  @property
  def shape(self) -> tuple[int, int]:
    """(B, N)."""
    return self.parents.shape


@struct.dataclass
class Children:
  """What one expansion added."""

  nodes: jax.Array  # [B, K, A] int32; N where the leaf was none
  is_valid: jax.Array  # [B, K, A] bool


def create(
    root: base.Root, num_nodes: int, *, has_state_keys: bool = False,
    has_step_keys: bool = False,
) -> SearchTree:
  """Trees of `num_nodes` slots that hold their roots.

  Equal states can be found with `has_state_keys`, and steps that a node has
  already with `has_step_keys`.
  """
  batch_size = root.value.shape[0]
  shape = (batch_size, num_nodes)
  full = lambda value, dtype: jnp.full(shape, value, dtype)
  at_root = lambda value, dtype: full(0, dtype).at[:, 0].set(value)
  is_terminal = root.is_terminal.astype(bool)
  value = root.value.astype(jnp.float32)
  no_keys = jnp.full((*shape, 2), base.NO_KEY, jnp.uint32)
  state_keys = no_keys if has_state_keys else None
  if has_state_keys and root.state_key is not None:
    state_keys = state_keys.at[:, 0].set(root.state_key)
  return SearchTree(
      parents=full(NONE, jnp.int32),
      first_child=full(NONE, jnp.int32),
      depths=full(0, jnp.int32),
      values=at_root(value, jnp.float32),
      rewards=at_root(jnp.where(is_terminal, value, 0.0), jnp.float32),
      log_probs=full(0.0, jnp.float32),
      costs=full(0.0, jnp.float32),
      q_values=at_root(value, jnp.float32),
      visit_counts=full(0, jnp.int32),
      is_valid=at_root(True, bool),
      is_terminal=at_root(is_terminal, bool),
      is_expanded=full(False, bool),
      expansion_order=full(NONE, jnp.int32),
      num_nodes=jnp.ones(batch_size, jnp.int32),
      num_expansions=jnp.zeros(batch_size, jnp.int32),
      num_tokens=jnp.zeros(batch_size, jnp.int32),
      embeddings=jax.tree.map(
          lambda x: jnp.zeros((*shape, *x.shape[1:]), x.dtype).at[:, 0].set(x),
          root.embedding),
      state_keys=state_keys, step_keys=no_keys if has_step_keys else None)


def paths(tree: SearchTree, leaves_BxK: jax.Array, num_path: int) -> jax.Array:
  """Node indices from the root to every leaf, [B, K, D] int32.

  Entry d is the ancestor of depth d, behind the leaf the root; all of them are
  the root where a leaf is NONE. D = `num_path` is more than any leaf's depth.
  """
  def one(parents_N, depths_N, leaf):
    def up(node, depth):
      is_here = depths_N[node] == depth
      parent = jnp.maximum(parents_N[node], 0)
      return jnp.where(is_here, parent, node), jnp.where(is_here, node, 0)

    depths_D = jnp.arange(num_path, dtype=jnp.int32)
    return jax.lax.scan(up, jnp.maximum(leaf, 0), depths_D, reverse=True)[1]

  over_leaves = jax.vmap(one, in_axes=(None, None, 0))
  return jax.vmap(over_leaves)(tree.parents, tree.depths, leaves_BxK)


def gather(array: jax.Array, nodes: jax.Array) -> jax.Array:
  """array[b, nodes[b, ...]] for arrays [B, N, ...] and indices [B, ...]."""
  return jax.vmap(lambda x, i: x[i])(array, nodes)


def at(array: jax.Array, nodes: jax.Array) -> jax.Array:
  """As `gather`; the root's entry where a node is NONE."""
  return gather(array, jnp.maximum(nodes, 0))


def put(array: jax.Array, nodes: jax.Array, rows: jax.Array) -> jax.Array:
  """Writes rows [B, ...] at nodes [B, ...]; what is written at N is dropped."""
  return jax.vmap(lambda x, i, r: x.at[i].set(r, mode='drop'))(
      array, nodes, rows.astype(array.dtype))


def select_rows(is_new_B: jax.Array, new: Any, old: Any) -> Any:
  """Rows of `new` where `is_new_B`, else of `old`; problems lead all arrays."""
  return jax.tree.map(
      lambda x, y: jnp.where(
          is_new_B.reshape(-1, *[1] * (x.ndim - 1)), x, y), new, old)


def ranks(leaves_BxK: jax.Array) -> jax.Array:
  """Counts the equal leaves before every leaf, [B, K] int32."""
  is_equal_BxKxK = leaves_BxK[:, :, None] == leaves_BxK[:, None]
  is_before_KxK = jnp.tri(leaves_BxK.shape[1], k=-1, dtype=bool)
  return jnp.sum(is_equal_BxKxK & is_before_KxK[None], axis=2, dtype=jnp.int32)


def insert(
    tree: SearchTree, leaves_BxK: jax.Array, expansion: base.Expansion,
    num_children_BxK: jax.Array | None = None,
    ranks_BxK: jax.Array | None = None,
) -> tuple[SearchTree, Children]:
  """Adds the children of the leaves, in the order of the leaves.

  Args:
    tree: has free slots for the children of every leaf that is not NONE.
    leaves_BxK: nodes, or NONE; distinct ones without `ranks_BxK`.
    expansion: rows R = B * K.
    num_children_BxK: int32, of each leaf, the first ones; all A by default.
      The others get no slot and cost nothing.
    ranks_BxK: see `ranks`.
  """
  num_slots, branching = tree.shape[1], expansion.value.shape[1]
  is_leaf_BxK = leaves_BxK != NONE
  rank_BxK = jnp.cumsum(is_leaf_BxK, axis=1, dtype=jnp.int32) - 1
  if num_children_BxK is None:
    num_children_BxK = jnp.full(leaves_BxK.shape, branching, jnp.int32)
  num_children_BxK = jnp.where(is_leaf_BxK, num_children_BxK, 0)
  ends_BxK = tree.num_nodes[:, None] + jnp.cumsum(
      num_children_BxK, axis=1, dtype=jnp.int32)
  starts_BxK = jnp.where(is_leaf_BxK, ends_BxK - num_children_BxK, num_slots)
  offsets_A = jnp.arange(branching, dtype=jnp.int32)
  is_child_BxKxA = offsets_A[None, None] < num_children_BxK[..., None]
  nodes_BxKxA = jnp.where(
      is_child_BxKxA, starts_BxK[..., None] + offsets_A[None, None], num_slots)
  is_valid_BxKxA = is_child_BxKxA & expansion.is_valid.reshape(
      nodes_BxKxA.shape)
  children = Children(nodes_BxKxA, is_valid_BxKxA)

  num_leaves_B = jnp.sum(is_leaf_BxK, axis=1, dtype=jnp.int32)
  is_first_BxK = is_leaf_BxK & ~at(tree.is_expanded, leaves_BxK)
  if ranks_BxK is not None:
    is_first_BxK &= ranks_BxK == 0
  of_leaf = lambda array, rows: put(
      array, jnp.where(is_first_BxK, leaves_BxK, num_slots), rows)
  tree = _put_children(tree, leaves_BxK, children, expansion)
  return tree.replace(
      first_child=of_leaf(tree.first_child, starts_BxK),
      is_expanded=of_leaf(tree.is_expanded, is_leaf_BxK),
      expansion_order=of_leaf(
          tree.expansion_order, tree.num_expansions[:, None] + rank_BxK),
      num_nodes=ends_BxK[:, -1],
      num_expansions=tree.num_expansions + num_leaves_B,
      num_tokens=tree.num_tokens + _spent(
          expansion, is_child_BxKxA)), children


def _put_children(
    tree: SearchTree, leaves_BxK, children: Children, expansion
) -> SearchTree:
  """What is known of the children themselves."""
  leaf_BxM = jnp.repeat(
      jnp.maximum(leaves_BxK, 0), children.nodes.shape[2], axis=1)
  nodes_BxM = children.nodes.reshape(leaf_BxM.shape)
  flat = lambda rows: rows.reshape(*leaf_BxM.shape, *rows.shape[2:])
  of_rows = lambda array, rows: put(array, nodes_BxM, flat(rows))
  terminal = expansion.is_terminal & expansion.is_valid
  cost_BxM = gather(tree.costs, leaf_BxM)
  if expansion.cost is not None:
    cost_BxM += flat(expansion.cost)
  state_keys, step_keys = tree.state_keys, tree.step_keys
  if state_keys is not None:
    state_keys = of_rows(state_keys, expansion.state_key)
  if step_keys is not None and expansion.step_key is not None:
    step_keys = of_rows(step_keys, expansion.step_key)
  return tree.replace(
      parents=put(tree.parents, nodes_BxM, leaf_BxM),
      depths=put(
          tree.depths, nodes_BxM, gather(tree.depths, leaf_BxM) + 1),
      values=of_rows(tree.values, expansion.value),
      rewards=of_rows(
          tree.rewards, jnp.where(terminal, expansion.reward, 0.0)),
      log_probs=of_rows(tree.log_probs, expansion.log_prob),
      costs=put(tree.costs, nodes_BxM, cost_BxM),
      q_values=of_rows(tree.q_values, expansion.value),
      is_valid=put(
          tree.is_valid, nodes_BxM, children.is_valid.reshape(leaf_BxM.shape)),
      is_terminal=of_rows(tree.is_terminal, terminal),
      embeddings=jax.tree.map(of_rows, tree.embeddings, expansion.embedding),
      state_keys=state_keys, step_keys=step_keys)


def _spent(expansion: base.Expansion, is_child_BxKxA) -> jax.Array:
  """Tokens of all children, invalid ones too, [B] int32."""
  if expansion.num_tokens is None:
    return jnp.zeros(is_child_BxKxA.shape[0], jnp.int32)
  spent_BxKxA = expansion.num_tokens.reshape(is_child_BxKxA.shape)
  return jnp.sum(
      jnp.where(is_child_BxKxA, spent_BxKxA, 0), axis=(1, 2), dtype=jnp.int32)
