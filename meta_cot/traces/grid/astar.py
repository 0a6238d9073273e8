# SPDX-License-Identifier: Apache-2.0
"""A* on mazes, as Searchformer runs it (arXiv 2402.14083, section 3).

The heuristic is the distance without walls, a step costs 1. A cell is created
when it is pushed and closed when it is popped; one that was created before is
created again only at a lower cost, and then takes the place of the other. The
search ends when the goal is closed.
"""

from collections.abc import Iterator
import dataclasses
import heapq
import random
from typing import ClassVar

from meta_cot.problem import Problem
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib
from meta_cot.traces.grid import mazes

ASTAR, RANDOM = 'astar', 'astar_random'


class Teacher:
  """The searches by name, see `tasks.base.Teacher`.

  Of equal cost 'astar' closes the cell with the lower y, then the lower x;
  'astar_random' any, and it shuffles the children of every cell.
  """

  strategies: ClassVar[tuple[str, ...]] = (ASTAR, RANDOM)

  def search(
      self, problem: Problem, strategy: str, seed: int
  ) -> record_lib.TraceRecord:
    """Searches with one of `strategies`.

    Returns:
      The tree. Node 0 is before the start; a node is what was created, its step
      and its state the cell; `order` is the order of closing.

    Raises:
      ValueError: no such strategy, or no maze whose goal can be reached.
    """
    if strategy not in self.strategies:
      raise ValueError(
          f'strategy: got {strategy!r}; must be one of '
          f'{", ".join(self.strategies)}.')
    found = search(
        mazes.of_data(problem.data),
        random.Random(f'{strategy}-{seed}') if strategy == RANDOM else None)
    return record_lib.TraceRecord(
        problem=problem, strategy=strategy, arguments={}, seed=seed,
        model='symbolic', nodes=found.nodes, solution=found.solution,
        traversal='goal_expansion')


@dataclasses.dataclass(frozen=True)
class Found:
  """A finished search."""

  nodes: tuple[record_lib.Node, ...]
  solution: tuple[int, ...]  # node indices, the root first

  @property
  def plan(self) -> list[str]:
    """The cells of a shortest way, the start included."""
    return [self.nodes[i].step for i in self.solution[1:]]

  @property
  def num_events(self) -> int:
    """How many cells were created and closed."""
    return len(self.nodes) - 1 + sum(n.order > 0 for n in self.nodes)


def search(maze: mazes.Maze, rng: random.Random | None = None) -> Found:
  """Finds a shortest way; ties at random where `rng` is given.

  Raises:
    ValueError: the goal cannot be reached, which `mazes.of_data` excludes.
  """
  nodes, cells, costs = [record_lib.Node(-1, '', mazes.BEFORE, 0)], [None], [-1]
  frontier, newest = [], {}  # cell -> its node

  def create(parent: int, cell: mazes.Cell) -> None:
    node, cost, text = len(nodes), costs[parent] + 1, mazes.text(cell)
    nodes.append(record_lib.Node(
        parent, text, text, is_terminal=cell == maze.goal,
        is_correct=cell == maze.goal))
    cells.append(cell)
    costs.append(cost)
    newest[cell] = node
    tie = cell[::-1] if rng is None else rng.random()
    heapq.heappush(
        frontier, (cost + mazes.distance(cell, maze.goal), tie, node))

  create(0, maze.start)
  for order, node in enumerate(_popped(frontier, cells, newest), start=1):
    nodes[node] = dataclasses.replace(nodes[node], order=order)
    if cells[node] == maze.goal:
      return Found(tuple(nodes), from_tree.path(nodes, node))
    children = maze.neighbours(cells[node])
    if rng is not None:
      rng.shuffle(children)
    for cell in children:
      if cell not in newest or costs[newest[cell]] > costs[node] + 1:
        create(node, cell)
  raise ValueError(f'no way leads to the goal {mazes.text(maze.goal)}.')


def _popped(frontier: list, cells: list, newest: dict) -> Iterator[int]:
  """Takes nodes out of the heap, without those that another replaced."""
  while frontier:
    node = heapq.heappop(frontier)[-1]
    if newest[cells[node]] == node:
      yield node
