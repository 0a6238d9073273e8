# SPDX-License-Identifier: Apache-2.0
"""Searches that choose from all open nodes: best-first, A*, depth-first."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot.search import base
from meta_cot.search import branching as branching_lib
from meta_cot.search import engine
from meta_cot.search import merging
from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib
from meta_cot.search import widening as widening_lib
from meta_cot.types import PRNGKey

GOAL_TESTS = ('push', 'pop')
ORDERS = ('value', 'creation')


@dataclasses.dataclass(frozen=True)
class _Frontier(engine.Strategy):
  """A search with a budget that ends when nothing is left to expand.

  It also ends with a goal, unless `stops_at_goal` is off. The solution is a
  goal; without one, the terminal node with the highest reward, then priority,
  then age, if there is one.
  """

  num_expansions: int  # budget of expanded nodes per problem; never exceeded
  stops_at_goal: bool = dataclasses.field(default=True, kw_only=True)

  def __post_init__(self):
    base.check_positive(num_expansions=self.num_expansions)
    super().__post_init__()

  @property
  def num_nodes(self) -> int:
    return 1 + branching_lib.most_children(
        self.branching, self.max_depth, self.num_expansions,
        again=self.widening is not None)

  @property
  def max_steps(self) -> int:
    return self.num_expansions

  def _is_goal(self, tree) -> jax.Array:
    return ranking.is_goal(tree, self.goal_above)

  def _is_done(self, tree, is_found_B, next_B) -> jax.Array:
    """Found, or nothing left to expand, or no budget for it; [B] bool."""
    is_over_B = (next_B == tree_lib.NONE) | (
        tree.num_expansions >= self.num_expansions)
    return is_over_B | is_found_B if self.stops_at_goal else is_over_B


@dataclasses.dataclass(frozen=True)
class BestFirst(_Frontier):
  """The rule of `best_first`; the priority is the value less the costs."""

  # 'push' stops when a goal is among the children, the best by reward, then
  # priority, then age; 'pop' keeps goals in the frontier and stops when one is
  # the best there (A* needs it for the shortest path).
  goal_test: str = 'push'
  num_leaves: int = 1  # nodes of the frontier expanded together
  path_cost_weight: float = 1.0  # of the costs that the step function gives
  # An expanded node stays in the frontier, and after m expansions its priority
  # is less by `widening_scale` * m**widening; None: it is expanded once.
  widening: float | None = None
  widening_scale: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    widening_lib.check(self.widening, self.widening_scale)
    base.check_choice('goal_test', self.goal_test, GOAL_TESTS)

  def start(self, tree: tree_lib.SearchTree) -> Any:
    """[B, N] bool: states that were reached on a shorter way since."""
    return jnp.zeros(tree.shape, bool) if self.merge_states else None

  def select(self, state: engine.State) -> tuple[engine.State, jax.Array]:
    """The best of the frontier; see `engine.Strategy`."""
    tree = state.tree
    leaves_BxK = ranking.top(
        self._is_frontier(state), self._priority(tree), self.num_leaves)
    # Nothing behind a goal comes before it.
    is_goal_BxK = (leaves_BxK != tree_lib.NONE) & tree_lib.at(
        self._is_goal(tree), leaves_BxK)
    is_before_BxK = jnp.cumsum(is_goal_BxK, axis=1) == 0
    left_B = self.num_expansions - tree.num_expansions
    is_paid_BxK = jnp.arange(self.num_leaves)[None] < left_B[:, None]
    return state, jnp.where(
        is_before_BxK & is_paid_BxK, leaves_BxK, tree_lib.NONE)

  def backup(
      self, state: engine.State, leaves_BxK: jax.Array,
      children: tree_lib.Children,
  ) -> engine.State:
    """Looks for goals; see `engine.Strategy`."""
    del leaves_BxK
    if self.merge_states:
      state = state.replace(
          extra=state.extra | merging.replaced(state.tree, children))
    tree, priority_BxN = state.tree, self._priority(state.tree)
    is_goal_BxN = self._is_goal(tree)
    solution_B = ranking.best_terminal(tree, priority_BxN)
    next_B = ranking.best(self._is_frontier(state), priority_BxN)
    if self._keeps_goals:
      is_found_B = (next_B != tree_lib.NONE) & tree_lib.at(
          is_goal_BxN, next_B)
      solution_B = jnp.where(is_found_B, next_B, solution_B)
    else:
      is_found_B = jnp.any(is_goal_BxN, axis=1)
    return state.replace(
        solution=solution_B, is_done=self._is_done(tree, is_found_B, next_B))

  @property
  def _keeps_goals(self) -> bool:
    """Whether goals are in the frontier."""
    return self.goal_test == 'pop' and self.stops_at_goal

  def _priority(self, tree) -> jax.Array:
    priority_BxN = tree.values - self.path_cost_weight * tree.costs
    if self.widening is None:
      return priority_BxN
    times_BxN = widening_lib.num_children(tree) // branching_lib.of_depths(
        self.branching, tree.depths)
    return priority_BxN - self.widening_scale * (
        times_BxN.astype(jnp.float32)**self.widening)

  def _is_frontier(self, state) -> jax.Array:
    is_in_BxN = ranking.is_expandable(
        state.tree, self.max_depth, again=self.widening is not None)
    if self._keeps_goals:
      is_in_BxN |= self._is_goal(state.tree)
    return is_in_BxN & ~state.extra if self.merge_states else is_in_BxN


@dataclasses.dataclass(frozen=True)
class DepthFirst(_Frontier):
  """The rule of `depth_first`; the priority is the value."""

  value_threshold: float = -float('inf')  # nodes below are not expanded
  order: str = 'value'  # of siblings: 'value', highest first, or 'creation'

  def __post_init__(self):
    super().__post_init__()
    base.check_choice('order', self.order, ORDERS)

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
        is_done=self._is_done(
            tree, jnp.any(self._is_goal(tree), axis=1), self._next(tree)))

  def _next(self, tree) -> jax.Array:
    """The stack's top, [B]: a child of the node that was expanded last."""
    is_in_BxN = ranking.is_expandable(tree, self.max_depth)
    is_root_N = jnp.arange(tree.shape[1]) == 0
    is_in_BxN &= (tree.values >= self.value_threshold) | is_root_N[None]
    when_BxN = tree_lib.at(tree.expansion_order, tree.parents)
    keys = (tree.values,) if self.order == 'value' else ()
    return ranking.best(is_in_BxN, when_BxN.astype(jnp.float32), *keys)


