# SPDX-License-Identifier: Apache-2.0
"""Whose attempt counts: success when k attempts at a problem are looked at.

A chooser is (outcomes, k) -> [B] float64, per problem the chance that what it
chooses of k attempts is right, 1 <= k <= N. Where the order of attempts counts
that is the mean over as many disjoint groups of k as there are.
"""

from collections.abc import Callable, Mapping
import math
import types

import numpy as np

from meta_cot.search import tree as tree_lib
from meta_cot.search import voting
from meta_cot.solvers import base

Chooser = Callable[[base.Outcomes, int], np.ndarray]


def first(outcomes: base.Outcomes, k: int) -> np.ndarray:
  """Takes the first attempt of every group."""
  return _groups(outcomes.is_correct, k)[..., 0].mean(axis=1)


def oracle(outcomes: base.Outcomes, k: int) -> np.ndarray:
  """Takes a right attempt if there is one, see `pass_at_k`."""
  num_samples = outcomes.is_correct.shape[1]
  return np.array([
      pass_at_k(num_samples=num_samples, num_correct=int(c), k=k)
      for c in outcomes.is_correct.sum(axis=1)])


def majority(outcomes: base.Outcomes, k: int) -> np.ndarray:
  """Takes the most frequent answer, of equally frequent ones the first.

  Attempts without an answer have no vote.
  """
  return _voted(outcomes, k, voting.majority)


def value(outcomes: base.Outcomes, k: int) -> np.ndarray:
  """Takes the answer of the attempt with the highest value."""
  return _voted(outcomes, k, voting.best_of_n, _values(outcomes))


def weighted(outcomes: base.Outcomes, k: int) -> np.ndarray:
  """Takes the answer whose attempts have the largest sum of values."""
  return _voted(outcomes, k, voting.weighted, _values(outcomes))


CHOOSERS: Mapping[str, Chooser] = types.MappingProxyType({
    'first': first,
    'oracle': oracle,
    'majority': majority,
    'value': value,
    'weighted': weighted,
})
NEEDS_VALUES = ('value', 'weighted')


def pass_at_k(*, num_samples: int, num_correct: int, k: int) -> float:
  """Unbiased estimate of P(at least one of k samples is correct).

  1 - C(n - c, k) / C(n, k) for c correct out of n samples: the share of the
  k-subsets of the samples that hold a correct one (arXiv 2107.03374, eq. 1).

  Raises:
    ValueError: unless 0 <= num_correct <= num_samples and
      1 <= k <= num_samples.
  """
  if not 0 <= num_correct <= num_samples:
    raise ValueError(
        f'{num_correct=} must be at least 0 and at most {num_samples=}.')
  if not 1 <= k <= num_samples:
    raise ValueError(f'{k=} must be at least 1 and at most {num_samples=}.')
  # Integers are exact where a product of ratios would lose digits.
  wrong = math.comb(num_samples - num_correct, k)
  every = math.comb(num_samples, k)
  return (every - wrong) / every


def names(outcomes: base.Outcomes) -> tuple[str, ...]:
  """Lists the choosers that can choose among these attempts."""
  return tuple(
      name for name in CHOOSERS
      if outcomes.values is not None or name not in NEEDS_VALUES)


def answer_ids(outcomes: base.Outcomes) -> np.ndarray:
  """Numbers the answers, [B, N] int32; equal ones alike, NONE for none."""
  ids = {None: tree_lib.NONE}
  return np.array([
      [ids.setdefault(None if answer is None else (b, answer), len(ids))
       for answer in row]
      for b, row in enumerate(outcomes.answers)], np.int32)


def _values(outcomes: base.Outcomes) -> np.ndarray:
  if outcomes.values is None:
    raise ValueError(
        f'{", ".join(NEEDS_VALUES)}: the attempts have no values; choose by '
        'first, oracle or majority.')
  return outcomes.values.astype(np.float32)


def _groups(values_BxN: np.ndarray, k: int) -> np.ndarray:
  """[B, groups, k], the attempts that are left over dropped."""
  num_problems, num_attempts = values_BxN.shape
  if not 1 <= k <= num_attempts:
    raise ValueError(f'{k=} must be at least 1 and at most {num_attempts}.')
  groups = num_attempts // k
  return values_BxN[:, :groups * k].reshape(num_problems, groups, k)


def _voted(outcomes, k: int, vote, *values_BxN: np.ndarray) -> np.ndarray:
  """[B] shares of groups whose chosen attempt is right; NONE is wrong."""
  rows = lambda x_BxN: _groups(x_BxN, k).reshape(-1, k)
  chosen_BG = np.asarray(vote(*map(rows, (answer_ids(outcomes), *values_BxN))))
  picked_BG = np.take_along_axis(
      rows(outcomes.is_correct), np.maximum(chosen_BG, 0)[:, None],
      axis=1)[:, 0]
  is_right_BG = picked_BG & (chosen_BG != tree_lib.NONE)
  return is_right_BG.reshape(len(outcomes.is_correct), -1).mean(axis=1)
