# SPDX-License-Identifier: Apache-2.0
"""Best-of-N by the exact verifier against the tokens it costs."""

import dataclasses
import math

from meta_cot.evaluation import statistics


@dataclasses.dataclass(frozen=True)
class Point:
  """pass@k over all problems, and the mean tokens that k samples cost."""

  k: int
  tokens: float
  success: float
  low: float
  high: float


def curve(
    num_correct: list[int], num_samples: int, mean_tokens: float
) -> list[Point]:
  """Unbiased pass@k for k = 1, 2, 4, ... up to the samples drawn.

  Args:
    num_correct: right samples of every problem.
    num_samples: samples drawn per problem.
    mean_tokens: generated tokens of one sample, on average.

  Returns:
    Points with 95% normal intervals over problems.
  """
  ks = sorted({
      min(2**i, num_samples)
      for i in range(math.ceil(math.log2(max(num_samples, 2))) + 1)})
  return [_point(num_correct, num_samples, mean_tokens, k) for k in ks]


def at_tokens(
    num_correct: list[int], num_samples: int, mean_tokens: float, budget: float
) -> Point:
  """The point of the largest k whose tokens fit the budget (at least 1)."""
  k = max(1, min(num_samples, int(budget // mean_tokens)))
  return _point(num_correct, num_samples, mean_tokens, k)


def catch_up(
    num_correct: list[int], num_samples: int, mean_tokens: float,
    success: float,
) -> Point | None:
  """The smallest k whose pass@k reaches `success`; None within the samples."""
  for k in range(1, num_samples + 1):
    point = _point(num_correct, num_samples, mean_tokens, k)
    if point.success >= success:
      return point
  return None


def _point(num_correct, num_samples, mean_tokens, k) -> Point:
  values = [
      statistics.pass_at_k(num_samples=num_samples, num_correct=c, k=k)
      for c in num_correct]
  mean = sum(values) / len(values)
  variance = sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
  half = 1.96 * math.sqrt(variance / len(values))
  return Point(
      k, k * mean_tokens, mean, max(mean - half, 0.0), min(mean + half, 1.0))
