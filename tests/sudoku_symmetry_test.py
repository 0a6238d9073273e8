# SPDX-License-Identifier: Apache-2.0
"""Symmetries of Sudoku of 4 x 4: the group, the classes, all by enumeration."""

import itertools
import random

import hypothesis
from hypothesis import strategies as st
import numpy as np

from meta_cot.tasks import sudoku_symmetry
from meta_cot.traces.sudoku import grids
from tests import plain_sudoku

# Empty cells -> classes, as another program counted them.
CLASSES = {4: 210, 8: 1040, 11: 96, 12: 13}


def test_the_group_has_3072_elements():
  maps = sudoku_symmetry.maps()
  labels = list(itertools.permutations(range(1, 5)))
  assert maps.shape == (128, 16)
  found = set(map(tuple, maps.tolist()))
  assert len(found) == 128 and 128 * len(labels) == 3072
  # A group: closed, with all inverses.
  for a, b in itertools.product(maps[::7], maps[::5]):
    assert tuple(a[b]) in found and tuple(np.argsort(a)) in found
  # Its elements are all maps of cells that keep rows and columns (or change
  # them for each other) and boxes: 24 x 24 x 2 orders of lines, filtered.
  units = {frozenset(4 * r + c for r, c in unit)
           for unit in plain_sudoku.UNITS}
  assert all({frozenset(m[list(unit)]) for unit in units} == units
             for m in maps)
  square = np.arange(16).reshape(4, 4)
  kept = sum(
      {frozenset(x[list(unit)].tolist()) for unit in units} == units
      for rows in itertools.permutations(range(4))
      for columns in itertools.permutations(range(4))
      for x in [square[list(rows)][:, columns].reshape(-1)])
  assert 2 * kept == 128


def test_288_grids_are_two_classes():
  found = list(plain_sudoku.fill(plain_sudoku.rows([0] * 16)))
  assert len(found) == 288
  flat = {tuple(sum(grid, [])) for grid in found}
  assert flat == set(grids.complete()) and len(grids.complete()) == 288
  keys = sudoku_symmetry.canonical(np.array(grids.complete()))
  kinds, sizes = np.unique(keys, return_counts=True)
  assert sorted(sizes) == [96, 192]
  # All that moves reach from a grid has its form, and there is no more.
  for kind in kinds:
    start = sudoku_symmetry.of_key(kind)
    rng = random.Random(int(kind))
    reached = {tuple(plain_sudoku.move(rng, start)) for _ in range(3000)}
    assert reached == {
        grid for grid, key in zip(grids.complete(), keys) if key == kind}


@hypothesis.given(
    st.integers(0, 287), st.integers(0, 12), st.integers(0, 10**9))
@hypothesis.settings(deadline=None)
def test_the_canonical_form_is_that_of_the_class(index, num_empty, seed):
  rng = random.Random(seed)
  puzzle = plain_sudoku.lose(rng, grids.complete()[index], num_empty)
  moved = [plain_sudoku.move(rng, puzzle) for _ in range(5)]
  (key, *others) = sudoku_symmetry.canonical(np.array([puzzle, *moved]))
  assert set(others) == {key}
  form = sudoku_symmetry.of_key(key)
  assert sudoku_symmetry.canonical(np.array([form])) == [key]
  keys = sudoku_symmetry.members(form)
  assert {*sudoku_symmetry.key(np.array([puzzle, *moved])), key} <= {*keys}
  assert len(keys) == len({*keys}) and 3072 % len(keys) == 0


def test_other_classes_have_other_forms():
  """Two puzzles are of one class only where one is a member of the other's."""
  rng = random.Random(0)
  puzzles = [plain_sudoku.lose(rng, rng.choice(grids.complete()), 10)
             for _ in range(40)]
  puzzles += [plain_sudoku.move(rng, puzzle) for puzzle in puzzles[:10]]
  keys = sudoku_symmetry.canonical(np.array(puzzles))
  codes = sudoku_symmetry.key(np.array(puzzles))
  members = [{*sudoku_symmetry.members(tuple(puzzle))} for puzzle in puzzles]
  num_same = 0
  for i, j in itertools.combinations(range(len(puzzles)), 2):
    assert (keys[i] == keys[j]) == (codes[i] in members[j])
    num_same += keys[i] == keys[j]
  assert 10 <= num_same < 40


def test_all_classes_of_puzzles():
  classes = sudoku_symmetry.classes()
  assert len(classes.keys) == 4710 == len({*classes.keys})
  assert (np.diff(classes.keys) > 0).all()
  counts = np.bincount(classes.num_empty)
  assert {n: counts[n] for n in CLASSES} == CLASSES and len(counts) == 13
  for i in range(0, len(classes.keys), 47):
    form = sudoku_symmetry.of_key(classes.keys[i])
    assert form.count(0) == classes.num_empty[i]
    assert sudoku_symmetry.canonical(np.array([form])) == [classes.keys[i]]
    assert len(sudoku_symmetry.members(form)) == classes.sizes[i]
    assert len(list(itertools.islice(
        plain_sudoku.fill(plain_sudoku.rows(form)), 2))) == 1


def test_no_puzzle_is_missing():
  """Puzzles that are drawn have a class, others none; counts agree."""
  classes, rng = sudoku_symmetry.classes(), random.Random(1)
  num_unique = 0
  for _ in range(200):
    puzzle = plain_sudoku.lose(
        rng, rng.choice(grids.complete()), rng.randint(6, 11))
    is_unique = grids.num_solutions(puzzle) == 1
    (key,) = sudoku_symmetry.canonical(np.array([puzzle]))
    assert is_unique == (key in classes.keys)
    num_unique += is_unique
  assert 50 < num_unique < 150
  keys = sudoku_symmetry.canonical(np.array(grids.complete())).tolist()
  total = 0
  for kind in set(keys):
    grid = grids.complete()[keys.index(kind)]
    total += keys.count(kind) * sum(
        grids.num_solutions([d * (code >> i & 1) for i, d in enumerate(grid)])
        == 1 for code in range(1 << 16))
  assert total == classes.sizes.sum()


def test_the_cell_with_the_fewest_digits_has_one():
  for key in sudoku_symmetry.classes().keys:
    grid = sudoku_symmetry.of_key(key)
    while 0 in grid:
      steps = [(cell, *grids.digits(grid, cell))
               for cell in grids.CELLS if not grid[cell]]
      step = min(steps, key=len)
      assert len(step) == 2
      grid = grids.after(grid, step)
