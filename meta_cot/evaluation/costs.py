# SPDX-License-Identifier: Apache-2.0
"""What attempts cost on average, as JSON values; None is not known."""

import numpy as np

from meta_cot.solvers import base

NAMES = (
    'tokens', 'forwarded_tokens', 'flops', 'sequential_tokens', 'seconds')


def of_attempts(
    outcomes: base.Outcomes, n: float = 1, judge: str | None = None
) -> dict[str, float | None]:
  """Computes the cost of n attempts at a problem, by NAMES.

  The question is read once for all of them. They are written at the same time,
  so that the longest of them counts in `sequential_tokens`. Seconds are a share
  of those of all attempts, judges included.

  Args:
    outcomes: attempts, as of `rows.outcomes`.
    n: 1 <= n <= N; need not be whole.
    judge: who reads all of them besides, in one pass without a chain of steps.
  """
  tokens = n * outcomes.mean_tokens
  seconds = n * outcomes.seconds / outcomes.is_correct.size
  if outcomes.costs is None or None in outcomes.costs:
    return dict.fromkeys(NAMES) | dict(
        tokens=None if np.isnan(tokens) else tokens, seconds=seconds)
  mean = lambda of: float(np.mean([of(cost) for cost in outcomes.costs.flat]))
  prompt = mean(lambda c: c['prompt_tokens'])
  forwarded = prompt + n * (mean(lambda c: c['forwarded_tokens']) - prompt)
  flops = _flops(mean, n, lambda c: c)
  if judge is not None:
    forwarded *= 2
    flops += _flops(mean, n, lambda c: c['judges'][judge])
  return dict(
      tokens=tokens, forwarded_tokens=forwarded, flops=flops,
      sequential_tokens=_chain(outcomes, n), seconds=seconds)


def _flops(mean, n: float, of) -> float:
  prompt = mean(lambda c: of(c)['prompt_flops'])
  return prompt + n * (mean(lambda c: of(c)['flops']) - prompt)


def _chain(outcomes: base.Outcomes, n: float) -> float:
  """The longest of n attempts, over disjoint groups of them."""
  k = int(n)
  chains_BxN = np.array([
      [cost['sequential_tokens'] for cost in row] for row in outcomes.costs])
  num_groups = chains_BxN.shape[1] // k
  return float(chains_BxN[:, :num_groups * k].reshape(
      -1, num_groups, k).max(axis=-1).mean())
