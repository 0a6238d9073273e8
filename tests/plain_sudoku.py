# SPDX-License-Identifier: Apache-2.0
"""Sudoku of 4 x 4 in plain Python, as a reference: lists of rows."""

import itertools
import random

BOXES = [[(2 * a + i, 2 * b + j) for i in range(2) for j in range(2)]
         for a in range(2) for b in range(2)]
UNITS = (
    [[(r, c) for c in range(4)] for r in range(4)]
    + [[(r, c) for r in range(4)] for c in range(4)] + BOXES)


def rows(digits):
  """16 digits as a list of four lists."""
  return [list(digits[4 * r:4 * r + 4]) for r in range(4)]


def has_clash(grid):
  """Whether a digit is twice in a row, a column or a box."""
  return any(
      a == b != 0 for unit in UNITS
      for a, b in itertools.combinations([grid[r][c] for r, c in unit], 2))


def fill(grid):
  """Yields all complete grids by trying everything, column by column."""
  empty = [(r, c) for c in range(4) for r in range(4) if not grid[r][c]]
  if has_clash(grid):
    return
  if not empty:
    yield [list(row) for row in grid]
    return
  r, c = empty[0]
  for digit in (4, 3, 2, 1):
    copy = [list(row) for row in grid]
    copy[r][c] = digit
    yield from fill(copy)


def is_right(givens, answer):
  """The verdict on an answer, by putting its digits into the grid."""
  grid = rows(givens)
  for line in answer.split('\n'):
    if len(line) != 6 or line[0::2] != 'rc=' or not set(line[1::2]) <= set(
        '1234'):
      return False
    r, c, digit = (int(x) for x in line[1::2])
    if grid[r - 1][c - 1]:
      return False
    grid[r - 1][c - 1] = digit
  return all(map(all, grid)) and not has_clash(grid)


def move(rng: random.Random, digits):
  """A symmetry, drawn: rows, columns, digits, and perhaps transposed."""
  def order():
    bands = [[0, 1], [2, 3]]
    rng.shuffle(bands)
    for band in bands:
      rng.shuffle(band)
    return bands[0] + bands[1]

  grid, down, across = rows(digits), order(), order()
  names = [0, *rng.sample(range(1, 5), 4)]
  grid = [[names[grid[r][c]] for c in across] for r in down]
  if rng.random() < 0.5:
    grid = [list(column) for column in zip(*grid)]
  return [digit for row in grid for digit in row]


def lose(rng: random.Random, digits, num_empty):
  """A copy with so many cells emptied."""
  digits = list(digits)
  for cell in rng.sample([i for i in range(16) if digits[i]], num_empty):
    digits[cell] = 0
  return digits
