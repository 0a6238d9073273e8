# SPDX-License-Identifier: Apache-2.0
"""Success of one episode after another, beside samples of as many tokens.

A trajectory has episodes: attempts at one question in one context (arXiv
2501.04682, section 6.3). Its fair rival is the start of its training, asked
again and again with the question alone, for as many tokens. Axes besides those
of `solvers.base`: R runs (seeds of a policy), G trajectories of a problem.
"""

from collections.abc import Mapping

import numpy as np

from meta_cot.evaluation import budgets
from meta_cot.evaluation import reasoning
from meta_cot.evaluation import runs as runs_lib
from meta_cot.solvers import base

_RIVALS = ('oracle', 'majority')

Runs = Mapping[int, base.Outcomes]  # of one policy, by their seeds


def summarise(
    runs: Mapping[str, Runs], samples: base.Outcomes, start: str) -> dict:
  """Everything the report says, as JSON values.

  A rate is a dict as in `budgets`, with success `by_seed`, and with two seeds
  or more `seeds_ci95`, over runs (Student's t). `by_difficulty` has a part for
  every difficulty where there are several.

  Args:
    runs: of every policy, at least one; all on the same problems.
    samples: single attempts of the policy that training started from.
    start: its name.
  """
  return dict(
      num_problems=len(samples.is_correct), start=start,
      policies={
          policy: dict(
              seeds=list(group),
              num_trajectories=_stack(group, 'is_correct').shape[2],
              episodes=_episodes(group, samples),
              by_difficulty=_by_difficulty(group),
              minus_start=None if policy == start or start not in runs else
              _minus(group, runs[start]))
          for policy, group in runs.items()},
      samples=dict(
          num_samples=samples.is_correct.shape[1],
          mean_tokens=samples.mean_tokens,
          curve=budgets.curve(samples, _RIVALS)))


def _episodes(group: Runs, samples: base.Outcomes) -> list[dict]:
  """Per episode: its success, that of any so far, and what they cost."""
  is_correct, num_tokens, is_finished = (
      _stack(group, name)
      for name in ('is_correct', 'num_tokens', 'is_finished'))
  this_RxBxE = is_correct.mean(axis=2)
  any_RxBxE = np.logical_or.accumulate(is_correct, axis=-1).mean(axis=2)
  over_all = lambda values: values.mean(axis=2).mean(axis=(0, 1)).tolist()
  taken_E, finished_E = over_all(num_tokens > 0), over_all(is_finished)
  return [
      dict(
          episode=e + 1, tokens=tokens, taken=taken_E[e],
          finished=finished_E[e] / max(taken_E[e], 1e-9),
          this=runs_lib.rate(this_RxBxE[..., e]),
          any=runs_lib.rate(any_RxBxE[..., e]),
          equal_tokens=budgets.at_tokens(
              samples, tokens, _RIVALS, is_whole=False))
      for e, tokens in enumerate(over_all(np.cumsum(num_tokens, axis=-1)))]


def _by_difficulty(group: Runs) -> list[dict]:
  """Success of every episode, by what the task says of problems; or none."""
  this_RxBxE = _stack(group, 'is_correct').mean(axis=2)
  _, *parts = reasoning.parts(next(iter(group.values())))
  return [
      dict(difficulty=difficulty, num_problems=int(is_in_B.sum()),
           episodes=[
               runs_lib.rate(values_RxB)
               for values_RxB in np.moveaxis(this_RxBxE[:, is_in_B], -1, 0)])
      for difficulty, is_in_B in parts]


def _minus(group: Runs, start: Runs) -> dict:
  """Final episodes beside those of the start, by problem (and seed)."""
  final = lambda runs: _stack(runs, 'is_correct').mean(axis=2)[..., -1]
  theirs_RxB = final(start)
  if all(seed in start for seed in group):
    theirs_RxB = theirs_RxB[[list(start).index(seed) for seed in group]]
  else:
    theirs_RxB = np.mean(theirs_RxB, axis=0)
  return runs_lib.rate(final(group) - theirs_RxB, low=-1.0)


def _stack(group: Runs, field: str) -> np.ndarray:
  """[R, B, G, E]: a field of all runs."""
  return np.stack([
      outcomes.by_episode(getattr(outcomes, field))
      for outcomes in group.values()])
