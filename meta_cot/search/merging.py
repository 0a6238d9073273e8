# SPDX-License-Identifier: Apache-2.0
"""Duplicates: equal steps of one leaf, and equal states of one tree.

Of equals the one with the shortest way from the root stays, where step
functions give costs, and among those the first one created. It takes the
probability of its equal siblings; probabilities given another path do not add.
"""

import jax
import jax.numpy as jnp

from meta_cot.search import base
from meta_cot.search import tree as tree_lib


def merge(
    tree: tree_lib.SearchTree, leaves_BxK: jax.Array,
    expansion: base.Expansion, *, steps: bool, states: bool,
) -> base.Expansion:
  """The expansion with duplicates marked as invalid.

  Args:
    tree: before the expansion.
    leaves_BxK: what is being expanded, or NONE.
    expansion: rows R = B * K.
    steps: merge children of one leaf with equal `step_key`, if there is one;
      where the tree has step keys, drop those whose step the leaf has already,
      of which nothing changes.
    states: merge children with equal `state_key`, of all leaves of this step,
      and drop those whose state is in the tree already, unless they have found
      a shorter way to it (see `replaced`).

  Raises:
    ValueError: `states` without a `state_key`.
  """
  if steps and expansion.step_key is not None:
    expansion = merge_siblings(expansion, expansion.step_key)
    if tree.step_keys is not None:
      expansion = expansion.replace(is_valid=expansion.is_valid & ~_has_step(
          tree, leaves_BxK, expansion.step_key))
  if not states:
    return expansion
  if expansion.state_key is None:
    raise ValueError(
        'merge_states: the step function gives no state_key; give one, or '
        'switch merge_states off.')
  is_leaf_R = (leaves_BxK != tree_lib.NONE).reshape(-1)
  expansion = expansion.replace(
      is_valid=expansion.is_valid & is_leaf_R[:, None])
  expansion = merge_siblings(expansion, expansion.state_key)

  shape, way_BxK = expansion.value.shape, tree_lib.at(tree.costs, leaves_BxK)
  by_problem = lambda x: x.reshape(len(leaves_BxK), -1, *x.shape[2:])
  cost_BxM = by_problem(_costs(expansion)) + jnp.repeat(
      way_BxK, shape[1], axis=1)
  keys_BxMx2 = by_problem(expansion.state_key)
  is_valid_BxM = by_problem(expansion.is_valid)
  is_valid_BxM = jax.vmap(_keep_first)(
      _equal(keys_BxMx2, is_valid_BxM), is_valid_BxM, cost_BxM)
  is_known_BxM = jax.vmap(_is_known)(
      keys_BxMx2, cost_BxM, tree.state_keys, tree.costs, tree.is_valid)
  return expansion.replace(
      is_valid=(is_valid_BxM & ~is_known_BxM).reshape(shape))


def replaced(
    tree: tree_lib.SearchTree, children: tree_lib.Children
) -> jax.Array:
  """Nodes to whose states new children have found shorter ways, [B, N] bool.

  The tree has state keys, and the children of the last step in it.
  """
  def one(keys_Nx2, is_valid_N, nodes_M, is_new_M):
    keys_Mx2 = keys_Nx2[nodes_M]
    is_equal_MxN = _same(keys_Mx2[:, None], keys_Nx2[None])
    is_equal_MxN &= is_new_M[:, None] & is_valid_N[None]
    is_other_MxN = nodes_M[:, None] != jnp.arange(len(is_valid_N))[None]
    return jnp.any(is_equal_MxN & is_other_MxN, axis=0)

  flat = lambda x: x.reshape(x.shape[0], -1)
  return jax.vmap(one)(
      tree.state_keys, tree.is_valid, flat(children.nodes),
      flat(children.is_valid))


def _same(keys, others):
  is_key = jnp.any(keys != jnp.uint32(base.NO_KEY), axis=-1)
  return jnp.all(keys == others, axis=-1) & is_key


def _equal(keys_RxMx2, is_valid_RxM):
  """Which candidates of a row are equal, [R, M, M]; itself included."""
  is_equal_RxMxM = _same(keys_RxMx2[:, :, None], keys_RxMx2[:, None])
  is_equal_RxMxM |= jnp.eye(is_valid_RxM.shape[1], dtype=bool)[None]
  return is_equal_RxMxM & is_valid_RxM[:, :, None] & is_valid_RxM[:, None]


def _keep_first(is_equal_MxM, is_valid_M, cost_M):
  """Valid candidates without a cheaper or an earlier equal."""
  is_earlier_MxM = jnp.tri(len(cost_M), k=-1, dtype=bool)
  is_better_MxM = (cost_M[None] < cost_M[:, None]) | (
      (cost_M[None] == cost_M[:, None]) & is_earlier_MxM)
  return is_valid_M & ~jnp.any(is_equal_MxM & is_better_MxM, axis=1)


def _costs(expansion) -> jax.Array:
  if expansion.cost is None:
    return jnp.zeros(expansion.value.shape, jnp.float32)
  return expansion.cost


def merge_siblings(expansion, keys_RxAx2) -> base.Expansion:
  """Merges the children of every leaf with equal keys, uint32 [R, A, 2]."""
  def one(is_equal_AxA, is_valid_A, cost_A, log_prob_A):
    total_A = jax.nn.logsumexp(
        jnp.where(is_equal_AxA, log_prob_A[None], -jnp.inf), axis=1)
    return (_keep_first(is_equal_AxA, is_valid_A, cost_A),
            jnp.where(is_valid_A, total_A, log_prob_A))

  is_valid, log_prob = jax.vmap(one)(
      _equal(keys_RxAx2, expansion.is_valid), expansion.is_valid,
      _costs(expansion), expansion.log_prob)
  return expansion.replace(is_valid=is_valid, log_prob=log_prob)


def _has_step(tree, leaves_BxK, keys_RxAx2) -> jax.Array:
  """Whether leaves have valid children with these step keys, [R, A] bool."""
  def one(leaf, keys_Ax2, step_keys_Nx2, parents_N, is_valid_N):
    is_child_N = is_valid_N & (parents_N == leaf)
    is_equal_AxN = _same(keys_Ax2[:, None], step_keys_Nx2[None])
    return jnp.any(is_equal_AxN & is_child_N[None], axis=1)

  over_leaves = jax.vmap(one, (0, 0, None, None, None))
  is_there_BxKxA = jax.vmap(over_leaves)(
      leaves_BxK, keys_RxAx2.reshape(*leaves_BxK.shape, -1, 2),
      tree.step_keys, tree.parents, tree.is_valid)
  return is_there_BxKxA.reshape(keys_RxAx2.shape[:2])


def _is_known(keys_Mx2, cost_M, tree_keys_Nx2, tree_costs_N, is_node_N):
  """Whether a state is in the tree, and no further from the root there."""
  is_equal_MxN = _same(keys_Mx2[:, None], tree_keys_Nx2[None])
  is_near_MxN = tree_costs_N[None] <= cost_M[:, None]
  return jnp.any(is_equal_MxN & is_near_MxN & is_node_N[None], axis=1)
