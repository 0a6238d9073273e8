# SPDX-License-Identifier: Apache-2.0
"""Depth-first search with pruning."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot.search import base
from meta_cot.search import engine
from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib
from meta_cot.types import PRNGKey

ORDERS = ('value', 'creation')


@dataclasses.dataclass(frozen=True)
class DepthFirst:
  """The rule of `depth_first`; the fields are its arguments.

  Raises:
    ValueError: a field that allows no search.
  """

  num_expansions: int
  branching: int
  max_depth: int
  value_threshold: float = -float('inf')
  order: str = 'value'
  max_tokens: int | None = None
  merge_steps: bool = True
  merge_states: bool = False

  def __post_init__(self):
    if self.num_expansions < 1:
      raise ValueError(
          f'num_expansions: got {self.num_expansions}; must be at least 1.')
    if self.order not in ORDERS:
      raise ValueError(
          f'order: got {self.order!r}; must be one of {", ".join(ORDERS)}.')

  @property
  def num_leaves(self) -> int:
    return 1

  @property
  def num_nodes(self) -> int:
    return 1 + self.num_expansions * self.branching

  @property
  def max_steps(self) -> int:
    return self.num_expansions

  def start(self, tree: tree_lib.SearchTree) -> None:
    """The tree says it all."""

  def select(self, state: engine.State) -> tuple[engine.State, jax.Array]:
    """The next node in depth-first order; see `engine.Strategy`."""
    return state, self._next(state.tree)[:, None]

  def backup(
      self, state: engine.State, leaves_BxK: jax.Array,
      children: tree_lib.Children,
  ) -> engine.State:
    """Looks for goals; see `engine.Strategy`."""
    del leaves_BxK, children
    tree = state.tree
    return state.replace(
        solution=ranking.best_terminal(tree, tree.values),
        is_done=jnp.any(ranking.is_goal(tree), axis=1)
        | (self._next(tree) == tree_lib.NONE)
        | (tree.num_expansions >= self.num_expansions))

  def _next(self, tree) -> jax.Array:
    """The stack's top, [B]: a child of the node that was expanded last."""
    is_in_BxN = ranking.is_expandable(tree, self.max_depth)
    is_root_N = jnp.arange(tree.shape[1]) == 0
    is_in_BxN &= (tree.values >= self.value_threshold) | is_root_N[None]
    when_BxN = tree_lib.gather(
        tree.expansion_order, jnp.maximum(tree.parents, 0))
    keys = (tree.values,) if self.order == 'value' else ()
    return ranking.best(is_in_BxN, when_BxN.astype(jnp.float32), *keys)


def depth_first(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn, *,
    num_expansions: int, branching: int, max_depth: int,
    value_threshold: float = -float('inf'), order: str = 'value',
    max_tokens: int | None = None, merge_steps: bool = True,
    merge_states: bool = False,
) -> engine.SearchOutput:
  """Goes down while it can, then back to the last node with a child left.

  The depth-first Tree of Thoughts (Yao et al., 2023; arXiv 2501.04682, section
  3.3): nodes with a value under the threshold are not expanded. Stops at the
  first expansion that makes a goal.

  Args:
    params: forwarded to `step_fn`.
    rng: consumed.
    root: [B, ...]; always expanded.
    step_fn: see `search.base`.
    num_expansions: budget of expanded nodes per problem; never exceeded.
    branching: children of an expansion.
    max_depth: nodes there are not expanded.
    value_threshold: the lowest value that is expanded.
    order: of siblings: 'value', highest first, or 'creation'.
    max_tokens: no more steps once a problem has generated as many.
    merge_steps: merge equal steps of one node.
    merge_states: merge equal states of one tree.

  Returns:
    The trees and the goals; without a goal, the terminal node with the highest
    reward, then value, then age, if there is one.

  Raises:
    ValueError: settings that allow no search; wrong shapes.
  """
  strategy = DepthFirst(
      num_expansions=num_expansions, branching=branching, max_depth=max_depth,
      value_threshold=value_threshold, order=order, max_tokens=max_tokens,
      merge_steps=merge_steps, merge_states=merge_states)
  return engine.run(strategy, params, rng, root, step_fn)
