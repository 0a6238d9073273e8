# SPDX-License-Identifier: Apache-2.0
"""What rows say, in a few numbers: everything in a report, as JSON values."""

import collections
from collections.abc import Mapping, Sequence
import numbers

import numpy as np

from meta_cot.evaluation import anytime
from meta_cot.evaluation import budgets
from meta_cot.evaluation import choices
from meta_cot.evaluation import episodes
from meta_cot.evaluation import reasoning
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import runs as runs_lib
from meta_cot.evaluation import samples
from meta_cot.evaluation import statistics
from meta_cot.solvers import base
from meta_cot.tasks import base as tasks

SAMPLES, REVISIONS = samples.SOLVER, 'revisions'  # names of solvers

# (policy, solver, split)
Key = tuple[str, str, str]
Runs = Mapping[int, base.Outcomes]  # of one policy, by their seeds


def of_rows(
    rows: Sequence[rows_lib.Row], *, reference: tuple[str, str] | None = None,
    start: str | None = None, judges: Mapping[str, str] | None = None,
    discounts: Sequence[float] = (), token_grid: Sequence[int] = (),
) -> dict:
  """Summarises the rows of any policies, solvers and splits.

  Only the newest step of every policy counts, but in `curve`. Of policies that
  differ in their seed alone, `success` has the mean, the rest the first.

  Args:
    rows: of `bench.run`, any order of policies; the first is shown first.
    reference: policy and solver that others are compared with, if they are
      there.
    start: where reinforcement learning started; its episodes are compared
      with its samples.
    judges: by policy, who guides its searches and may judge samples too.
    discounts: gammas; reward is success times gamma to the tokens drawn.
    token_grid: numbers of tokens within which success is counted.

  Returns:
    `reference`, `success` of every procedure, `samples` by chooser,
    `equal_tokens` of samples beside procedures, `curve` by step; `episodes`,
    or None. Besides: `anytime`; `costs`; `choices`, made with samples of
    validation problems by policy; `rivals` of procedures by judge; `discounted`
    samples; `reasoning` by difficulty.
  """
  newest = {}
  for row in rows:
    key = row['policy'], row['seed']
    newest[key] = max(newest.get(key, 0), row['step'])
  newest = [r for r in rows if newest[r['policy'], r['seed']] == r['step']]
  everything = {}
  for (seed, *key), some in rows_lib.group(
      newest, 'seed', 'policy', 'solver', 'split').items():
    everything.setdefault(tuple(key), {})[seed] = rows_lib.outcomes(some)
  runs = {
      key: group for key, group in everything.items() if key[1] != REVISIONS}
  found = {key: next(iter(group.values())) for key, group in runs.items()}
  chosen = {
      policy: choices.of_validation(outcomes)
      for (policy, solver, split), outcomes in found.items()
      if (solver, split) == (SAMPLES, tasks.VALIDATION)}
  bought = samples.of(found, chosen, reference, judges or {}, discounts)
  return dict(
      reference=reference and list(reference), success=[
          _success(runs, key, reference) for key in runs],
      curve=_curve(rows), episodes=_episodes(everything, found, start),
      anytime=anytime.summarise(everything, token_grid, start),
      choices=chosen, reasoning=reasoning.summarise(found), **bought)


