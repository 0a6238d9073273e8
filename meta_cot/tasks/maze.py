# SPDX-License-Identifier: Apache-2.0
"""Mazes: a shortest way over a square grid with walls, as Searchformer has it.

All goals can be reached. Splits: 'train' and 'validation', in which the sizes
take turns, and a test split for every size ('test_6'; 'test' where there is one
size). A layout of walls is in one of these kinds only, by a hash of it; every
problem has a layout of its own draw. Searchformer (arXiv 2402.14083) keeps all
of up to 100 draws of start and goal for a layout, here the first that fits.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import random
from typing import ClassVar

import numpy as np

from meta_cot.problem import Problem, Verdict
from meta_cot.settings import config as config_lib
from meta_cot.tasks import maze_arrays
from meta_cot.tasks import splits as splits_lib
from meta_cot.traces.grid import astar
from meta_cot.traces.grid import mazes

_SHARES = {'validation': 0.05, 'test': 0.1}  # of all layouts; the rest is train
_MAX_LAYOUTS = 1_000  # drawn for a problem
_MAX_DRAWS = 100  # of start and goal, for a layout


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which problems there are."""

  sizes: tuple[int, ...] = config_lib.setting(
      low=3, high=40, min_items=1, is_unique=True)
  num_train: int = config_lib.setting(low=0)
  num_validation: int = config_lib.setting(low=0)
  num_test: int = config_lib.setting(low=0)  # of every size
  # Walls as shares of the cells; their number is uniform.
  min_walls: float = config_lib.setting(low=0.0, high=0.7)
  max_walls: float = config_lib.setting(low=0.0, high=0.7)
  # Cells of a shortest way, start and goal included, are at least so many times
  # the size.
  min_plan: float = config_lib.setting(low=0.0, high=2.0)

  def __post_init__(self):
    if self.min_walls > self.max_walls:
      raise config_lib.ConfigError(
          f'min_walls: got {self.min_walls}; must be at most max_walls '
          f'({self.max_walls}).')


class States:
  """A state is the cell that was reached, a step the next one, both '1 3'.

  The first step of a solution is to the start.
  """

  def first(self, problem: Problem) -> str:
    """Returns the state before the start."""
    del problem
    return mazes.BEFORE

  def after(self, problem: Problem, state: str, step: str) -> str | None:
    """Returns the cell; None where no single step leads there."""
    cell, before = mazes.cell(step), mazes.cell(state)
    is_legal = cell is not None and (
        before is not None or state == mazes.BEFORE)
    return step if is_legal and mazes.of_data(problem.data).is_step(
        before, cell) else None

  def max_steps(self, problem: Problem) -> int:
    """Returns the number of cells: a way need not come to one twice."""
    return problem.data['size'] ** 2


@dataclasses.dataclass(frozen=True)
class Mazes:
  """A task; `Problem.data` is as `mazes.of_data` reads it."""

  settings: Settings | None
  seed: int
  teacher: ClassVar[astar.Teacher] = astar.Teacher()
  states: ClassVar[States] = States()
  feedback: ClassVar[None] = None
  oracle: ClassVar[None] = None  # from every cell of a way the goal is reached

  @property
  def in_graph(self) -> maze_arrays.InGraph:
    """Pads to the largest size, where that is known."""
    return maze_arrays.InGraph(self.settings and max(self.settings.sizes))

  @property
  def splits(self) -> tuple[str, ...]:
    """The test splits are named after the sizes, where there are several."""
    sizes = self.settings.sizes if self.settings else ()
    tests = [f'test_{size}' for size in sizes] if len(sizes) > 1 else ['test']
    return ('train', 'validation', *tests)

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    if self.settings is None:
      raise config_lib.UserError(
          'task maze: made without settings, it can judge but has no problems; '
          'pass settings to tasks.make.')
    if split not in self.splits:
      raise ValueError(
          f'split: got {split!r}; must be one of {", ".join(self.splits)}.')
    return getattr(self.settings, f'num_{split.partition("_")[0]}')

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Returns problems by index; with small sizes one may be there twice.

    Raises:
      ConfigError: no maze is as the settings want it.
    """
    stop = min(stop, self.size(split))
    if start < 0:
      raise ValueError(f'start: got {start}; must be at least 0.')
    return (
        _draw(self.settings, self.seed, split, i) for i in range(start, stop))

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges a way from the start to the goal, one cell per line.

    It need not be shortest. Takes time in proportion to the answer.
    """
    kind = _error(problem, answer)
    return Verdict(kind is None, kind or 'right')

  def measure(
      self, problem: Problem, text: str, answer: str | None, verdict: Verdict
  ) -> dict[str, float | str | None]:
    """Returns the measures of Searchformer, section 4.

    With c = 1 for a right answer, else 0: `is_optimal`, right and shortest;
    `swc` = c * shortest / max(length, shortest), lengths in cells; `ilr` = c *
    events of A* / events of the text, None for a text without any. And `error`,
    the first fault of a wrong answer.
    """
    found = astar.search(mazes.of_data(problem.data))
    shortest, right = len(found.plan), float(verdict.is_correct)
    length = len(answer.split('\n')) if answer else shortest
    words = text.split(' ')
    num_events = words.count('create') + words.count('close')
    measures = dict(
        is_optimal=right * (length == shortest),
        swc=right * shortest / max(length, shortest),
        ilr=right * found.num_events / num_events if num_events else None)
    if answer is not None and not verdict.is_correct:
      measures['error'] = _error(problem, answer)
    return measures

  def vary(self, problem: Problem, rng: np.random.Generator) -> Problem:
    """Returns the same maze with its walls in a random order.

    Mirrored or turned, it would have other solutions. Searchformer lists walls
    row by row, which is what all other problems have.
    """
    walls = rng.permutation(problem.data['walls']).tolist()
    maze = mazes.of_question(problem.question)
    question = mazes.question(
        dataclasses.replace(maze, walls=tuple(map(tuple, walls))))
    return dataclasses.replace(
        problem, question=question, data={**problem.data, 'walls': walls})


