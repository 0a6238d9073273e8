# SPDX-License-Identifier: Apache-2.0
"""Estimates from counts of successes, with their uncertainty. Pure Python."""

from collections.abc import Sequence
import math
import statistics
from typing import NamedTuple


class Difference(NamedTuple):
  """Success rate of b minus that of a over the same problems."""

  estimate: float
  low: float
  high: float
  p_value: float  # exact McNemar, two-sided; of "both succeed equally often"


def wilson(
    successes: int, total: int, confidence: float = 0.95,
) -> tuple[float, float]:
  """Wilson score interval of a success rate.

  Args:
    successes: 0 <= successes <= total.
    total: number of independent trials; with 0 the interval is (0, 1).
    confidence: in (0, 1).

  Raises:
    ValueError: a number out of range.
  """
  if not 0 <= successes <= total:
    raise ValueError(
        f'{successes=} must be at least 0 and at most {total=}.')
  if not 0 < confidence < 1:
    raise ValueError(f'{confidence=} must be between 0 and 1, exclusive.')
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  if total == 0:
    return 0.0, 1.0
  rate = successes / total
  scale = 1 + z * z / total
  center = (rate + z * z / (2 * total)) / scale
  half = z / scale * math.sqrt(
      rate * (1 - rate) / total + z * z / (4 * total * total))
  # At the ends the limits are exact; arithmetic leaves them a rounding off.
  low = 0.0 if successes == 0 else center - half
  high = 1.0 if successes == total else center + half
  return low, high


def normal_interval(
    values: Sequence[float], *, low: float = 0.0, high: float = 1.0,
    quantile: float = 1.96,
) -> list[float]:
  """Computes the interval of a mean of values, cut to [low, high]."""
  mean, error = sum(values) / len(values), 0.0
  if len(values) > 1:
    error = statistics.stdev(map(float, values)) / math.sqrt(len(values))
  return [
      max(float(mean) - quantile * error, low),
      min(float(mean) + quantile * error, high)]


def difference_interval(
    successes_a: Sequence[bool], successes_b: Sequence[bool],
    confidence: float = 0.95,
) -> Difference:
  """Compares two solvers on the same problems, paired by position.

  The interval is Newcombe's hybrid score interval for paired proportions
  (Statistics in Medicine 17, 1998, pp. 2635-2650, method 10: a positive phi
  is corrected for continuity); the p-value is exact McNemar.

  Raises:
    ValueError: no problems, or different numbers of them.
  """
  total = len(successes_a)
  if not total or total != len(successes_b):
    raise ValueError(
        f'len(successes_a)={total} and len(successes_b)={len(successes_b)} '
        'must be equal and positive: pair the outcomes by problem.')
  pairs = [(bool(a), bool(b)) for a, b in zip(successes_a, successes_b)]
  both, only_a, only_b, neither = (
      pairs.count(p) for p in (
          (True, True), (True, False), (False, True), (False, False)))
  num_a, num_b = both + only_a, both + only_b
  rate_a, rate_b = num_a / total, num_b / total
  low_a, high_a = wilson(num_a, total, confidence)
  low_b, high_b = wilson(num_b, total, confidence)
  margins = num_a * (total - num_a) * num_b * (total - num_b)
  excess = both * neither - only_a * only_b
  if excess > 0:
    excess = max(excess - total / 2, 0.0)
  phi = excess / math.sqrt(margins) if margins else 0.0
  reach = lambda x, y: math.sqrt(max(x**2 - 2 * phi * x * y + y**2, 0.0))
  estimate = rate_b - rate_a
  return Difference(
      estimate=estimate,
      low=estimate - reach(rate_b - low_b, high_a - rate_a),
      high=estimate + reach(high_b - rate_b, rate_a - low_a),
      p_value=mcnemar(only_a, only_b))


def mcnemar(only_a: int, only_b: int) -> float:
  """Two-sided exact p-value that discordant pairs fall either way alike."""
  total = only_a + only_b
  tail = sum(math.comb(total, i) for i in range(min(only_a, only_b) + 1))
  return min(1.0, 2 * tail / 2**total)
