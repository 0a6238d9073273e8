# SPDX-License-Identifier: Apache-2.0
"""Mazes as arrays, for compiled programs."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, ClassVar

import numpy as np

from meta_cot.problem import Problem


@dataclasses.dataclass(frozen=True)
class InGraph:
  """The verdict on a way such as ` plan 1 3 plan 1 4`; see `base.InGraph`."""

  size: int | None = None  # of the largest maze; None: every maze has its own
  marks: ClassVar[tuple[str, str]] = (' plan', ' plan')

  def inputs(self, problem: Problem) -> dict[str, np.ndarray]:
    """Returns a maze with walls all around it, up to the largest size S.

    int32 `start` [2] and `goal` [2], x and y; bool `is_wall` [S, S] by x and y.
    """
    maze = problem.data
    size = self.size or maze['size']
    is_wall_SxS = np.ones((size, size), bool)
    is_wall_SxS[:maze['size'], :maze['size']] = False
    for x, y in maze['walls']:
      is_wall_SxS[x, y] = True
    return dict(
        start=np.array(maze['start'], np.int32),
        goal=np.array(maze['goal'], np.int32), is_wall=is_wall_SxS)

  def outcome(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns 1.0 for a right way, else 0.0; see `maze_in_graph.outcome`."""
    # Needs JAX, without which the rest of a task starts at once.
    from meta_cot.verifiers import maze_in_graph
    return maze_in_graph.outcome(texts)

  def is_legal(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns whether a way so far may be right; see `maze_in_graph`."""
    from meta_cot.verifiers import maze_in_graph
    return maze_in_graph.is_legal(texts)

  def state(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns the last cell of a way; see `maze_in_graph.state`."""
    from meta_cot.verifiers import maze_in_graph
    return maze_in_graph.state(texts)