def make(settings: Settings | None, seed: int) -> Mazes:
  """Makes the task, see `tasks.base`."""
  return Mazes(settings, seed)


def make_problem(
    size: int, start: Sequence[int], goal: Sequence[int],
    walls: Sequence[Sequence[int]], *, has_size: bool = False,
) -> Problem:
  """Makes a problem; its answer is the shortest way that A* finds.

  Args:
    size: cells are 0..size-1.
    start: x, y.
    goal: x, y.
    walls: of x, y each; listed row by row, whatever their order here.
    has_size: the question begins with the size.

  Raises:
    UserError: no maze, or its goal cannot be reached; one line.
  """
  walls = sorted((list(wall) for wall in walls), key=lambda wall: wall[::-1])
  data = dict(size=size, start=list(start), goal=list(goal), walls=walls)
  maze = mazes.of_data(data)
  mask = sum(1 << x + y * size for x, y in walls)
  return Problem(
      id='-'.join(map(str, ('maze', size, *start, *goal, f'{mask:x}'))),
      question=mazes.question(
          maze if has_size else dataclasses.replace(maze, size=None)),
      answer='\n'.join(astar.search(maze).plan), data=data)


def _error(problem: Problem, answer: str) -> str | None:
  """The kind of the first fault of an answer, None of a right one."""
  cells = mazes.plan(answer) if isinstance(answer, str) else None
  if cells is None:
    return 'format'
  faults = mazes.of_data(problem.data).faults(cells)
  return next((kind for _, kind in faults), None)


def _draw(settings: Settings, seed: int, split: str, index: int) -> Problem:
  """Problem `index` of a split."""
  sizes = settings.sizes
  kind, _, size = split.partition('_')
  size = int(size) if size else sizes[index % len(sizes)]
  rng = random.Random(f'{seed}/{split}/{index}')
  cells = [(x, y) for y in range(size) for x in range(size)]
  fewest, most = (
      round(share * len(cells))
      for share in (settings.min_walls, settings.max_walls))
  for _ in range(_MAX_LAYOUTS):
    rng.shuffle(cells)
    number = rng.randint(fewest, most)
    walls, free = sorted(cells[:number]), cells[number:]
    if _kind(walls, size, seed) != kind:
      continue
    for _ in range(_MAX_DRAWS):
      start, goal = rng.sample(free, 2)
      steps = mazes.Maze(start, goal, tuple(walls), size).steps(goal)
      if steps is not None and steps + 1 >= settings.min_plan * size:
        return make_problem(
            size, start, goal, walls, has_size=len(sizes) > 1)
  raise config_lib.ConfigError(
      f'min_plan: got {settings.min_plan}; among {_MAX_LAYOUTS} layouts of '
      f'size {size} there is none with so long a way: it must be smaller.')


def _kind(walls: Sequence[mazes.Cell], size: int, seed: int) -> str:
  """The kind of split that a layout belongs to."""
  place = splits_lib.rank([size, *walls], seed) / splits_lib.RANGE
  for kind, share in _SHARES.items():
    if place < share:
      return kind
    place -= share
  return 'train'
