# SPDX-License-Identifier: Apache-2.0
"""Sudoku of 4 x 4: grids, steps such as 'r1c2=3', and all complete grids.

A grid is 16 digits row by row, 0 where a cell is empty. Every digit of 1..4 may
be once in a row, in a column and in a box of 2 x 2. As a state it is written
'1...|..2.|...4|.3..', as a question by its givens: 'r1c1=1,r2c3=2,r3c4=4'.
"""

from collections.abc import Iterator, Mapping, Sequence
import functools
import re
from typing import Any

from meta_cot.settings import config as config_lib

Grid = tuple[int, ...]
Step = tuple[int, int]  # cell, digit

SIZE, BOX = 4, 2
CELLS, DIGITS = range(SIZE**2), range(1, SIZE + 1)
STEP = f'r[1-{SIZE}]c[1-{SIZE}]=[1-{SIZE}]'
ILLEGAL, MISSED = 'illegal_state', 'wrong_answer'  # kinds of `faults`

_QUESTION = re.compile(f'{STEP}(?:,{STEP})*')
_STATE = re.compile(r'\|'.join([f'[1-{SIZE}.]{{{SIZE}}}'] * SIZE))


def _units(cell: int) -> tuple[int, int, tuple[int, int]]:
  """Row, column and box."""
  row, column = divmod(cell, SIZE)
  return row, column, (row // BOX, column // BOX)


# Of every cell those that may not have its digit.
PEERS = tuple(
    tuple(other for other in CELLS if other != cell and any(
        a == b for a, b in zip(_units(cell), _units(other), strict=True)))
    for cell in CELLS)


def digits(grid: Sequence[int], cell: int) -> list[int]:
  """Lists the digits that clash with no other cell, in ascending order."""
  taken = {grid[peer] for peer in PEERS[cell]}
  return [digit for digit in DIGITS if digit not in taken]


def is_legal(grid: Sequence[int], step: Step) -> bool:
  """Tells whether a step fills an empty cell with a digit without a clash."""
  cell, digit = step
  return not grid[cell] and digit in digits(grid, cell)


def after(grid: Grid, step: Step) -> Grid:
  """Returns the grid with a cell filled, whatever it held."""
  cell, digit = step
  return (*grid[:cell], digit, *grid[cell + 1:])


def first_empty(grid: Sequence[int]) -> int | None:
  """Returns the first empty cell row by row; None: the grid is full."""
  return next((cell for cell in CELLS if not grid[cell]), None)


def faults(grid: Grid, steps: Sequence[Step]) -> Iterator[tuple[int, str]]:
  """Goes through a solution of at least one step; yields (index, kind)."""
  for i, step in enumerate(steps):
    if is_legal(grid, step):
      grid = after(grid, step)
    else:
      yield i, ILLEGAL
  if 0 in grid:
    yield len(steps) - 1, MISSED


@functools.cache
def complete() -> tuple[Grid, ...]:
  """Returns all 288 complete grids, sorted."""
  grids = [(0,) * len(CELLS)]
  for cell in CELLS:
    grids = [after(grid, (cell, digit))
             for grid in grids for digit in digits(grid, cell)]
  return tuple(grids)


def solutions(grid: Sequence[int]) -> list[Grid]:
  """Lists the complete grids with all digits of a grid, sorted."""
  mask = _completions(grid)
  return [full for i, full in enumerate(complete()) if mask >> i & 1]


def num_solutions(grid: Sequence[int]) -> int:
  """Counts `solutions`."""
  return _completions(grid).bit_count()


def is_solution(givens: Grid, grid: Grid) -> bool:
  """Tells whether a grid is complete and has the givens."""
  mask = _completions(grid)
  return 0 not in grid and mask > 0 and mask & _completions(givens) == mask


def _completions(grid: Sequence[int]) -> int:
  """Bit i: complete grid i has all digits of a grid."""
  mask, having = (1 << len(complete())) - 1, _having()
  for step in enumerate(grid):
    if step[1]:
      mask &= having[step]
  return mask


@functools.cache
def _having() -> dict[Step, int]:
  """Bit i: complete grid i has the digit in the cell."""
  return {
      (cell, digit): sum(
          1 << i for i, full in enumerate(complete()) if full[cell] == digit)
      for cell in CELLS for digit in DIGITS}


def of_data(data: Mapping[str, Any]) -> Grid:
  """Reads `Problem.data`: `givens`, 16 digits with 0 for an empty cell.

  Raises:
    UserError: they are no puzzle, or have not one solution; one line.
  """
  givens = data.get('givens')
  if not isinstance(givens, list | tuple) or len(givens) != len(CELLS) or any(
      type(digit) is not int or not 0 <= digit <= SIZE for digit in givens):
    raise config_lib.UserError(
        f'sudoku: the data {str(data)[:80]} must have givens, {len(CELLS)} '
        f'digits of 0..{SIZE} row by row.')
  grid = tuple(givens)
  if num_solutions(grid) != 1 or 0 not in grid:
    raise config_lib.UserError(
        f'sudoku: {state(grid)} has {num_solutions(grid)} solutions; a puzzle '
        'must have one, and an empty cell.')
  return grid


def text(step: Step) -> str:
  """Writes a step."""
  row, column = divmod(step[0], SIZE)
  return f'r{row + 1}c{column + 1}={step[1]}'


def step(text: str) -> Step | None:
  """Reads a step; None if `text` is something else."""
  return _STEPS.get(text)


_STEPS = {text((cell, digit)): (cell, digit)
          for cell in CELLS for digit in DIGITS}


def steps(answer: str) -> list[Step] | None:
  """Reads a solution, a step per line; None if it is something else."""
  found = [step(line) for line in answer.split('\n')]
  return None if None in found else found


def state(grid: Sequence[int]) -> str:
  """Writes a grid as a state."""
  marks = ''.join(str(digit or '.') for digit in grid)
  return '|'.join(marks[i:i + SIZE] for i in range(0, len(marks), SIZE))


def of_state(text: str) -> Grid | None:
  """Reads what `state` writes; None if `text` is something else."""
  if _STATE.fullmatch(text) is None:
    return None
  return tuple(
      0 if mark == '.' else int(mark) for mark in text.replace('|', ''))


def question(givens: Sequence[Step]) -> str:
  """Writes the givens, in their order."""
  return ','.join(map(text, givens))


def of_question(text: str) -> Grid:
  """Reads what `question` writes.

  Raises:
    ValueError: `text` does not list givens, or one cell twice.
  """
  givens = [] if _QUESTION.fullmatch(text) is None else [
      step(given) for given in text.split(',')]
  grid = (0,) * len(CELLS)
  for given in givens:
    grid = after(grid, given)
  if not givens or sum(map(bool, grid)) < len(givens):
    raise ValueError(
        f'question {text[:60]!r} is not of the form r1c1=1,r2c3=2, every cell '
        'once; this style only writes Sudoku of 4 x 4.')
  return grid
