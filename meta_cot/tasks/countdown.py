# SPDX-License-Identifier: Apache-2.0
"""Countdown: join given numbers into a target that changes.

All problems are solvable. Splits: 'train'; 'validation' and 'heldout_numbers',
whose number multisets occur in no other split; 'heldout_targets', whose targets
occur in no other split. Everything follows from (settings, seed). Sampling
draws the target first and then numbers until they reach it, as Stream of Search
does (arXiv 2404.03683).
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import itertools
import math
import random

from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks import number_puzzle
from meta_cot.tasks import reachable
from meta_cot.tasks import splits as splits_lib
from meta_cot.traces.arithmetic import teacher

NAME = 'countdown'
SPLITS = ('train', 'validation', 'heldout_numbers', 'heldout_targets')

_MAX_MULTISETS = 200_000  # a few minutes, with four numbers
_MAX_DRAWS = 20_000  # of numbers for one target


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which problems there are, and how they are split."""

  num_numbers: int = config_lib.setting(low=2, high=6)
  min_number: int = config_lib.setting(low=1)
  max_number: int = config_lib.setting(low=1)
  min_target: int = config_lib.setting(low=1)
  max_target: int = config_lib.setting(low=1)
  # Largest intermediate result; None = any.
  max_value: int | None = config_lib.setting(low=1)
  # True: all solvable (multiset, target) pairs; False: sampled problems.
  enumerate_all: bool = config_lib.setting()
  num_train: int = config_lib.setting(low=0)  # sampled; else all there are
  num_heldout: int = config_lib.setting(low=0)  # at most, per other split
  heldout_target_fraction: float = config_lib.setting(low=0.0, high=0.9)
  heldout_numbers_fraction: float = config_lib.setting(low=0.0, high=0.9)
  validation_fraction: float = config_lib.setting(low=0.0, high=0.9)  # of these
  operands: str = config_lib.setting(choices=teacher.OPERANDS)

  def __post_init__(self):
    for low, high in (
        ('min_number', 'max_number'), ('min_target', 'max_target')):
      if getattr(self, low) > getattr(self, high):
        raise config_lib.ConfigError(
            f'{low}: got {getattr(self, low)}; must be at most {high} '
            f'({getattr(self, high)}).')
    if self.max_value is not None and self.max_value < self.max_target:
      raise config_lib.ConfigError(
          f'max_value: got {self.max_value}; must be None or at least '
          f'max_target ({self.max_target}).')
    num_targets = self.max_target - self.min_target + 1
    if 0 < self.heldout_target_fraction * num_targets < 1:
      raise config_lib.ConfigError(
          f'heldout_target_fraction: got {self.heldout_target_fraction}; must '
          f'be 0 or at least 1/{num_targets}, one of the targets.')
    num_values = self.max_number - self.min_number + 1
    num_multisets = math.comb(
        num_values + self.num_numbers - 1, self.num_numbers)
    if self.enumerate_all and num_multisets > _MAX_MULTISETS:
      raise config_lib.ConfigError(
          f'enumerate_all: got True for {num_multisets} number multisets; '
          f'must be False above {_MAX_MULTISETS}.')


