# SPDX-License-Identifier: Apache-2.0
"""Down the tree by a rule, and up again with a value.

Everything here is for one problem; `mcts` maps it over the batch. D is
max_depth + 1, the nodes of the longest path.
"""

from collections.abc import Callable

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.search import tree as tree_lib

NO_PROB = -1e30  # stands for log 0 where -inf would make NaN of a softmax
_NO_CHILD = -3e38


@struct.dataclass
class Statistics:
  """What simulations change; leading axes of problems allowed."""

  visits: jax.Array  # [N] int32
  q_values: jax.Array  # [N] float32


@struct.dataclass
class Choice:
  """A node and its children, which a rule scores."""

  q_values: jax.Array  # [A] float32
  visits: jax.Array  # [A] float32
  log_probs: jax.Array  # [A] float32
  is_valid: jax.Array  # [A] bool; the scores of others do not matter
  node: jax.Array  # [] int32
  node_value: jax.Array  # [] float32, as the step function gave it
  node_visits: jax.Array  # [] float32


def uct(choice: Choice, exploration: float) -> jax.Array:
  """Q(S, s) + c sqrt(log N(S) / N(S, s)); N(S) sums over the children."""
  total = _total_visits(choice)
  visits_A = jnp.maximum(choice.visits, 1.0)
  return choice.q_values + exploration * jnp.sqrt(jnp.log(total) / visits_A)


def uct_paper(choice: Choice, exploration: float) -> jax.Array:
  """Q(S, s) + c sqrt(log N(S, s) / N(S)), as Appendix D prints it."""
  total = _total_visits(choice)
  visits_A = jnp.maximum(choice.visits, 1.0)
  return choice.q_values + exploration * jnp.sqrt(jnp.log(visits_A) / total)


def puct(choice: Choice, exploration: float) -> jax.Array:
  """Q(S, s) + c P(s | S) sqrt(N(S)) / (1 + N(S, s)); N(S) is the node's own."""
  bonus_A = priors(choice) / (1.0 + choice.visits)
  return choice.q_values + (
      exploration * jnp.sqrt(choice.node_visits) * bonus_A)


def priors(choice: Choice) -> jax.Array:
  """P(s | S), [A]: the log-probs made to sum to one over the valid siblings."""
  return jax.nn.softmax(jnp.where(choice.is_valid, logits(choice), _NO_CHILD))


def logits(choice: Choice) -> jax.Array:
  """The log-probs, [A], finite."""
  return jnp.maximum(choice.log_probs, NO_PROB)


def descend(
    tree: tree_lib.SearchTree, statistics: Statistics,
    scores: Callable[[Choice], jax.Array], *, branching: int | None,
    max_depth: int,
) -> tuple[jax.Array, jax.Array]:
  """From the root to a node without children, always to the best child.

  The rule `scores` gives [A], see `children_of`, for what `statistics` say of a
  node's children; the highest wins, the first of equals.

  Returns:
    The node, [] int32, and the path to it, [D] int32; behind it anything.
  """
  def down(carry):
    node, path_D, _ = carry
    choice, first = children_of(tree, statistics, node, branching)
    has_child = jnp.any(choice.is_valid)
    child = first + best_of(choice, scores(choice))
    node = jnp.where(has_child, child, node)
    path_D = path_D.at[tree.depths[node]].set(node)
    return node, path_D, has_child & tree.is_expanded[node]

  start = jnp.zeros((), jnp.int32), jnp.zeros(max_depth + 1, jnp.int32)
  node, path_D, _ = jax.lax.while_loop(
      lambda carry: carry[2], down, (*start, tree.is_expanded[0]))
  return node, path_D


def children_of(
    tree: tree_lib.SearchTree, statistics: Statistics, node: jax.Array,
    branching: int | None,
) -> tuple[Choice, jax.Array]:
  """The children of an expanded node, and the index of the first.

  Of A = `branching` slots, those behind the node's own children are not valid;
  None: of all slots of the tree, as children may be anywhere.
  """
  if branching is None:
    first, children = jnp.zeros((), jnp.int32), lambda array: array
  else:
    first = tree.first_child[node]
    children = lambda array: jax.lax.dynamic_slice(
        array, (first,), (branching,))
  choice = Choice(
      q_values=children(statistics.q_values),
      visits=children(statistics.visits).astype(jnp.float32),
      log_probs=children(tree.log_probs),
      is_valid=children(tree.is_valid) & (children(tree.parents) == node),
      node=node,
      node_value=tree.values[node],
      node_visits=statistics.visits[node].astype(jnp.float32))
  return choice, first


def best_of(choice: Choice, scores_A: jax.Array) -> jax.Array:
  """The valid child with the highest score, the first of equals, [] int32."""
  # A valid child stays ahead of those that are none, whatever its score.
  lowest = float(jnp.finfo(jnp.float32).min)
  is_worse_A = jnp.isnan(scores_A) | (scores_A < lowest)
  scores_A = jnp.where(is_worse_A, lowest, scores_A)
  scores_A = jnp.where(choice.is_valid, scores_A, -jnp.inf)
  return jnp.argmax(scores_A).astype(jnp.int32)


def back_up(
    statistics: Statistics, path_D: jax.Array, depth: jax.Array,
    value: jax.Array,
) -> Statistics:
  """N += 1, then Q += (value - Q) / N, on a path (Appendix D).

  `depth` is that of the last node that is visited; -1 changes nothing.
  """
  num_slots = statistics.visits.shape[0]
  at_D = jnp.where(jnp.arange(len(path_D)) <= depth, path_D, num_slots)
  visits_D = statistics.visits[path_D] + 1
  q_values_D = statistics.q_values[path_D]
  q_values_D += (value - q_values_D) / visits_D.astype(jnp.float32)
  return Statistics(
      visits=statistics.visits.at[at_D].set(visits_D, mode='drop'),
      q_values=statistics.q_values.at[at_D].set(q_values_D, mode='drop'))


def _total_visits(choice: Choice) -> jax.Array:
  total = jnp.sum(choice.visits, where=choice.is_valid)
  return jnp.maximum(total, 1.0)
