# SPDX-License-Identifier: Apache-2.0
"""Sudoku of 4 x 4 up to symmetry.

The group has 3,072 elements: 128 maps of the cells (rows in a band, bands,
columns in a stack, stacks, transposition) and 24 of the digits. The 288
complete grids fall into two classes, the puzzles with one solution into 4,710.
"""

import dataclasses
import functools
import itertools

import numpy as np

from meta_cot.traces.sudoku import grids

_BASE = grids.SIZE + 1  # of keys: digits, and 0 for an empty cell
_ORDER = 3_072  # of the group


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
  """All classes of puzzles with one solution."""

  keys: np.ndarray  # [K] int64, the canonical form, ascending
  num_empty: np.ndarray  # [K] int, cells
  sizes: np.ndarray  # [K] int, puzzles


def key(grids_NxC: np.ndarray) -> np.ndarray:
  """Returns the digits of grids, N x 16, as numbers: int64 [N]."""
  return grids_NxC @ _BASE ** np.arange(len(grids.CELLS))[::-1]


def of_key(key: int) -> grids.Grid:
  """Returns the grid of a key."""
  return tuple(
      int(key) // _BASE**i % _BASE for i in reversed(grids.CELLS))


@functools.cache
def maps() -> np.ndarray:
  """Returns the maps of the cells, int [128, 16]: cell i becomes `map[i]`."""
  bands = [range(i, i + grids.BOX) for i in range(0, grids.SIZE, grids.BOX)]
  lines = [
      [*itertools.chain(*order)]
      for some in itertools.permutations(bands)
      for order in itertools.product(*map(itertools.permutations, some))]
  cells_SxS = np.arange(len(grids.CELLS)).reshape(grids.SIZE, grids.SIZE)
  return np.array([
      turned[rows][:, columns].reshape(-1)
      for turned in (cells_SxS, cells_SxS.T)
      for rows in lines for columns in lines])


def canonical(grids_NxC: np.ndarray) -> np.ndarray:
  """Returns the same key for all grids of a class, and for no others.

  It is the smallest of the keys of all 128 maps, the digits of each relabelled
  by their first appearance.

  Args:
    grids_NxC: int, 0 for an empty cell.

  Returns:
    [N] int64.
  """
  return functools.reduce(
      np.minimum, (key(_relabelled(grids_NxC[:, m])) for m in maps()))


def _relabelled(grids_NxC: np.ndarray) -> np.ndarray:
  """Calls the digit that appears first 1, the next one 2 and so on."""
  is_digit_NxDxC = grids_NxC[:, None] == np.array(grids.DIGITS)[:, None]
  first_NxD = np.where(
      is_digit_NxDxC.any(2), is_digit_NxDxC.argmax(2), len(grids.CELLS))
  rank_NxD = first_NxD.argsort(1, kind='stable').argsort(1, kind='stable')
  labels_NxD = np.pad(rank_NxD + 1, ((0, 0), (1, 0)))  # an empty cell stays so
  return np.take_along_axis(labels_NxD, grids_NxC, 1)


def members(puzzle: grids.Grid) -> np.ndarray:
  """Returns the keys of all puzzles of a class, ascending: int64."""
  digits = np.array([
      (0, *order) for order in itertools.permutations(grids.DIGITS)])
  return np.unique(key(digits[:, np.array(puzzle)[maps()]].reshape(
      -1, len(grids.CELLS))))


@functools.cache
def classes() -> Classes:
  """Finds all classes of puzzles with one solution.

  A map that takes a grid to itself, up to its digits, takes every puzzle of
  this solution to one of the same class, and there are no others.
  """
  full_NxC = np.array(grids.complete())
  _, first = np.unique(canonical(full_NxC), return_index=True)
  puzzles, sizes = [], []
  for grid_C in full_NxC[first]:
    same_MxC = maps()[
        key(_relabelled(grid_C[maps()])) == key(_relabelled(grid_C[None]))]
    masks_PxC = _unique_masks(grid_C, full_NxC)
    powers_C = 1 << np.arange(len(grids.CELLS))
    codes_MxP = np.array([masks_PxC[:, m] @ powers_C for m in same_MxC])
    is_least_P = codes_MxP.min(0) == masks_PxC @ powers_C
    num_same_P = (codes_MxP == codes_MxP.min(0)).sum(0)
    puzzles.append((grid_C * masks_PxC)[is_least_P])
    sizes.append(_ORDER // num_same_P[is_least_P])
  puzzles_KxC, sizes_K = np.concatenate(puzzles), np.concatenate(sizes)
  keys_K = canonical(puzzles_KxC)
  order_K = keys_K.argsort()
  return Classes(
      keys_K[order_K], (puzzles_KxC[order_K] == 0).sum(1), sizes_K[order_K])


def _unique_masks(grid_C: np.ndarray, full_NxC: np.ndarray) -> np.ndarray:
  """The sets of givens that only one complete grid has, bool [P, 16]."""
  codes_P = np.arange(1 << len(grid_C))
  is_unique_P = np.ones(len(codes_P), bool)
  for differs_C in full_NxC != grid_C:
    if differs_C.any():
      is_unique_P &= (codes_P & (differs_C << np.arange(len(grid_C))).sum()) > 0
  return (codes_P[is_unique_P, None] >> np.arange(len(grid_C)) & 1).astype(bool)