def _success(runs: Mapping[Key, Runs], key: Key, reference) -> dict:
  """Success and cost of one procedure, beside the reference if there is one.

  Means and sums are over all runs.
  """
  policy, solver, split = key
  group, other = runs[key], runs.get((*(reference or ()), split))
  each = list(group.values())
  num_problems, num_attempts = each[0].is_correct.shape
  success = _success_rate(each)
  errors = collections.Counter(
      error for outcomes in each for error, is_correct in zip(
          outcomes.details.get('error', np.array([])).reshape(-1),
          outcomes.is_correct.reshape(-1)) if not is_correct)
  tokens = [o.mean_tokens for o in each if not np.isnan(o.num_tokens).all()]
  means = [_means(outcomes) for outcomes in each]
  by_run = {name: [m[name] for m in means if name in m] for name in means[0]}
  return dict(
      policy=policy, solver=solver, split=split, num_problems=num_problems,
      num_attempts=num_attempts, seeds=list(group), **success,
      mean_tokens=float(np.mean(tokens)) if tokens else None,
      unfinished=sum(int((~o.is_finished).sum()) for o in each),
      seconds=sum(o.seconds for o in each),
      occupancy=float(np.mean([o.occupancy for o in each])),
      means={name: float(np.mean(values)) for name, values in by_run.items()},
      means_ci95={
          name: runs_lib.interval(values) for name, values in by_run.items()},
      errors=dict(sorted(errors.items())),
      minus=None if other is None or reference == key[:2] else
      _minus(group, other))


def _success_rate(each: Sequence[base.Outcomes]) -> dict:
  """A rate over problems; of several runs, over them too."""
  if len(each) > 1:
    return runs_lib.rate(_per_problem(each))
  (outcomes,) = each
  return budgets.first_rate(outcomes.is_correct)


def _minus(group: Runs, other: Runs) -> dict | None:
  """The difference to the reference, paired by problem, or None.

  Of several runs it is paired by seed too, and its interval is over seeds.
  """
  each, others = list(group.values()), list(other.values())
  if each[0].is_correct.shape != others[0].is_correct.shape:
    return None
  if len(each) == len(others) == 1:
    return statistics.difference_interval(
        others[0].is_correct[:, 0], each[0].is_correct[:, 0])._asdict()
  mine_RxB, theirs_RxB = _per_problem(each), _per_problem(others)
  if list(group) != list(other):
    theirs_RxB = theirs_RxB.mean(axis=0, keepdims=True)
  gap = runs_lib.rate(mine_RxB - theirs_RxB, low=-1.0)
  low, high = gap['seeds_ci95'] or gap['ci95']
  return dict(estimate=gap['success'], low=low, high=high, p_value=None)


def _per_problem(each: Sequence[base.Outcomes]) -> np.ndarray:
  """[R, B]: success of every run at every problem."""
  return np.stack([outcomes.is_correct.mean(axis=1) for outcomes in each])


def _means(outcomes: base.Outcomes) -> dict[str, float]:
  """Of all details that are numbers, where they are there.

  How difficult a problem is says nothing of an attempt.
  """
  means = {}
  for name, values in outcomes.details.items():
    if name == 'difficulty':
      continue
    there = [x for x in values.reshape(-1) if x is not None]
    if there and all(isinstance(x, numbers.Number) for x in there):
      means[name] = float(np.mean(np.array(there, float)))
  return means


def _curve(rows) -> list[dict]:
  """Greedy success by step, on the problems that all steps were asked."""
  entries = []
  greedy = [r for r in rows if r['solver'] == 'greedy']
  for (policy, seed, split), mine in rows_lib.group(
      greedy, 'policy', 'seed', 'split').items():
    steps = rows_lib.group(sorted(mine, key=lambda r: r['step']), 'step')
    common = set.intersection(*(
        {r['place'] for r in some} for some in steps.values()))
    for (step,), some in steps.items() if len(steps) > 1 and common else ():
      correct = [r['is_correct'] for r in some if r['place'] in common]
      entries.append(dict(
          policy=policy, seed=seed, split=split, step=step,
          tokens=some[0]['trained_tokens'],
          success=sum(correct) / len(correct),
          ci95=list(statistics.wilson(sum(correct), len(correct)))))
  return entries


def _episodes(everything, found, start) -> dict | None:
  """Of `REVISIONS`, beside the samples of the start."""
  runs, splits = {}, set()
  for (policy, solver, split), group in everything.items():
    if solver == REVISIONS:
      runs[policy] = group
      splits.add(split)
  if not runs or start is None:
    return None
  (split,) = splits
  return episodes.summarise(runs, found[start, SAMPLES, split], start)
