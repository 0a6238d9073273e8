# SPDX-License-Identifier: Apache-2.0
"""Mazes as texts: 'start 1 3 goal 4 5 wall 0 0 wall 2 1', cells as '1 3'."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import re
from typing import Any

from meta_cot.settings import config as config_lib

Cell = tuple[int, int]  # x, y

NUMBER = '(?:0|[1-9][0-9]{0,3})'  # as it is written, and in no other way
QUESTION = (
    f'(?:size ({NUMBER}) )?start ({NUMBER}) ({NUMBER}) goal ({NUMBER}) '
    f'({NUMBER})((?: wall {NUMBER} {NUMBER})*)')
BEFORE = 'start'  # the state in which every solution begins
ILLEGAL, MISSED = 'illegal_state', 'wrong_answer'  # kinds of `faults`

_QUESTION = re.compile(QUESTION)
_CELL = re.compile(f'({NUMBER}) ({NUMBER})')
_WALL = re.compile(f' wall ({NUMBER}) ({NUMBER})')
_MOVES = ((0, 1), (0, -1), (-1, 0), (1, 0))  # up, down, left, right


@dataclasses.dataclass(frozen=True)
class Maze:
  """A square grid with walls; a step goes to one of four neighbours."""

  start: Cell
  goal: Cell
  walls: tuple[Cell, ...]  # in the order in which they are listed
  size: int | None = None  # cells are 0..size-1; None: not known

  @functools.cached_property
  def is_wall(self) -> frozenset[Cell]:
    """The walls, to look cells up."""
    return frozenset(self.walls)

  def is_free(self, cell: Cell) -> bool:
    """Tells whether a cell is inside, as far as that is known, and no wall."""
    is_inside = self.size is None or max(cell) < self.size
    return min(cell) >= 0 and is_inside and cell not in self.is_wall

  def is_step(self, before: Cell | None, cell: Cell) -> bool:
    """Tells whether `cell` may follow `before`, None of the first one."""
    if before is None:
      return cell == self.start
    return distance(before, cell) == 1 and self.is_free(cell)

  def neighbours(self, cell: Cell) -> list[Cell]:
    """Lists the free cells beside one: up (y + 1), down, left, right."""
    x, y = cell
    return [
        (x + dx, y + dy) for dx, dy in _MOVES if self.is_free((x + dx, y + dy))]

  def steps(self, goal: Cell) -> int | None:
    """Counts the steps of a shortest way to a cell; None: there is no way."""
    steps, fresh, seen = 0, [self.start], {self.start}
    while fresh and goal not in seen:
      fresh = dict.fromkeys(
          n for cell in fresh for n in self.neighbours(cell) if n not in seen)
      seen.update(fresh)
      steps += 1
    return steps if goal in seen else None

  def faults(self, cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    """Goes through a plan of at least one cell; yields (index, kind)."""
    for i, cell in enumerate(cells):
      if not self.is_step(cells[i - 1] if i else None, cell):
        yield i, ILLEGAL
    if cells[-1] != self.goal:
      yield len(cells) - 1, MISSED


def of_data(data: Mapping[str, Any]) -> Maze:
  """Reads `Problem.data`: size, start [x, y], goal [x, y], walls [[x, y]].

  Raises:
    UserError: it is no maze, or its goal cannot be reached; one line.
  """
  try:
    size, cells = data['size'], [
        tuple(cell) for cell in (data['start'], data['goal'], *data['walls'])]
    is_right = len(set(cells)) == len(cells) and all(
        len(cell) == 2 and all(
            isinstance(n, int) and 0 <= n < size for n in cell)
        for cell in cells)
  except (KeyError, TypeError) as e:
    raise config_lib.UserError(
        f'maze: the data {str(data)[:80]} must have size, start, goal and '
        f'walls, cells x y: {e!r}.') from e
  if not is_right:
    raise config_lib.UserError(
        f'maze: start, goal and walls {cells} must be different cells x y, '
        f'each number in 0..{size - 1}.')
  start, goal, *walls = cells
  maze = Maze(start, goal, tuple(walls), size)
  if maze.steps(goal) is None:
    raise config_lib.UserError(
        f'maze: the goal {text(goal)} cannot be reached from the start '
        f'{text(start)}; it must be in every problem.')
  return maze


def distance(a: Cell, b: Cell) -> int:
  """Returns the number of steps between two cells without walls."""
  return abs(a[0] - b[0]) + abs(a[1] - b[1])


def text(cell: Cell) -> str:
  """Writes a cell."""
  return f'{cell[0]} {cell[1]}'


def cell(text: str) -> Cell | None:
  """Reads a cell; None if `text` is something else."""
  match = _CELL.fullmatch(text)
  return match and (int(match[1]), int(match[2]))


def plan(answer: str) -> list[Cell] | None:
  """Reads a solution, one cell per line; None if it is something else."""
  cells = [cell(line) for line in answer.split('\n')]
  return None if None in cells else cells


def question(maze: Maze) -> str:
  """Writes a maze; its size stands there where it is known."""
  head = '' if maze.size is None else f'size {maze.size} '
  walls = ''.join(f' wall {text(wall)}' for wall in maze.walls)
  return f'{head}start {text(maze.start)} goal {text(maze.goal)}{walls}'


def of_question(text: str) -> Maze:
  """Reads what `question` writes.

  Raises:
    ValueError: `text` is no maze.
  """
  match = _QUESTION.fullmatch(text)
  if match is None:
    raise ValueError(
        f'question {text[:60]!r} is not of the form start 1 3 goal 4 5 wall 0 '
        '0; this style only writes mazes.')
  size, *numbers = match.groups()[:5]
  x, y, goal_x, goal_y = map(int, numbers)
  walls = tuple((int(a), int(b)) for a, b in _WALL.findall(match[6]))
  return Maze((x, y), (goal_x, goal_y), walls, size and int(size))
