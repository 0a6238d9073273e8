# SPDX-License-Identifier: Apache-2.0
"""Game of 24: join four numbers of 1..13, such as playing cards, into 24.

A puzzle is a multiset of four numbers of 1..13 that some expression over the
rationals makes 24: 1,362 of 1,820. Test are the ranks 901 to 1000 of a rank
file where there is one, else some by the seed; validation are some of the
others, by the seed; the rest is for training.
"""

from collections.abc import Iterator
import dataclasses
import functools
import itertools
import random

from meta_cot.problem import Problem
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.tasks import number_puzzle
from meta_cot.tasks import reachable
from meta_cot.tasks import splits as splits_lib
from meta_cot.traces.arithmetic import teacher

NAME = 'game24'
SPLITS = ('train', 'validation', 'test')
TARGET = 24
NUM_NUMBERS = 4
MAX_NUMBER = 13

_COLUMNS = ('Rank', 'Puzzles')  # of a rank file; others may follow
_TEST_RANKS = range(901, 1001)

_Numbers = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the puzzles are split, and how the teacher searches."""

  # A CSV file with the puzzles by difficulty; None: test puzzles by the seed.
  rank_file: str | None = config_lib.setting()
  # Training problems. The puzzles come in turn, every time with their numbers
  # in another random order; 0: every puzzle once.
  num_train: int = config_lib.setting(low=0)
  num_validation: int = config_lib.setting(low=1, high=500)
  num_test: int = config_lib.setting(low=1, high=500)  # without a rank file
  # Largest intermediate result of the teacher; None: any.
  max_value: int | None = config_lib.setting(low=TARGET)
  operands: str = config_lib.setting(choices=teacher.OPERANDS)


@dataclasses.dataclass(frozen=True)
class Source:
  """The problems of all splits; see `number_puzzle.Source`."""

  splits: dict[str, tuple[_Numbers, ...]]  # each puzzle once
  num_train: int
  seed: int

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    is_repeated = split == 'train' and self.num_train
    return self.num_train if is_repeated else len(self.splits[split])

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Yields problems by index; only 'train' repeats puzzles."""
    puzzles = self.splits[split]
    for index in range(start, stop):
      numbers = list(puzzles[index % len(puzzles)])
      random.Random(f'{self.seed}/{split}/{index}').shuffle(numbers)
      yield number_puzzle.make_problem(NAME, numbers, TARGET)


def make(settings: Settings | None, seed: int) -> number_puzzle.NumberPuzzles:
  """Makes the task, see `tasks.base`.

  Raises:
    UserError: the rank file cannot be read, or a row of it is wrong; names
      file and line.
  """
  return number_puzzle.make(
      NAME, SPLITS, settings, settings and _make_source(settings, seed))


@functools.cache
def solvable() -> tuple[_Numbers, ...]:
  """Returns all puzzles, sorted; the numbers of each are sorted too."""
  values = range(1, MAX_NUMBER + 1)
  return tuple(
      numbers for numbers in
      itertools.combinations_with_replacement(values, NUM_NUMBERS)
      if reachable.can_reach(numbers, TARGET, None, reachable.rational))


def _make_source(settings: Settings, seed: int) -> Source:
  """Splits the puzzles."""
  puzzles = sorted(
      solvable(), key=lambda numbers: splits_lib.rank(numbers, seed))
  if settings.rank_file is None:
    test = puzzles[:settings.num_test]
  else:
    ranks = _read_ranks(settings.rank_file)
    test = [ranks[rank] for rank in _TEST_RANKS]
  is_test = frozenset(test)
  rest = [numbers for numbers in puzzles if numbers not in is_test]
  num = settings.num_validation
  return Source(
      dict(train=tuple(rest[num:]), validation=tuple(rest[:num]),
           test=tuple(test)), settings.num_train, seed)


def _read_ranks(path: str) -> dict[int, _Numbers]:
  """Reads the puzzles of a rank file by rank."""
  try:
    lines = files.path(path).read_text().splitlines()
  except (*files.errors(), UnicodeDecodeError) as e:
    raise config_lib.UserError(
        f'{path}: cannot be read ({" ".join(str(e).split())}); task.rank_file '
        'must be a CSV file of puzzles by difficulty, or None.') from e
  names = tuple(lines[0].split(',')[:len(_COLUMNS)]) if lines else ()
  if names != _COLUMNS:
    raise config_lib.UserError(
        f'{path}, line 1: the columns begin with {",".join(names)!r}; must be '
        f'{",".join(_COLUMNS)!r}.')
  ranks, seen = {}, set()
  for number, line in enumerate(lines[1:], start=2):
    where = f'{path}, line {number}'
    rank, numbers = _read_row(where, line)
    if rank in ranks or numbers in seen:
      raise config_lib.UserError(
          f'{where}: rank {rank} or its puzzle stood in the file before; must '
          'be there once.')
    ranks[rank] = numbers
    seen.add(numbers)
  missing = [rank for rank in _TEST_RANKS if rank not in ranks]
  if missing:
    raise config_lib.UserError(
        f'{path}: no rank {missing[0]}; must have the ranks '
        f'{_TEST_RANKS[0]} to {_TEST_RANKS[-1]}, which are the test split.')
  return ranks


def _read_row(where: str, line: str) -> tuple[int, _Numbers]:
  """Reads the rank and the sorted numbers of a row."""
  cells = line.split(',')
  rank, puzzle = cells[0].strip(), cells[1].split() if len(cells) > 1 else []
  if not (rank.isascii() and rank.isdigit() and len(puzzle) == NUM_NUMBERS
          and all(n.isascii() and n.isdigit() for n in puzzle)):
    raise config_lib.UserError(
        f'{where}: got {line[:60]!r}; must begin with a rank and '
        f'{NUM_NUMBERS} numbers, such as 1,1 1 4 6.')
  numbers = tuple(sorted(map(int, puzzle)))
  if numbers not in solvable():
    raise config_lib.UserError(
        f'{where}: got the puzzle {cells[1]!r}; must be {NUM_NUMBERS} numbers '
        f'of 1..{MAX_NUMBER} that can make {TARGET}.')
  return int(rank), numbers
