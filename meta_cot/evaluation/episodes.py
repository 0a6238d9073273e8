# SPDX-License-Identifier: Apache-2.0
"""Success of one episode after another, beside samples of as many tokens.

A trajectory has episodes: attempts at one question in one context (arXiv
2501.04682, section 6.3). Its fair rival is the start of its training, asked
again and again with the question alone, for as many tokens. Axes besides those
of `solvers.base`: R runs (seeds of a policy), G trajectories of a problem.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from meta_cot.evaluation import budgets
from meta_cot.evaluation import statistics
from meta_cot.solvers import base

# 97.5% quantiles of Student's t by degrees of freedom, from 1 on; the last one
# is a little wide for more.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_RIVALS = ('oracle', 'majority')

Runs = Sequence[tuple[int, base.Outcomes]]  # of one policy, with their seeds


def summarise(
    runs: Mapping[str, Runs], samples: base.Outcomes, start: str) -> dict:
  """Everything the report says, as JSON values.

  A rate is a dict as in `budgets`, with success `by_seed`, and with two seeds
  or more `seeds_ci95`, over runs (Student's t).

  Args:
    runs: of every policy; all on the same problems.
    samples: single attempts of the policy that training started from.
    start: its name.

  Raises:
    ValueError: no runs, a seed twice, or shapes that do not go together.
  """
  _check(runs, samples)
  return dict(
      num_problems=len(samples.is_correct), start=start,
      policies={
          policy: dict(
              seeds=[seed for seed, _ in group],
              num_trajectories=_num_trajectories(group[0][1]),
              episodes=_episodes(group, samples),
              minus_start=_minus(group, runs.get(start)))
          for policy, group in runs.items()},
      samples=dict(
          num_samples=samples.is_correct.shape[1],
          mean_tokens=samples.mean_tokens,
          curve=budgets.curve(samples, _RIVALS)))


def _num_trajectories(outcomes: base.Outcomes) -> int:
  return outcomes.is_correct.shape[1] // outcomes.num_episodes


def _episodes(group: Runs, samples: base.Outcomes) -> list[dict]:
  """Per episode: its success, that of any so far, and what they cost."""
  success_RxBxE = _stack(group, lambda o: o.is_correct)
  any_RxBxE = _stack(
      group, lambda o: o.is_correct,
      lambda x: np.logical_or.accumulate(x, axis=-1))
  tokens_RxBxE = _stack(
      group, lambda o: o.num_tokens, lambda x: np.cumsum(x, axis=-1))
  taken_E = _stack(group, lambda o: o.num_tokens > 0).mean(axis=(0, 1))
  finished_E = _stack(group, lambda o: o.is_finished).mean(axis=(0, 1))
  return [
      dict(
          episode=e + 1, tokens=tokens, taken=float(taken_E[e]),
          finished=float(finished_E[e] / max(taken_E[e], 1e-9)),
          this=_rate(success_RxBxE[..., e]), any=_rate(any_RxBxE[..., e]),
          equal_tokens=budgets.at_tokens(
              samples, tokens, _RIVALS, is_whole=False))
      for e, tokens in enumerate(tokens_RxBxE.mean(axis=(0, 1)).tolist())]


def _minus(group: Runs, start: Runs | None) -> dict | None:
  """Final episodes beside those of the start, by problem (and seed)."""
  if start is None or start is group:
    return None
  final = lambda runs: _stack(runs, lambda o: o.is_correct)[..., -1]
  theirs_RxB = dict(zip([seed for seed, _ in start], final(start)))
  is_paired = all(seed in theirs_RxB for seed, _ in group)
  mean_B = np.mean(final(start), axis=0)
  return _rate(np.stack([
      mine_B - (theirs_RxB[seed] if is_paired else mean_B)
      for (seed, _), mine_B in zip(group, final(group))]), low=-1.0)


def _stack(
    group: Runs, of: Callable[[base.Outcomes], np.ndarray],
    along: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
  """[R, B, E] float64: means over the trajectories of a problem."""
  return np.stack([
      along(o.by_episode(of(o))).mean(axis=1) for _, o in group])


def _rate(values_RxB: np.ndarray, low: float = 0.0) -> dict:
  """A mean with its intervals; see `summarise`."""
  by_seed_R, seeds_ci95 = values_RxB.mean(axis=1), None
  if len(by_seed_R) > 1:
    seeds_ci95 = statistics.normal_interval(
        by_seed_R, low=low,
        quantile=_STUDENT[min(len(by_seed_R) - 1, len(_STUDENT)) - 1])
  return budgets.rate(values_RxB.mean(axis=0), low) | dict(
      by_seed=by_seed_R.tolist(), seeds_ci95=seeds_ci95)


def _check(runs: Mapping[str, Runs], samples: base.Outcomes) -> None:
  """Runs of a policy and samples must be about the same problems."""
  if not runs:
    raise ValueError('runs: none; give at least one.')
  num_problems = len(samples.is_correct)
  for policy, group in runs.items():
    seeds = [seed for seed, _ in group]
    if len(set(seeds)) != len(seeds):
      raise ValueError(f'policy {policy!r}: {seeds=}; must differ.')
    shapes = {(*o.is_correct.shape, o.num_episodes) for _, o in group}
    if len(shapes) > 1 or min(shapes)[0] != num_problems:
      raise ValueError(
          f'policy {policy!r}: is_correct has shapes {sorted(shapes)}; must be '
          f'one, of the {num_problems} problems that samples has.')
