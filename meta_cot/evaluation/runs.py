# SPDX-License-Identifier: Apache-2.0
"""Runs that differ in their seed: means over them, and how sure they are.

Axes: R runs, B problems.
"""

from collections.abc import Sequence

import numpy as np

from meta_cot.evaluation import budgets
from meta_cot.evaluation import statistics

# 97.5% quantiles of Student's t by degrees of freedom, from 1 on; the last one
# is a little wide for more.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def interval(
    values_R: Sequence[float], low: float = -np.inf, high: float = np.inf
) -> list[float] | None:
  """Computes the 95% interval of a mean over runs, cut; None for one run."""
  if len(values_R) < 2:
    return None
  return statistics.normal_interval(
      values_R, low=low, high=high,
      quantile=_STUDENT[min(len(values_R) - 1, len(_STUDENT)) - 1])


def rate(values_RxB: np.ndarray, low: float = 0.0) -> dict:
  """Computes a rate as in `budgets`, with `by_seed` and `seeds_ci95`."""
  by_seed_R = values_RxB.mean(axis=1)
  return budgets.rate(values_RxB.mean(axis=0), low) | dict(
      by_seed=by_seed_R.tolist(), seeds_ci95=interval(by_seed_R, low, 1.0))
