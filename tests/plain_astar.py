# SPDX-License-Identifier: Apache-2.0
"""A* on mazes without a heap, a tree or events: it writes as it searches."""


def stream(problem):
  """The words of create, close and plan; None where no way leads there."""
  data = problem.data
  size, goal = data['size'], tuple(data['goal'])
  walls = set(map(tuple, data['walls']))
  words = []

  def tell(verb, cell, cost):
    rest = abs(goal[0] - cell[0]) + abs(goal[1] - cell[1])
    words.extend((verb, str(cell[0]), str(cell[1]), f'c{cost}', f'c{rest}'))
    return cost + rest

  start = tuple(data['start'])
  came_from = {start: None}
  waiting, closed = {start: (tell('create', start, 0), 0)}, {}
  while waiting:
    # The lowest total first; of several the lowest row, then the left most.
    cell = min(waiting, key=lambda c: (waiting[c][0], c[1], c[0]))
    total, cost = waiting.pop(cell)
    closed[cell] = total
    tell('close', cell, cost)
    if cell == goal:
      way = [cell]
      while came_from[way[0]] is not None:
        way.insert(0, came_from[way[0]])
      for x, y in way:
        words.extend(('plan', str(x), str(y)))
      return words
    x, y = cell
    for other in ((x, y + 1), (x, y - 1), (x - 1, y), (x + 1, y)):
      if other in walls or not all(0 <= n < size for n in other):
        continue
      new = cost + 1 + abs(goal[0] - other[0]) + abs(goal[1] - other[1])
      if new < min(waiting.get(other, (9999,))[0], closed.get(other, 9999)):
        waiting[other] = tell('create', other, cost + 1), cost + 1
        came_from[other] = cell
  return None


def shortest(problem):
  """Steps of a shortest way by flooding; None where there is none."""
  data = problem.data
  walls, goal = set(map(tuple, data['walls'])), tuple(data['goal'])
  edge, seen, steps = {tuple(data['start'])}, set(), 0
  while edge:
    if goal in edge:
      return steps
    seen |= edge
    edge = {
        (x + dx, y + dy) for x, y in edge
        for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1))
        if 0 <= x + dx < data['size'] and 0 <= y + dy < data['size']
        and (x + dx, y + dy) not in walls} - seen
    steps += 1
  return None
