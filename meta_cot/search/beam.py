# SPDX-License-Identifier: Apache-2.0
"""Level by level: beam search, DVTS, and breadth-first search with pruning."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot.search import base
from meta_cot.search import branching as branching_lib
from meta_cot.search import engine
from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib
from meta_cot.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class Beam(engine.Strategy):
  """The rule of `beam`, `dvts` and `breadth_first`.

  Of all children of a level, the finished ones become answers and take no place
  in the beam; of the others those with the highest values are the next beam,
  equal ones by age. It goes on until no beam is left, whatever the answers;
  with `stops_at_goal` a level that has a goal is the last.
  The solution is the answer with the highest reward, then value, then age.
  """

  beam_width: int  # nodes kept per level
  num_groups: int = 1  # beams of equal width that do not compete
  value_threshold: float = -float('inf')  # nodes below leave the beam

  def __post_init__(self):
    base.check_positive(beam_width=self.beam_width)
    super().__post_init__()
    if self.num_groups < 1 or self.beam_width % self.num_groups:
      raise ValueError(
          f'num_groups: got {self.num_groups}; must divide the beam width, '
          f'{self.beam_width}.')
    num_first = branching_lib.at(self.branching, 0)
    if self.num_groups > num_first:
      raise ValueError(
          f'num_groups: got {self.num_groups}; must be at most branching, '
          f'{num_first}: every group begins with a child of the root.')

  @property
  def num_leaves(self) -> int:
    return self.beam_width

  @property
  def max_steps(self) -> int:
    return self.max_depth

  @property
  def num_nodes(self) -> int:
    width, num_nodes = 1, 1
    for depth in range(self.max_depth):
      num_children = width * branching_lib.at(self.branching, depth)
      num_nodes += num_children
      width = min(num_children, self.beam_width)
    return num_nodes

  def start(self, tree: tree_lib.SearchTree) -> jax.Array:
    """The beams, [B, W] int32."""
    beam_BxW = jnp.full(
        (tree.shape[0], self.beam_width), tree_lib.NONE, jnp.int32)
    return beam_BxW.at[:, 0].set(0)

  def select(self, state: engine.State) -> tuple[engine.State, jax.Array]:
    """The whole beam; see `engine.Strategy`."""
    return state, state.extra

  def backup(
      self, state: engine.State, leaves_BxK: jax.Array,
      children: tree_lib.Children,
  ) -> engine.State:
    """The next beam; see `engine.Strategy`."""
    tree = state.tree
    beam_BxW = self._next_beam(tree, leaves_BxK, children)
    is_done_B = jnp.all(beam_BxW == tree_lib.NONE, axis=1)
    if self.stops_at_goal:
      is_done_B |= jnp.any(ranking.is_goal(tree, self.goal_above), axis=1)
    return state.replace(
        extra=beam_BxW, is_done=is_done_B,
        solution=ranking.best_terminal(tree, tree.values))

  def _next_beam(self, tree, leaves_BxK, children) -> jax.Array:
    """The best unfinished children of every group, [B, W]."""
    flat = lambda x: x.reshape(x.shape[0], -1)
    nodes_BxM, is_in_BxM = flat(children.nodes), flat(children.is_valid)
    last_BxM = jnp.minimum(nodes_BxM, tree.shape[1] - 1)
    value_BxM = tree_lib.gather(tree.values, last_BxM)
    is_in_BxM &= tree_lib.gather(
        ranking.is_expandable(tree, self.max_depth), last_BxM)
    is_in_BxM &= value_BxM >= self.value_threshold
    group_BxM = self._groups(leaves_BxK, is_in_BxM)

    def best_of(group):
      return ranking.top(
          is_in_BxM & (group_BxM == group), value_BxM,
          self.beam_width // self.num_groups)

    chosen_GxBxW = jax.vmap(best_of)(jnp.arange(self.num_groups))
    chosen_BxW = jnp.moveaxis(chosen_GxBxW, 0, 1).reshape(leaves_BxK.shape)
    return jnp.where(
        chosen_BxW == tree_lib.NONE, tree_lib.NONE,
        tree_lib.at(nodes_BxM, chosen_BxW))

  def _groups(self, leaves_BxK, is_in_BxM) -> jax.Array:
    """The group of every child, [B, M]: that of its parent.

    The children of the root are dealt out one by one, so that every group gets
    one as long as there are any.
    """
    num_children = is_in_BxM.shape[1]
    dealt_BxM = (jnp.cumsum(is_in_BxM, axis=1) - 1) % self.num_groups
    inherited_M = jnp.arange(num_children) // (num_children // self.num_groups)
    return jnp.where(leaves_BxK[:, :1] == 0, dealt_BxM, inherited_M[None])


def beam(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn,
    **settings: Any,
) -> engine.SearchOutput:
  """Searches level by level among the children with the highest values.

  Beam search with a value model, arXiv 2501.04682, section 3.3 (figure 17:
  branching 5, width 4).

  Takes the arguments of `engine.run` and the fields of `Beam`; raises a
  ValueError where these allow no search or a shape is wrong.
  """
  return engine.run(Beam(**settings), params, rng, root, step_fn)


def dvts(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn, *,
    num_subtrees: int, branching: branching_lib.Branching, **settings: Any,
) -> engine.SearchOutput:
  """Searches greedily in `num_subtrees` parts of the tree that do not compete.

  Diverse verifier tree search (Beeching et al., 2024) on one tree: the root is
  expanded once and its children are dealt out to the subtrees, one by one; from
  then on every subtree keeps its best unfinished child per level, as a beam of
  width 1. (The original samples `branching` first steps for each subtree; give
  a `branching` that is a multiple of `num_subtrees` for a choice there.) A
  subtree that has run out of nodes stays empty. Otherwise as `beam`.
  """
  branching_lib.check(branching)
  num_first = branching_lib.at(branching, 0)
  if not 1 <= num_subtrees <= num_first:
    raise ValueError(
        f'num_subtrees: got {num_subtrees}; must be 1 to branching, '
        f'{num_first}: every subtree begins with a child of the root.')
  return beam(
      params, rng, root, step_fn, beam_width=num_subtrees, branching=branching,
      num_groups=num_subtrees, **settings)


def breadth_first(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn, *,
    breadth_limit: int, **settings: Any,
) -> engine.SearchOutput:
  """Searches level by level, until one has a goal.

  The breadth-first Tree of Thoughts (Yao et al., 2023; arXiv 2501.04682,
  section 3.3): a `beam` of `breadth_limit` nodes that may drop those under a
  `value_threshold` (never the root) and ends with the first level that has a
  goal. A limit of `branching` ** (`max_depth` - 1) is no limit.
  """
  base.check_positive(breadth_limit=breadth_limit)
  return beam(
      params, rng, root, step_fn, beam_width=breadth_limit, stops_at_goal=True,
      **settings)
