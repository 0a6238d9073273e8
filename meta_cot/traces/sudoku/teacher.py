# SPDX-License-Identifier: Apache-2.0
"""Depth-first search for the solution of a Sudoku.

Cells are filled row by row, each with the digits that clash with no other cell.
Where the next cell then has no digit left, that is a dead end. (To fill the
cell with the fewest digits first would never lead to one in a grid of 4 x 4.)
"""

from collections.abc import Callable
import random
from typing import ClassVar

from meta_cot.problem import Problem
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib
from meta_cot.traces.sudoku import grids

DEPTH_FIRST, RANDOM = 'depth_first', 'depth_first_random'


class Teacher:
  """The searches by name, see `tasks.base.Teacher`.

  'depth_first' tries the digits of a cell in ascending order,
  'depth_first_random' in any.
  """

  strategies: ClassVar[tuple[str, ...]] = (DEPTH_FIRST, RANDOM)

  def search(
      self, problem: Problem, strategy: str, seed: int
  ) -> record_lib.TraceRecord:
    """Searches with one of `strategies`.

    Returns:
      The tree; a node's state is the grid. A dead end is not expanded.

    Raises:
      ValueError: no such strategy, or no puzzle with one solution.
    """
    if strategy not in self.strategies:
      raise ValueError(
          f'strategy: got {strategy!r}; must be one of '
          f'{", ".join(self.strategies)}.')
    order = sorted
    if strategy == RANDOM:
      rng = random.Random(f'{strategy}-{seed}')
      order = lambda digits: rng.sample(digits, len(digits))
    nodes = _search(grids.of_data(problem.data), order)
    return record_lib.TraceRecord(
        problem=problem, strategy=strategy, arguments={}, seed=seed,
        model='symbolic', nodes=nodes,
        solution=from_tree.path(nodes, len(nodes) - 1),
        traversal='depth_first')


def _search(
    givens: grids.Grid, order: Callable[[list[int]], list[int]]
) -> tuple[record_lib.Node, ...]:
  """The nodes in the order in which they are made; the last is the goal."""
  nodes = []
  stack = [(-1, None, givens)]  # parent, step, grid; the next one is the last
  while stack:
    parent, step, grid = stack.pop()
    cell = grids.first_empty(grid)
    digits = [] if cell is None else order(grids.digits(grid, cell))
    node = len(nodes)
    nodes.append(record_lib.Node(
        parent, step and grids.text(step) or '', grids.state(grid),
        order=node if digits else -1, is_terminal=not digits,
        is_correct=cell is None))
    if cell is None:
      break
    stack += [
        (node, (cell, digit), grids.after(grid, (cell, digit)))
        for digit in reversed(digits)]
  return tuple(nodes)
