# SPDX-License-Identifier: Apache-2.0
"""Success of one episode after another, beside samples of as many tokens.

A trajectory has episodes: attempts at one question in one context (arXiv
2501.04682, section 6.3). Its fair rival is the start of its training, asked
again and again with the question alone, for as many tokens. Axes: R runs (seeds
of a policy), B problems, G trajectories of each, E episodes of a trajectory, S
single samples of a problem.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

import numpy as np

from meta_cot.evaluation import best_of_n
from meta_cot.evaluation import statistics
from meta_cot.search import voting

_NORMAL = 1.96
# 97.5% quantiles of Student's t by degrees of freedom, from 1 on; the last one
# is a little wide for more.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclasses.dataclass(frozen=True)
class Record:
  """What one trained policy did in its episodes.

  Raises:
    ValueError: fields of other shapes, or a right episode without tokens.
  """

  policy: str  # such as 'erl2'
  seed: int  # of its training
  is_correct: np.ndarray  # [B, G, E] bool
  # [B, G, E] int, drawn, with what a search before the first episode cost; 0:
  # the episode did not take place.
  tokens: np.ndarray
  is_finished: np.ndarray  # [B, G, E] bool, ended by an answer, not by a limit

  def __post_init__(self):
    where = f'episodes of {self.policy!r}, seed {self.seed}'
    _check_shapes(where, 3, dict(
        is_correct=self.is_correct, tokens=self.tokens,
        is_finished=self.is_finished))
    if np.any(self.is_correct & (self.tokens == 0)):
      raise ValueError(
          f'{where}: is_correct has an episode of 0 tokens; one that did not '
          'take place must be False.')
    if np.any(self.tokens[:, :, 0] < 1):
      raise ValueError(
          f'{where}: tokens has a trajectory whose first episode has '
          f'{self.tokens[:, :, 0].min()}; must be at least 1.')


@dataclasses.dataclass(frozen=True)
class Samples:
  """Single attempts, each with the question alone.

  Raises:
    ValueError: fields of other shapes, or samples without tokens.
  """

  policy: str  # such as 'sft'
  is_correct: np.ndarray  # [B, S] bool
  tokens: np.ndarray  # [B, S] int, drawn
  answers: np.ndarray  # [B, S] int, equal ones have equal ids; -1: none

  def __post_init__(self):
    where = f'samples of {self.policy!r}'
    _check_shapes(where, 2, dict(
        is_correct=self.is_correct, tokens=self.tokens, answers=self.answers))
    if np.any(self.tokens < 1):
      raise ValueError(
          f'{where}: tokens has {self.tokens.min()}; must be at least 1.')

  @property
  def num_samples(self) -> int:
    """S."""
    return self.is_correct.shape[1]

  @property
  def mean_tokens(self) -> float:
    return float(self.tokens.mean())


def summarise(records: Sequence[Record], samples: Samples) -> dict:
  """Everything the report says, as JSON values.

  A rate is a dict: `success`, its `ci95` over problems (normal; all samples and
  runs of a problem count as one), success `by_seed`, and with two seeds or more
  `seeds_ci95`, over runs (Student's t).

  Args:
    records: one for every policy and seed; all on the same problems.
    samples: of the policy that training started from, on these problems.

  Raises:
    ValueError: no records, a seed twice, or shapes that do not go together.
  """
  runs = {}
  for record in records:
    runs.setdefault(record.policy, []).append(record)
  _check_runs(runs, samples)
  start = runs[samples.policy] if samples.policy in runs else None
  return dict(
      num_problems=len(samples.is_correct), start=samples.policy,
      policies={
          policy: dict(
              seeds=[r.seed for r in group],
              num_trajectories=group[0].is_correct.shape[1],
              episodes=_episodes(group, samples),
              minus_start=_minus(group, start))
          for policy, group in runs.items()},
      best_of_n=_best_of_n(samples))


def majority_success(samples: Samples, k: int) -> np.ndarray:
  """Per problem, how often the most frequent answer of k samples is right.

  The mean over as many disjoint groups of k samples as there are. Samples
  without an answer have no vote; of equally frequent answers the first counts.

  Args:
    samples: of every problem.
    k: 1..S.

  Returns:
    [B] float64, in [0, 1].
  """
  num_problems = len(samples.answers)
  groups = samples.num_samples // k
  rows = lambda x: x[:, :groups * k].reshape(num_problems * groups, k)
  answers_BGxk = rows(samples.answers).astype(np.int32)
  chosen_BG = np.asarray(voting.majority(answers_BGxk))
  picked_BG = np.take_along_axis(
      rows(samples.is_correct), np.maximum(chosen_BG, 0)[:, None], axis=1)[:, 0]
  return (picked_BG & (chosen_BG >= 0)).reshape(num_problems, groups).mean(1)


def _pass_at_k(samples: Samples, k: int) -> np.ndarray:
  """Per problem, the chance that one of k samples is right; [B] float64."""
  return np.array([
      statistics.pass_at_k(
          num_samples=samples.num_samples, num_correct=int(c), k=k)
      for c in samples.is_correct.sum(axis=1)])


def _episodes(group: Sequence[Record], samples: Samples) -> list[dict]:
  """Per episode: its success, that of any so far, and what they cost."""
  success_RxBxE = _stack(group, lambda r: r.is_correct)
  any_RxBxE = _stack(
      group, lambda r: np.logical_or.accumulate(r.is_correct, axis=-1))
  tokens_RxBxE = _stack(group, lambda r: np.cumsum(r.tokens, axis=-1))
  taken_E = _stack(group, lambda r: r.tokens > 0).mean(axis=(0, 1))
  finished_E = _stack(group, lambda r: r.is_finished).mean(axis=(0, 1))
  rows = []
  for e, tokens in enumerate(tokens_RxBxE.mean(axis=(0, 1)).tolist()):
    rows.append(dict(
        episode=e + 1, tokens=tokens, taken=float(taken_E[e]),
        finished=float(finished_E[e] / max(taken_E[e], 1e-9)),
        this=_rate(success_RxBxE[..., e]), any=_rate(any_RxBxE[..., e]),
        equal_tokens=_equal_tokens(samples, tokens)))
  return rows


def _equal_tokens(samples: Samples, budget: float) -> dict:
  """Best of N and majority of N where N samples cost `budget` on average.

  N need not be whole: some problems then get one sample more than others. It
  is at least 1 and at most S.
  """
  n = min(max(budget / samples.mean_tokens, 1.0), float(samples.num_samples))
  below, above = math.floor(n), math.ceil(n)

  def mixed(values: Callable[[Samples, int], np.ndarray]) -> dict:
    values_B = values(samples, below)
    if above > below:
      values_B = values_B + (n - below) * (values(samples, above) - values_B)
    return _rate(values_B[None])

  return dict(
      n=n, tokens=n * samples.mean_tokens, best=mixed(_pass_at_k),
      majority=mixed(majority_success))


def _best_of_n(samples: Samples) -> dict:
  """Both rivals at N = 1, 2, 4, ..., S."""
  points = best_of_n.curve(
      samples.is_correct.sum(axis=1).tolist(), samples.num_samples,
      samples.mean_tokens)
  return dict(
      num_samples=samples.num_samples, mean_tokens=samples.mean_tokens,
      curve=[
          dataclasses.asdict(p) | dict(
              majority=_rate(majority_success(samples, p.k)[None]))
          for p in points])


def _minus(
    group: Sequence[Record], start: Sequence[Record] | None) -> dict | None:
  """Final episodes beside those of the start, by problem (and seed)."""
  if start is None or start is group:
    return None
  final = lambda runs: _stack(runs, lambda r: r.is_correct)[..., -1]
  theirs_RxB = dict(zip([r.seed for r in start], final(start)))
  is_paired = all(r.seed in theirs_RxB for r in group)
  mean_B = np.mean(final(start), axis=0)
  return _rate(np.stack([
      mine_B - (theirs_RxB[r.seed] if is_paired else mean_B)
      for r, mine_B in zip(group, final(group))]), low=-1.0)


def _stack(
    group: Sequence[Record], of: Callable[[Record], np.ndarray]) -> np.ndarray:
  """[R, B, E] float64: means over the trajectories of a problem."""
  return np.stack([of(record).mean(axis=1) for record in group])


def _rate(values_RxB: np.ndarray, low: float = 0.0) -> dict:
  """A mean with its intervals; see `summarise`."""
  by_seed_R = values_RxB.mean(axis=1)
  success, seeds_ci95 = float(by_seed_R.mean()), None
  if len(by_seed_R) > 1:
    quantile = _STUDENT[min(len(by_seed_R) - 1, len(_STUDENT)) - 1]
    seeds_ci95 = _interval(success, by_seed_R, quantile, low)
  return dict(
      success=success,
      ci95=_interval(success, values_RxB.mean(axis=0), _NORMAL, low),
      by_seed=by_seed_R.tolist(), seeds_ci95=seeds_ci95)


def _interval(
    mean: float, values: np.ndarray, quantile: float, low: float
) -> list[float]:
  """Around the mean of independent values [n], within [low, 1]."""
  error = 0.0
  if len(values) > 1:
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
  return [max(mean - quantile * error, low), min(mean + quantile * error, 1.0)]


def _check_shapes(where: str, rank: int, fields: dict[str, np.ndarray]) -> None:
  shapes = {name: value.shape for name, value in fields.items()}
  shape = shapes['is_correct']
  if len(shape) != rank or 0 in shape or set(shapes.values()) != {shape}:
    raise ValueError(
        f'{where}: shapes {shapes}; must be equal, of {rank} axes, none empty.')


def _check_runs(runs: dict[str, list[Record]], samples: Samples) -> None:
  """Runs of a policy and samples must be about the same problems."""
  if not runs:
    raise ValueError('records: none; give at least one.')
  num_problems = len(samples.is_correct)
  for policy, group in runs.items():
    seeds = [r.seed for r in group]
    if len(set(seeds)) != len(seeds):
      raise ValueError(f'policy {policy!r}: {seeds=}; must differ.')
    shapes = {r.is_correct.shape for r in group}
    if len(shapes) > 1 or group[0].is_correct.shape[0] != num_problems:
      raise ValueError(
          f'policy {policy!r}: is_correct has shapes {sorted(shapes)}; must be '
          f'one, of the {num_problems} problems that samples has.')
