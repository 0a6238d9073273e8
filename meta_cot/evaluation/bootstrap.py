# SPDX-License-Identifier: Apache-2.0
"""Intervals by drawing problems anew, as often as there are.

Axes: R resamples, B problems.
"""

import functools

import numpy as np

NUM_RESAMPLES = 1_000
_SEED = 0


@functools.lru_cache(maxsize=8)
def counts(num_problems: int) -> np.ndarray:
  """Draws how often every problem is in every resample, [R, B] int; fixed."""
  rng = np.random.default_rng(_SEED)
  return rng.multinomial(
      num_problems, np.full(num_problems, 1 / num_problems), NUM_RESAMPLES)


def interval(values_R: np.ndarray) -> list[float] | None:
  """Computes the 95% interval of a statistic; NaN where it has none.

  None: no resample has it.
  """
  known = values_R[~np.isnan(values_R)]
  return [float(x) for x in np.quantile(known, (0.025, 0.975))] if (
      len(known)) else None


def difference(mine_B: np.ndarray, theirs_B: np.ndarray) -> dict:
  """Compares means over the same problems: `estimate`, `low`, `high`.

  Raises:
    ValueError: other numbers of problems.
  """
  if mine_B.shape != theirs_B.shape:
    raise ValueError(
        f'{len(mine_B)} and {len(theirs_B)} problems; must be the same.')
  gaps_B = mine_B - theirs_B
  low, high = interval(counts(len(gaps_B)) @ gaps_B / len(gaps_B))
  return dict(estimate=float(gaps_B.mean()), low=low, high=high)
