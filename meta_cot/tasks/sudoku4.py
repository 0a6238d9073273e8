# SPDX-License-Identifier: Apache-2.0
"""Sudoku of 4 x 4 whose puzzles have one solution, a cell filled at a time.

Classes of puzzles under all symmetries (see `sudoku_symmetry`) are dealt to
'train', 'validation' and 'test' by a hash of their canonical form. The problems
of a split take its classes in turn; those of 'validation' and 'test' are of
different classes, those of 'train' are all different.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from meta_cot.problem import Problem, Verdict
from meta_cot.settings import config as config_lib
from meta_cot.tasks import splits as splits_lib
from meta_cot.tasks import sudoku_symmetry
from meta_cot.traces.sudoku import cells
from meta_cot.traces.sudoku import grids
from meta_cot.traces.sudoku import teacher as teacher_lib

_SHARES = {'validation': 0.1, 'test': 0.3}  # of all classes; the rest is train
MAX_EMPTY = 12  # with less than four givens there are several solutions


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which problems there are."""

  # Empty cells of a puzzle.
  min_empty: int = config_lib.setting(low=1, high=MAX_EMPTY)
  max_empty: int = config_lib.setting(low=1, high=MAX_EMPTY)
  # At most so many problems.
  num_train: int = config_lib.setting(low=0)
  num_validation: int = config_lib.setting(low=0)
  num_test: int = config_lib.setting(low=0)

  def __post_init__(self):
    if self.min_empty > self.max_empty:
      raise config_lib.ConfigError(
          f'min_empty: got {self.min_empty}; must be at most max_empty '
          f'({self.max_empty}).')


class States:
  """A state is the grid, '1...|..2.|...4|.3..', a step fills a cell."""

  def first(self, problem: Problem) -> str:
    """Returns the givens."""
    return grids.state(problem.data['givens'])

  def after(self, problem: Problem, state: str, step: str) -> str | None:
    """Returns the grid after a step such as 'r1c2=3'.

    None where the cell is not empty, or the digit is already in its row, its
    column or its box.
    """
    del problem
    grid, filled = grids.of_state(state), grids.step(step)
    if grid is None or filled is None or not grids.is_legal(grid, filled):
      return None
    return grids.state(grids.after(grid, filled))

  def max_steps(self, problem: Problem) -> int:
    """Returns the number of empty cells: a solution has as many steps."""
    return problem.data['givens'].count(0)


