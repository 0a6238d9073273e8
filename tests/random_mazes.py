# SPDX-License-Identifier: Apache-2.0
"""Random mazes, some of them without a way, and shortest ways in them."""

import collections

from meta_cot.problem import Problem

MOVES = ((0, 1), (0, -1), (-1, 0), (1, 0))  # up, down, left, right


def draw(rng, size, share=None):
  """A problem with walls in about a share of its cells."""
  share = rng.uniform(0, 0.5) if share is None else share
  cells = [(x, y) for x in range(size) for y in range(size)]
  start, goal = rng.sample(cells, 2)
  walls = [list(cell) for cell in cells
           if cell not in (start, goal) and rng.random() < share]
  rng.shuffle(walls)
  return Problem(id='maze', question='', answer='', data=dict(
      size=size, start=list(start), goal=list(goal), walls=walls))


def free(problem):
  """Cells that are no walls, as pairs (x, y)."""
  size, walls = problem.data['size'], set(map(tuple, problem.data['walls']))
  return {(x, y) for x in range(size) for y in range(size)} - walls


def shortest(problem):
  """Cells of a shortest way, by breadth-first search; None without a way."""
  left = free(problem)
  start, goal = tuple(problem.data['start']), tuple(problem.data['goal'])
  before, queue = {start: None}, collections.deque([start])
  while queue:
    x, y = cell = queue.popleft()
    if cell == goal:
      way = []
      while cell is not None:
        way.append(cell)
        cell = before[cell]
      return way[::-1]
    for dx, dy in MOVES:
      neighbour = (x + dx, y + dy)
      if neighbour in left and neighbour not in before:
        before[neighbour] = cell
        queue.append(neighbour)
  return None
