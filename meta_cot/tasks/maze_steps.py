# SPDX-License-Identifier: Apache-2.0
"""A* on mazes inside a compiled program, in the order of Searchformer's."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from meta_cot import search
from meta_cot.types import PRNGKey

MAX_SIZE = 64  # up to here priorities are exact in float32
_MOVES = ((0, 1), (0, -1), (-1, 0), (1, 0))  # up, down, left, right


@jax.jit
def a_star(mazes: Mapping[str, jax.Array]) -> search.SearchOutput:
  """Finds shortest ways through mazes, all together.

  f = g + h with the distance without walls as h; among equals the lower y, then
  the lower x, is closed first, as in Searchformer (arXiv 2402.14083). A tree's
  valid nodes are the cells in the order of their creation, its
  `expansion_order` is that of closing, the goal's excepted, which ends it.

  Args:
    mazes: int32 `start` and `goal`, [B, 2], and bool `is_wall`, [B, S, S], as
      `maze_arrays.InGraph` makes them; they may be spread over devices by B.

  Returns:
    The trees, whose embeddings are cells, int32 [B, N, 2]. `solution_index` is
    the goal, `tree.costs` there the number of steps; NONE where no way leads to
    it.

  Raises:
    ValueError: the mazes are larger than `MAX_SIZE`.
  """
  size = mazes['is_wall'].shape[-1]
  if size > MAX_SIZE:
    raise ValueError(f'mazes: got size {size}; must be at most {MAX_SIZE}.')
  # No cell is expanded twice: its first way to the front is a shortest one.
  return search.best_first(
      mazes, jax.random.key(0), _roots(mazes), step_fn, branching=len(_MOVES),
      num_expansions=size**2, max_depth=size**2, goal_test='pop',
      merge_states=True)


def _roots(mazes: Mapping[str, jax.Array]) -> search.Root:
  """The beginning of every search, at its start."""
  value_B, is_goal_B = jax.vmap(_value)(mazes, mazes['start'])
  return search.Root(
      embedding=mazes['start'], value=jnp.where(is_goal_B, 1.0, value_B),
      is_terminal=is_goal_B, state_key=_key(mazes['start']))


def step_fn(
    mazes: Mapping[str, jax.Array], rng: PRNGKey, path: search.Path
) -> search.Expansion:
  """Goes from cells to their neighbours; see `search.base.StepFn`.

  `mazes` are those of `a_star`; one leaf of each is expanded at a time.
  """
  del rng
  return jax.vmap(_neighbours)(mazes, jax.vmap(lambda cells_Dx2, length: (
      cells_Dx2[jnp.maximum(length - 1, 0)]))(path.embeddings, path.length))


def _neighbours(maze, cell_2) -> search.Expansion:
  cell_Ax2 = cell_2[None] + jnp.array(_MOVES)
  inner_Ax2 = jnp.clip(cell_Ax2, 0, maze['is_wall'].shape[0] - 1)
  is_wall_A = maze['is_wall'][inner_Ax2[:, 0], inner_Ax2[:, 1]]
  value_A, is_goal_A = _value(maze, cell_Ax2)
  ones_A = jnp.ones(value_A.shape)
  return search.Expansion(
      embedding=cell_Ax2, log_prob=0 * ones_A, value=value_A, reward=ones_A,
      is_terminal=is_goal_A, cost=ones_A, state_key=_key(cell_Ax2),
      is_valid=jnp.all(cell_Ax2 == inner_Ax2, axis=-1) & ~is_wall_A)


def _value(maze, cell) -> tuple[jax.Array, jax.Array]:
  """-h, less a part of a step by which equals are ordered; whether h is 0."""
  size = maze['is_wall'].shape[0]
  goal_2 = jnp.expand_dims(maze['goal'], tuple(range(cell.ndim - 1)))
  distance = jnp.sum(jnp.abs(cell - goal_2), axis=-1)
  rank = size * cell[..., 1] + cell[..., 0]
  # A power of two, so that no sum is rounded.
  return -(distance + rank / 2 ** (size**2 - 1).bit_length()), distance == 0


def _key(cell) -> jax.Array:
  return cell.astype(jnp.uint32)
