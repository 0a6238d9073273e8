# SPDX-License-Identifier: Apache-2.0
"""What attempts buy: every chooser at every k, and at equal tokens.

A rate is a dict: `success` and its `ci95` over problems (normal; a problem's
attempts and runs count as one).
"""

from collections.abc import Sequence
import math

import numpy as np

from meta_cot.evaluation import statistics
from meta_cot.solvers import base
from meta_cot.solvers import choosing


def rate(values_B: np.ndarray, low: float = 0.0) -> dict:
  """Computes the mean over problems and its interval, within [low, 1]."""
  return dict(
      success=float(np.mean(values_B)),
      ci95=statistics.normal_interval(values_B, low=low))


def first_rate(is_correct_BxN: np.ndarray) -> dict:
  """Computes the success of an attempt; of one at each problem, by Wilson."""
  num_problems, num_attempts = is_correct_BxN.shape
  if num_attempts > 1:
    return rate(is_correct_BxN.mean(axis=1))
  solved = int(is_correct_BxN.sum())
  return dict(
      success=solved / num_problems,
      ci95=list(statistics.wilson(solved, num_problems)))


def at(outcomes: base.Outcomes, n: float, choosers: Sequence[str]) -> dict:
  """Computes the rate of every chooser with n attempts, and their tokens.

  Args:
    outcomes: N attempts at every problem.
    n: 1 <= n <= N; need not be whole: some problems then get one attempt more
      than others.
    choosers: names, see `choosing.by_name`.
  """
  rates = {name: rate(success(outcomes, n, name)) for name in choosers}
  return dict(n=n, tokens=n * outcomes.mean_tokens, **rates)


def success(outcomes: base.Outcomes, n: float, name: str) -> np.ndarray:
  """Computes success of every problem, [B] float64; arguments as of `at`."""
  choose = choosing.by_name(name)
  below, above = math.floor(n), math.ceil(n)
  values_B = choose(outcomes, below)
  if above > below:
    values_B = values_B + (n - below) * (choose(outcomes, above) - values_B)
  return values_B


def within(
    outcomes: base.Outcomes, budget: float, *, is_whole: bool = True) -> float:
  """Finds how many attempts fit a budget, see `at_tokens`."""
  mean = outcomes.mean_tokens
  n = budget // mean if is_whole else budget / mean
  n = min(max(n, 1.0), float(outcomes.is_correct.shape[1]))
  return int(n) if is_whole else n


def curve(outcomes: base.Outcomes, choosers: Sequence[str]) -> list[dict]:
  """Computes `at` for all `sizes`."""
  return [at(outcomes, n, choosers) for n in sizes(outcomes)]


def sizes(outcomes: base.Outcomes) -> list[int]:
  """Lists 1, 2, 4, ... up to all attempts at a problem."""
  total = outcomes.is_correct.shape[1]
  return sorted({*(2**i for i in range(total.bit_length())), total})


def at_tokens(
    outcomes: base.Outcomes, budget: float, choosers: Sequence[str], *,
    is_whole: bool = True,
) -> dict:
  """Computes `at` for what fits a budget, at least 1 attempt, at most all.

  The budget is in tokens of a problem, on average. Every problem gets as many
  attempts if `is_whole`; else the budget is met exactly.
  """
  return at(outcomes, within(outcomes, budget, is_whole=is_whole), choosers)


def catch_up(outcomes: base.Outcomes, success: float) -> dict | None:
  """Finds the fewest attempts whose oracle reaches `success`, if any do."""
  for k in range(1, outcomes.is_correct.shape[1] + 1):
    if np.mean(choosing.oracle(outcomes, k)) >= success:
      return at(outcomes, k, ('oracle',))
  return None