def best_first(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn,
    **settings: Any,
) -> engine.SearchOutput:
  """Expands what has the highest priority until a goal is found.

  The A* of arXiv 2501.04682, section 4.3.2 (after Koh et al., 2024): the
  frontier is a queue on the value v; the best state is taken out, the policy
  proposes `branching` steps, and the states after them go in. With costs the
  priority is v - `path_cost_weight` * (cost of the path): v = -h and weight 1
  is classical A*, f = g + h, and with `merge_states` that of graphs, where a
  shorter way to a state replaces the longer one.

  Takes the arguments of `engine.run` and the fields of `BestFirst`; raises a
  ValueError where these allow no search or a shape is wrong.
  """
  return engine.run(BestFirst(**settings), params, rng, root, step_fn)


def depth_first(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn,
    **settings: Any,
) -> engine.SearchOutput:
  """Goes down while it can, then back to the last node with a child left.

  The depth-first Tree of Thoughts (Yao et al., 2023; arXiv 2501.04682, section
  3.3): nodes with a value under the threshold are not expanded, but for the
  root. Stops at the first expansion that makes a goal.

  Takes the arguments of `engine.run` and the fields of `DepthFirst`; raises a
  ValueError where these allow no search or a shape is wrong.
  """
  return engine.run(DepthFirst(**settings), params, rng, root, step_fn)
