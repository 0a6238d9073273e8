# SPDX-License-Identifier: Apache-2.0
"""Countdown problems: solvable ones, in disjoint splits.

Splits: 'train'; 'heldout_numbers', whose number multisets occur in no other
split; 'heldout_targets', whose targets occur in no other split. Everything
follows from (config, seed). Sampling draws the target first and then numbers
until they reach it, as Stream of Search does (arXiv 2404.03683).
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import itertools
import math
import random

from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks.countdown import task as countdown

SPLITS = ('train', 'heldout_numbers', 'heldout_targets')

_MAX_MULTISETS = 200_000  # a few minutes, with four numbers
_MAX_DRAWS = 20_000  # of numbers for one target
_HASH_RANGE = 2**64


@dataclasses.dataclass(frozen=True)
class CountdownConfig:
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
  num_heldout: int = config_lib.setting(low=0)  # at most, per held-out split
  heldout_target_fraction: float = config_lib.setting(low=0.0, high=0.9)
  heldout_numbers_fraction: float = config_lib.setting(low=0.0, high=0.9)

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


def problems(
    config: CountdownConfig, seed: int
) -> dict[str, list[Problem]]:
  """All problems of every split, in order; a split may be empty.

  Raises:
    ConfigError: a drawn target is out of reach of the numbers.
  """
  return {
      split: list(iter_problems(
          config, seed, split, 0, split_size(config, seed, split)))
      for split in SPLITS}


def split_size(config: CountdownConfig, seed: int, split: str) -> int:
  """The number of problems of `split`, one of `SPLITS`."""
  _check_split(split)
  if config.enumerate_all:
    return len(_enumerated(config, seed)[split])
  if split == 'train':
    return config.num_train
  fraction = (
      config.heldout_numbers_fraction if split == 'heldout_numbers' else
      config.heldout_target_fraction)
  return config.num_heldout if fraction > 0 else 0


def iter_problems(
    config: CountdownConfig, seed: int, split: str, start: int, stop: int
) -> Iterator[Problem]:
  """Problems `start` to `stop` (exclusive, at most the split's size).

  A sampled problem depends on (config, seed, split) and its index alone, so
  ranges can be made in parallel; a sampled split may repeat a problem.

  Raises:
    ConfigError: a drawn target is out of reach of the numbers.
    ValueError: no such split, or a negative start.
  """
  _check_split(split)
  if start < 0:
    raise ValueError(f'start: got {start}; must be at least 0.')
  indices = range(start, min(stop, split_size(config, seed, split)))
  if config.enumerate_all:
    pairs = _enumerated(config, seed)[split]
    return (_shuffled(*pairs[i], seed) for i in indices)
  return (_sample(config, seed, split, i) for i in indices)


@functools.lru_cache(maxsize=64)
def heldout_targets(config: CountdownConfig, seed: int) -> frozenset[int]:
  """The targets that only the split 'heldout_targets' has.

  With seed 4 and a tenth of 10..100 they are those of Stream of Search.
  """
  targets = list(range(config.min_target, config.max_target + 1))
  random.Random(seed).shuffle(targets)
  num_heldout = math.floor(len(targets) * config.heldout_target_fraction)
  return frozenset(targets[:num_heldout])


def is_solvable(
    numbers: Sequence[int], target: int, max_value: int | None
) -> bool:
  """Whether all `numbers`, at least one, can be joined into `target`.

  Results are non-negative integers, at most `max_value` where that is given;
  differences are larger minus smaller, quotients exact.
  """
  numbers = tuple(sorted(numbers))
  if len(numbers) == 1:
    return numbers == (target,)
  if target < 0 or (max_value is not None and target > max_value):
    return False
  memo = {}
  return any(
      _can_join(
          _reachable(left, max_value, memo), _reachable(right, max_value, memo),
          target)
      for left, right in _halves(numbers))


def _check_split(split: str) -> None:
  if split not in SPLITS:
    raise ValueError(
        f'split: got {split!r}; must be one of {", ".join(SPLITS)}.')


def _sample(
    config: CountdownConfig, seed: int, split: str, index: int
) -> Problem:
  """Problem `index` of a sampled split."""
  rng = random.Random(f'{seed}/{split}/{index}')
  heldout = heldout_targets(config, seed)
  target = rng.choice([
      t for t in range(config.min_target, config.max_target + 1)
      if (t in heldout) == (split == 'heldout_targets')])
  for _ in range(_MAX_DRAWS):
    numbers = [
        rng.randint(config.min_number, config.max_number)
        for _ in range(config.num_numbers)]
    is_heldout = (
        _rank(numbers, seed) < config.heldout_numbers_fraction * _HASH_RANGE)
    if is_heldout == (split == 'heldout_numbers') and is_solvable(
        numbers, target, config.max_value):
      return countdown.make_problem(numbers, target)
  raise config_lib.ConfigError(
      f'max_target: no solvable problem with target {target} in {_MAX_DRAWS} '
      f'draws; must be in reach of {config.num_numbers} numbers from '
      f'{config.min_number}..{config.max_number}.')


@functools.lru_cache(maxsize=4)
def _enumerated(
    config: CountdownConfig, seed: int
) -> dict[str, list[tuple[tuple[int, ...], int]]]:
  """(sorted numbers, target) of every problem of every split, shuffled."""
  values = range(config.min_number, config.max_number + 1)
  multisets = sorted(
      itertools.combinations_with_replacement(values, config.num_numbers),
      key=lambda numbers: _rank(numbers, seed))
  num_heldout = round(config.heldout_numbers_fraction * len(multisets))
  targets = range(config.min_target, config.max_target + 1)
  heldout = heldout_targets(config, seed)
  splits = {split: [] for split in SPLITS}
  for place, numbers in enumerate(multisets):
    is_heldout = place < num_heldout
    for target in _reachable(numbers, config.max_value, {}).intersection(
        targets):
      if target not in heldout:
        split = 'heldout_numbers' if is_heldout else 'train'
        splits[split].append((numbers, target))
      elif not is_heldout:
        splits['heldout_targets'].append((numbers, target))
  for split, pairs in splits.items():
    pairs.sort()
    random.Random(f'{seed}/{split}').shuffle(pairs)
    if split != 'train':
      del pairs[config.num_heldout:]
  return splits


def _shuffled(
    numbers: Sequence[int], target: int, seed: int
) -> Problem:
  """The problem with its numbers in an order of its own."""
  order = list(numbers)
  random.Random(f'{seed}/{order}/{target}').shuffle(order)
  return countdown.make_problem(order, target)


def _rank(numbers: Sequence[int], seed: int) -> int:
  """A stable hash of the multiset, uniform below `_HASH_RANGE`."""
  name = f'{seed}/{sorted(numbers)}'.encode()
  return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), 'big')


def _reachable(
    numbers: tuple[int, ...], max_value: int | None,
    memo: dict[tuple[int, ...], set[int]],
) -> set[int]:
  """All values that the sorted `numbers` can be joined into."""
  if len(numbers) == 1:
    return set(numbers)
  if numbers not in memo:
    values = set()
    for left, right in _halves(numbers):
      for a in _reachable(left, max_value, memo):
        for b in _reachable(right, max_value, memo):
          values.update((a + b, a * b, abs(a - b)))
          big, small = max(a, b), min(a, b)
          if small and big % small == 0:
            values.add(big // small)
    if max_value is not None:
      values = {v for v in values if v <= max_value}
    memo[numbers] = values
  return memo[numbers]


def _can_join(left: set[int], right: set[int], target: int) -> bool:
  """Whether one operation on a value of each side makes `target`."""
  if target == 0 and (0 in left or 0 in right):
    return True
  for a in left:
    if target - a in right or a + target in right or a - target in right:
      return True
    if a and (
        a * target in right
        or (target % a == 0 and target // a in right)
        or (target and a % target == 0 and a // target in right)):
      return True
  return False


@functools.lru_cache(maxsize=1024)
def _halves(
    numbers: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
  """All ways to part `numbers` in two, the most even ones first.

  Even ones are cheap and, with many numbers, nearly always reach the target.
  """
  first, *others = range(len(numbers))
  parted = {}
  for size in range(len(others)):
    for chosen in itertools.combinations(others, size):
      left = tuple(numbers[k] for k in (first, *chosen))
      right = tuple(numbers[k] for k in others if k not in chosen)
      parted[left, right] = abs(len(left) - len(right))
  return sorted(parted, key=parted.get)
