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
from meta_cot.solvers import scoring

Chooser = Callable[[base.Outcomes, int], np.ndarray]
_TINY = 1e-30  # a value of 0, where its logarithm is taken


def first(outcomes: base.Outcomes, k: int) -> np.ndarray:
  """Takes the first attempt of every group."""
  return _first(outcomes, k).mean(axis=1)


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
  return _majority(outcomes, k).mean(axis=1)


def value(outcomes: base.Outcomes, k: int) -> np.ndarray:
  """Takes the answer of the attempt with the highest value."""
  return _best(outcomes, k).mean(axis=1)


def weighted(outcomes: base.Outcomes, k: int) -> np.ndarray:
  """Takes the answer whose attempts have the largest sum of values."""
  return _weighted(outcomes, k).mean(axis=1)


CHOOSERS: Mapping[str, Chooser] = types.MappingProxyType({
    'first': first,
    'oracle': oracle,
    'majority': majority,
    'value': value,
    'weighted': weighted,
})
NEEDS_VALUES = ('value', 'weighted')


def by_name(name: str) -> Chooser:
  """Finds a chooser: one of CHOOSERS, or of the values of a judge.

  'value by JUDGE', 'weighted by JUDGE', and 'value x p^0.5 by JUDGE', which
  takes the highest value times a power of the probability of the whole text.
  """
  if name in CHOOSERS:
    return CHOOSERS[name]
  return lambda outcomes, k: _picked(name, outcomes, k).mean(axis=1)


def tempered(judge: str, power: float) -> str:
  """Names the chooser by value times probability to a power."""
  return f'value x p^{power:g} by {judge}' if power else f'value by {judge}'


def discounted(
    name: str, outcomes: base.Outcomes, k: int, gamma: float
) -> np.ndarray:
  """Computes the reward gamma^tokens * success of a chooser, [B] float64.

  All tokens of the k attempts count (arXiv 2501.04682, Eq. 21). The oracle is
  unbiased, as `pass_at_k`: over all k-subsets of the attempts.
  """
  if name == 'oracle':
    every = np.ones_like(outcomes.is_correct)
    worth_BxN = gamma ** outcomes.num_tokens
    return _subsets(worth_BxN, every, k) - _subsets(
        worth_BxN, ~outcomes.is_correct, k)
  tokens_BG = _groups(outcomes.num_tokens, k).sum(axis=-1)
  return (gamma ** tokens_BG * _picked(name, outcomes, k)).mean(axis=1)


def _subsets(worth_BxN, is_in_BxN, k: int) -> np.ndarray:
  """[B]: mean over k-subsets of N of the product of worths; 0 with one not in.

  E(j) of the first n is the mean over their j-subsets: a mix of E(j) and E(j-1)
  of the first n - 1.
  """
  mean_Bx1 = np.ones((len(worth_BxN), 1))
  for n, mine_B in enumerate(np.where(is_in_BxN, worth_BxN, 0.0).T, 1):
    share_J = np.arange(n + 1) / n  # of the j-subsets that hold the newest
    zero_Bx1 = np.zeros_like(mean_Bx1[:, :1])
    mean_Bx1 = (1 - share_J) * np.hstack([mean_Bx1, zero_Bx1]) + (
        share_J * mine_B[:, None] * np.hstack([zero_Bx1, mean_Bx1]))
  return mean_Bx1[:, k]


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
      if outcomes.values is not None or name not in NEEDS_VALUES) + tuple(
          f'{rule} by {judge}' for judge in judges(outcomes)
          for rule in NEEDS_VALUES)


def judges(outcomes: base.Outcomes) -> tuple[str, ...]:
  """Lists who judged the attempts, beside their likelihood."""
  if 'values' not in outcomes.details:
    return ()
  return tuple(
      name for name in outcomes.details['values'][0, 0]
      if name != scoring.LIKELIHOOD)


def answer_ids(outcomes: base.Outcomes) -> np.ndarray:
  """Numbers the answers, [B, N] int32; equal ones alike, NONE for none."""
  ids = {None: tree_lib.NONE}
  return np.array([
      [ids.setdefault(None if answer is None else (b, answer), len(ids))
       for answer in row]
      for b, row in enumerate(outcomes.answers)], np.int32)


def _values(outcomes: base.Outcomes, judge: str | None = None) -> np.ndarray:
  """[B, N] float64; 0 of attempts that a judge said nothing of."""
  if judge is not None:
    return np.array([
        [values[judge] or 0.0 for values in row]
        for row in outcomes.details['values']])
  if outcomes.values is None:
    raise ValueError(
        f'{", ".join(NEEDS_VALUES)}: the attempts have no values; choose by '
        'first, oracle or majority.')
  return outcomes.values


def _groups(values_BxN: np.ndarray, k: int) -> np.ndarray:
  """[B, groups, k], the attempts that are left over dropped."""
  num_problems, num_attempts = values_BxN.shape
  if not 1 <= k <= num_attempts:
    raise ValueError(f'{k=} must be at least 1 and at most {num_attempts}.')
  groups = num_attempts // k
  return values_BxN[:, :groups * k].reshape(num_problems, groups, k)


# Whether what is chosen of every group is right, [B, groups] bool.


def _picked(name: str, outcomes: base.Outcomes, k: int) -> np.ndarray:
  """By the name of a chooser other than the oracle."""
  rule, _, judge = name.partition(' by ')
  rule, _, power = rule.partition(' x p^')
  more = ((judge,) if judge else ()) + ((float(power),) if power else ())
  return _RULES[rule](outcomes, k, *more)


def _first(outcomes, k: int) -> np.ndarray:
  return _groups(outcomes.is_correct, k)[..., 0]


def _majority(outcomes, k: int) -> np.ndarray:
  return _voted(outcomes, k, voting.majority)


def _best(outcomes, k: int, judge=None, power: float = 0.0) -> np.ndarray:
  values_BxN = _values(outcomes, judge)
  if power:  # the logarithm has the same order, and room for long texts
    log_probs_BxN = outcomes.details['log_prob'].astype(np.float64)
    values_BxN = np.log(np.maximum(values_BxN, _TINY)) + power * log_probs_BxN
  return _voted(outcomes, k, voting.best_of_n, values_BxN.astype(np.float32))


def _weighted(outcomes, k: int, judge=None) -> np.ndarray:
  return _voted(
      outcomes, k, voting.weighted,
      _values(outcomes, judge).astype(np.float32))


def _voted(outcomes, k: int, vote, *values_BxN: np.ndarray) -> np.ndarray:
  """What a vote takes; NONE is wrong."""
  rows = lambda x_BxN: _groups(x_BxN, k).reshape(-1, k)
  chosen_BG = np.asarray(vote(*map(rows, (answer_ids(outcomes), *values_BxN))))
  picked_BG = np.take_along_axis(
      rows(outcomes.is_correct), np.maximum(chosen_BG, 0)[:, None],
      axis=1)[:, 0]
  is_right_BG = picked_BG & (chosen_BG != tree_lib.NONE)
  return is_right_BG.reshape(len(outcomes.is_correct), -1)


_RULES = dict(
    first=_first, majority=_majority, value=_best, weighted=_weighted)