@dataclasses.dataclass(frozen=True)
class Source:
  """The problems of all splits; see `number_puzzle.Source`."""

  settings: Settings
  seed: int

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    settings = self.settings
    if settings.enumerate_all:
      return len(_enumerated(settings, self.seed)[split])
    if split == 'train':
      return settings.num_train
    fraction = (
        settings.heldout_target_fraction if split == 'heldout_targets' else
        settings.heldout_numbers_fraction)
    if split == 'validation':
      fraction *= settings.validation_fraction
    return settings.num_heldout if fraction > 0 else 0

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Returns problems by index; a sampled split may repeat a problem.

    Raises:
      ConfigError: a drawn target is out of reach of the numbers.
    """
    indices = range(start, stop)
    if self.settings.enumerate_all:
      pairs = _enumerated(self.settings, self.seed)[split]
      return (_shuffled(*pairs[i], self.seed) for i in indices)
    return (_sample(self.settings, self.seed, split, i) for i in indices)


def make(settings: Settings | None, seed: int) -> number_puzzle.NumberPuzzles:
  """Makes the task, see `tasks.base`."""
  return number_puzzle.make(
      NAME, SPLITS, settings, settings and Source(settings, seed))


@functools.lru_cache(maxsize=64)
def heldout_targets(settings: Settings, seed: int) -> frozenset[int]:
  """The targets that only the split 'heldout_targets' has.

  With seed 4 and a tenth of 10..100 they are those of Stream of Search.
  """
  targets = list(range(settings.min_target, settings.max_target + 1))
  random.Random(seed).shuffle(targets)
  num_heldout = math.floor(len(targets) * settings.heldout_target_fraction)
  return frozenset(targets[:num_heldout])


def _sample(settings: Settings, seed: int, split: str, index: int) -> Problem:
  """Problem `index` of a sampled split."""
  rng = random.Random(f'{seed}/{split}/{index}')
  heldout = heldout_targets(settings, seed)
  target = rng.choice([
      t for t in range(settings.min_target, settings.max_target + 1)
      if (t in heldout) == (split == 'heldout_targets')])
  for _ in range(_MAX_DRAWS):
    numbers = [
        rng.randint(settings.min_number, settings.max_number)
        for _ in range(settings.num_numbers)]
    is_right = _kind(settings, splits_lib.rank(sorted(numbers), seed)) == (
        'train' if split == 'heldout_targets' else split)
    if is_right and reachable.can_reach(
        numbers, target, settings.max_value, reachable.exact):
      return make_problem(numbers, target)
  raise config_lib.ConfigError(
      f'max_target: no solvable problem with target {target} in {_MAX_DRAWS} '
      f'draws; must be in reach of {settings.num_numbers} numbers from '
      f'{settings.min_number}..{settings.max_number}.')


@functools.lru_cache(maxsize=4)
def _enumerated(
    settings: Settings, seed: int
) -> dict[str, list[tuple[tuple[int, ...], int]]]:
  """(sorted numbers, target) of every problem of every split, shuffled."""
  values = range(settings.min_number, settings.max_number + 1)
  multisets = sorted(
      itertools.combinations_with_replacement(values, settings.num_numbers),
      key=lambda numbers: splits_lib.rank(list(numbers), seed))
  num_heldout = round(settings.heldout_numbers_fraction * len(multisets))
  num_validation = round(settings.validation_fraction * num_heldout)
  targets = range(settings.min_target, settings.max_target + 1)
  heldout = heldout_targets(settings, seed)
  splits = {split: [] for split in SPLITS}
  for place, numbers in enumerate(multisets):
    split = 'train'
    if place < num_heldout:
      split = 'validation' if place < num_validation else 'heldout_numbers'
    for target in reachable.values(
        numbers, settings.max_value, reachable.exact, {}).intersection(targets):
      if target not in heldout:
        splits[split].append((numbers, target))
      elif split == 'train':
        splits['heldout_targets'].append((numbers, target))
  for split, pairs in splits.items():
    pairs.sort()
    random.Random(f'{seed}/{split}').shuffle(pairs)
    if split != 'train':
      del pairs[settings.num_heldout:]
  return splits


def make_problem(numbers: Sequence[int], target: int) -> Problem:
  """Makes the problem that shows `numbers` in the given order."""
  return number_puzzle.make_problem(NAME, numbers, target)


def _kind(settings: Settings, rank: int) -> str:
  """The split of the number multiset of a rank, where problems are sampled."""
  limit = settings.heldout_numbers_fraction * splits_lib.RANGE
  if rank < settings.validation_fraction * limit:
    return 'validation'
  return 'heldout_numbers' if rank < limit else 'train'


def _shuffled(numbers: Sequence[int], target: int, seed: int) -> Problem:
  """The problem with its numbers in an order of its own."""
  order = list(numbers)
  random.Random(f'{seed}/{order}/{target}').shuffle(order)
  return make_problem(order, target)