class InGraph:
  """The verdict on a solution such as `Sr1c2=3;r1c3=4`."""

  marks: ClassVar[tuple[str, str]] = (cells.OPENING, cells.STEP_END)

  def inputs(self, problem: Problem) -> dict[str, np.ndarray]:
    """Returns int32 `givens` [16], 0 for an empty cell."""
    return dict(givens=np.array(problem.data['givens'], np.int32))

  def outcome(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns 1.0 for a right solution, else 0.0."""
    # Needs JAX, without which the rest of a task starts at once.
    from meta_cot.verifiers import sudoku_in_graph
    return sudoku_in_graph.outcome(texts)

  def is_legal(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns whether all steps fit; see `sudoku_in_graph.is_legal`."""
    from meta_cot.verifiers import sudoku_in_graph
    return sudoku_in_graph.is_legal(texts)

  def state(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns the grid; see `sudoku_in_graph.state`."""
    from meta_cot.verifiers import sudoku_in_graph
    return sudoku_in_graph.state(texts)


@dataclasses.dataclass(frozen=True)
class Sudoku:
  """A task; `Problem.data` is as `grids.of_data` reads it."""

  settings: Settings | None
  seed: int
  splits: ClassVar[tuple[str, ...]] = ('train', 'validation', 'test')
  teacher: ClassVar[teacher_lib.Teacher] = teacher_lib.Teacher()
  states: ClassVar[States] = States()
  in_graph: ClassVar[InGraph] = InGraph()
  feedback: ClassVar[None] = None

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    if self.settings is None:
      raise config_lib.UserError(
          'task sudoku4: made without settings, it can judge but has no '
          'problems; pass settings to tasks.make.')
    if split not in self.splits:
      raise ValueError(
          f'split: got {split!r}; must be one of {", ".join(self.splits)}.')
    classes = _classes(self.settings, self.seed)[split]
    there = classes.num_puzzles if split == 'train' else len(classes.keys)
    return min(getattr(self.settings, f'num_{split}'), there)

  def ask(self, question: str) -> Problem:
    """Makes the problem of givens such as 'r1c1=1,r2c3=2,r3c4=4'.

    Raises:
      ValueError, UserError: it has none, or not one solution.
    """
    return make_problem(grids.of_question(question))

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Returns problems `start` to `stop` (exclusive, at most the size)."""
    stop = min(stop, self.size(split))
    if start < 0:
      raise ValueError(f'start: got {start}; must be at least 0.')
    classes = _classes(self.settings, self.seed)[split]
    return (classes.problem(i) for i in range(start, stop))

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges a solution, one step per line, the cells in any order.

    Takes time in proportion to the answer.
    """
    kind = next((kind for _, kind in _faults(problem, answer)), None)
    return Verdict(kind is None, kind or 'right')

  def oracle(self, problem: Problem, state: str) -> bool:
    """Tells exactly whether steps lead from a state to the solution."""
    (solution,) = grids.solutions(problem.data['givens'])
    grid = grids.of_state(state)
    return grid is not None and grids.is_solution(grid, solution)

  def measure(
      self, problem: Problem, text: str, answer: str | None, verdict: Verdict
  ) -> dict[str, float | str]:
    """Returns `kept`, and `error`, the first fault of a wrong answer.

    `kept` is the share of the empty cells that are filled as in the solution
    before the first step that is none of it.
    """
    del text
    (solution,) = grids.solutions(problem.data['givens'])
    left = {(cell, solution[cell]) for cell in grids.CELLS
            if not problem.data['givens'][cell]}
    num_empty = len(left)
    for line in answer.split('\n') if answer else ():
      step = grids.step(line)
      if step not in left:
        break
      left.remove(step)
    measures = dict(kept=(num_empty - len(left)) / num_empty)
    if answer is not None and not verdict.is_correct:
      measures['error'] = next(_faults(problem, answer))[1]
    return measures

  def vary(self, problem: Problem, rng: np.random.Generator) -> Problem:
    """Returns the same puzzle with its givens in a random order."""
    givens = rng.permutation(problem.question.split(',')).tolist()
    return dataclasses.replace(problem, question=','.join(givens))


def make(settings: Settings | None, seed: int) -> Sudoku:
  """Makes the task, see `tasks.base`."""
  return Sudoku(settings, seed)


def make_problem(givens: Sequence[int]) -> Problem:
  """Makes a problem; its answer fills the cells row by row.

  Args:
    givens: 16 digits row by row, 0 for an empty cell.

  Raises:
    UserError: no puzzle, or it has not one solution; one line.
  """
  data = dict(givens=list(givens))
  grid = grids.of_data(data)
  (solution,) = grids.solutions(grid)
  steps = {True: [], False: []}  # of the givens, of the empty cells
  for step in enumerate(solution):
    steps[grid[step[0]] > 0].append(step)
  return Problem(
      id=f'sudoku4-{len(steps[False])}-{"".join(map(str, grid))}',
      question=grids.question(steps[True]),
      answer='\n'.join(map(grids.text, steps[False])), data=data)


def _faults(problem: Problem, answer: str) -> Iterator[tuple[int, str]]:
  """Index and kind of the faults of an answer, none of a right one."""
  grid = grids.of_data(problem.data)
  steps = grids.steps(answer) if isinstance(answer, str) else None
  return iter([(0, 'format')]) if steps is None else grids.faults(grid, steps)


@dataclasses.dataclass(frozen=True, eq=False)
class _Classes:
  """The classes of a split, in an order of its own."""

  keys: np.ndarray  # [K] int64
  sizes: np.ndarray  # [K] int, puzzles
  seed: int

  @property
  def num_puzzles(self) -> int:
    """How many puzzles there are."""
    return int(self.sizes.sum())

  @functools.cached_property
  def turns(self) -> np.ndarray:
    """In turn t every class with more than t puzzles is taken; the sums."""
    num_turns = max(self.sizes, default=0)
    return np.cumsum([(self.sizes > turn).sum() for turn in range(num_turns)])

  def problem(self, index: int) -> Problem:
    """Returns problem `index`, by that alone."""
    turn = int(np.searchsorted(self.turns, index, side='right'))
    before = self.turns[turn - 1] if turn else 0
    place = np.flatnonzero(self.sizes > turn)[index - before]
    keys = sudoku_symmetry.members(
        sudoku_symmetry.of_key(self.keys[place]))
    rng = np.random.default_rng(
        splits_lib.rank([int(self.keys[place])], self.seed))
    return make_problem(
        sudoku_symmetry.of_key(rng.permutation(keys)[turn]))


@functools.lru_cache(maxsize=4)
def _classes(settings: Settings, seed: int) -> dict[str, _Classes]:
  """Deals the classes, each in the order of its hash."""
  every, splits = sudoku_symmetry.classes(), {
      split: [] for split in Sudoku.splits}
  is_in_K = (every.num_empty >= settings.min_empty) & (
      every.num_empty <= settings.max_empty)
  ranks = {i: splits_lib.rank([int(every.keys[i])], seed)
           for i in np.flatnonzero(is_in_K).tolist()}
  for i in sorted(ranks, key=ranks.get):
    splits[_split(ranks[i])].append(i)
  return {split: _Classes(every.keys[some], every.sizes[some], seed)
          for split, some in splits.items()}


def _split(rank: int) -> str:
  """The split of a class."""
  place = rank / splits_lib.RANGE
  for split, share in _SHARES.items():
    if place < share:
      return split
    place -= share
  return 'train'
