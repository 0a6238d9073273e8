# SPDX-License-Identifier: Apache-2.0
"""Best-first search on the value, and A*."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot.search import base
from meta_cot.search import engine
from meta_cot.search import merging
from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib
from meta_cot.types import PRNGKey

GOAL_TESTS = ('generate', 'pop')


@dataclasses.dataclass(frozen=True)
class BestFirst:
  """The rule of `best_first`; the fields are its arguments.

  Raises:
    ValueError: a field that allows no search.
  """

  num_expansions: int
  branching: int
  max_depth: int
  goal_test: str = 'generate'
  num_leaves: int = 1
  path_cost_weight: float = 1.0
  max_tokens: int | None = None
  merge_steps: bool = True
  merge_states: bool = False

  def __post_init__(self):
    if self.num_expansions < 1:
      raise ValueError(
          f'num_expansions: got {self.num_expansions}; must be at least 1.')
    if self.goal_test not in GOAL_TESTS:
      raise ValueError(
          f'goal_test: got {self.goal_test!r}; must be one of '
          f'{", ".join(GOAL_TESTS)}.')

  @property
  def num_nodes(self) -> int:
    return 1 + self.num_expansions * self.branching

  @property
  def max_steps(self) -> int:
    return self.num_expansions

  def start(self, tree: tree_lib.SearchTree) -> Any:
    """[B, N] bool: states that were reached on a shorter way since."""
    return jnp.zeros(tree.shape, bool) if self.merge_states else None

  def select(self, state: engine.State) -> tuple[engine.State, jax.Array]:
    """The best of the frontier; see `engine.Strategy`."""
    tree = state.tree
    leaves_BxK = ranking.top(
        self._is_frontier(state), self._priority(tree), self.num_leaves)
    # Nothing behind a goal comes before it.
    is_goal_BxK = (leaves_BxK != tree_lib.NONE) & tree_lib.gather(
        ranking.is_goal(tree), jnp.maximum(leaves_BxK, 0))
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
    is_goal_BxN = ranking.is_goal(tree)
    solution_B = ranking.best_terminal(tree, priority_BxN)
    next_B = ranking.best(self._is_frontier(state), priority_BxN)
    if self.goal_test == 'pop':
      is_found_B = (next_B != tree_lib.NONE) & tree_lib.gather(
          is_goal_BxN, jnp.maximum(next_B, 0))
      solution_B = jnp.where(is_found_B, next_B, solution_B)
    else:
      is_found_B = jnp.any(is_goal_BxN, axis=1)
    return state.replace(
        solution=solution_B,
        is_done=is_found_B | (next_B == tree_lib.NONE) | (
            tree.num_expansions >= self.num_expansions))

  def _priority(self, tree) -> jax.Array:
    return tree.values - self.path_cost_weight * tree.costs

  def _is_frontier(self, state) -> jax.Array:
    is_in_BxN = ranking.is_expandable(state.tree, self.max_depth)
    if self.goal_test == 'pop':
      is_in_BxN |= ranking.is_goal(state.tree)
    return is_in_BxN & ~state.extra if self.merge_states else is_in_BxN


def best_first(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn, *,
    num_expansions: int, branching: int, max_depth: int,
    goal_test: str = 'generate', num_leaves: int = 1,
    path_cost_weight: float = 1.0, max_tokens: int | None = None,
    merge_steps: bool = True, merge_states: bool = False,
) -> engine.SearchOutput:
  """Expands what has the highest priority until a goal is found.

  The A* of arXiv 2501.04682, section 4.3.2 (after Koh et al., 2024): the
  frontier is a queue on the value v; the best state is taken out, the policy
  proposes `branching` steps, and the states after them go in. With costs the
  priority is v - `path_cost_weight` * (cost of the path): v = -h and weight 1
  is classical A*, f = g + h, and with `merge_states` that of graphs, where a
  shorter way to a state replaces the longer one.

  Args:
    params: forwarded to `step_fn`.
    rng: consumed.
    root: [B, ...].
    step_fn: see `search.base`.
    num_expansions: budget of expanded nodes per problem; never exceeded.
    branching: children of an expansion.
    max_depth: nodes there are not expanded.
    goal_test: 'generate' stops when a goal is among the children, the best by
      reward, then priority, then age; 'pop' keeps goals in the frontier and
      stops when one is the best there (A* needs it for the shortest path).
    num_leaves: nodes of the frontier expanded together.
    path_cost_weight: of the costs that the step function gives.
    max_tokens: no more steps once a problem has generated as many.
    merge_steps: merge equal steps of one node.
    merge_states: merge equal states of one tree.

  Returns:
    The trees and the goals; without a goal, the terminal node with the highest
    reward, then priority, then age, if there is one.

  Raises:
    ValueError: settings that allow no search; wrong shapes.
  """
  strategy = BestFirst(
      num_expansions=num_expansions, branching=branching, max_depth=max_depth,
      goal_test=goal_test, num_leaves=num_leaves,
      path_cost_weight=path_cost_weight, max_tokens=max_tokens,
      merge_steps=merge_steps, merge_states=merge_states)
  return engine.run(strategy, params, rng, root, step_fn)
