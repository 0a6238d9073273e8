# SPDX-License-Identifier: Apache-2.0
"""Mazes per second of A* in a compiled program, against A* in plain Python.

  source launch/environment.sh
  python -m benchmarks.mazes --size=10 --mazes=256

As in Searchformer, walls are 30 to 50% of the cells and a shortest way has at
least `--size` cells. Prints JSON lines: one a contestant, then the ratio (above
1: the compiled one is faster). docs/benchmarks.md says what was measured.
"""

import argparse
from collections.abc import Mapping
import heapq
import json
import random
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from meta_cot.problem import Problem
from meta_cot.tasks import maze_arrays
from meta_cot.tasks import maze_steps

Cell = tuple[int, int]
_MOVES = ((0, 1), (0, -1), (-1, 0), (1, 0))  # up, down, left, right


def a_star(
    maze: Mapping[str, Any]
) -> tuple[list[Cell], list[Cell], int | None]:
  """Searches as Searchformer does, with a heap and dicts.

  Args:
    maze: `Problem.data` of a maze.

  Returns:
    The cells as they are created, those as they are closed, and the number of
    steps to the goal; None where no way leads there.
  """
  size, goal = maze['size'], tuple(maze['goal'])
  walls = set(map(tuple, maze['walls']))
  created, closed, costs, frontier = [], [], {}, []

  def create(cell, cost):
    x, y = cell
    created.append(cell)
    costs[cell] = cost
    f = cost + abs(x - goal[0]) + abs(y - goal[1])
    heapq.heappush(frontier, (f, y, x, cost))

  create(tuple(maze['start']), 0)
  while frontier:
    _, y, x, cost = heapq.heappop(frontier)
    if cost > costs[x, y]:
      continue  # created anew since
    closed.append((x, y))
    if (x, y) == goal:
      return created, closed, cost
    for dx, dy in _MOVES:
      cell = (x + dx, y + dy)
      is_free = 0 <= min(cell) and max(cell) < size and cell not in walls
      if is_free and cost + 1 < costs.get(cell, float('inf')):
        create(cell, cost + 1)
  return created, closed, None


def draw(rng: random.Random, size: int) -> dict[str, Any]:
  """Draws a maze as the contest has it."""
  cells = [(x, y) for x in range(size) for y in range(size)]
  while True:
    rng.shuffle(cells)
    start, goal, *others = cells
    share = rng.uniform(0.3, 0.5)
    maze = dict(size=size, start=start, goal=goal,
                walls=others[:round(share * len(cells))])
    steps = a_star(maze)[-1]
    if steps is not None and steps + 1 >= size:
      return maze


def main(argv: list[str] | None = None) -> None:
  """Runs the contest and prints its lines."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--size', type=int, default=10)
  parser.add_argument('--mazes', type=int, default=256)
  parser.add_argument('--repeats', type=int, default=9)
  arguments = parser.parse_args(argv)
  timing.check_allocator()
  rng = random.Random(0)
  mazes = [draw(rng, arguments.size) for _ in range(arguments.mazes)]
  inputs = jax.tree.map(lambda *x: np.stack(x), *(
      maze_arrays.InGraph(arguments.size).inputs(Problem('', '', '', maze))
      for maze in mazes))
  contestants = [
      timing.of_function('compiled', lambda: jax.block_until_ready(
          maze_steps.a_star(inputs))),
      timing.of_function('plain', lambda: [*map(a_star, mazes)])]
  costs = timing.measure(contestants, arguments.repeats)
  facts = dict(
      workload='mazes', size=arguments.size, mazes=arguments.mazes,
      **timing.machine())
  for line in timing.report(
      contestants, costs, tokens=arguments.mazes, facts=facts):
    if 'tokens_per_second' in line:
      line['mazes_per_second'] = line.pop('tokens_per_second')
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
