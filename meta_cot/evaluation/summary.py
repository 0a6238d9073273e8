# SPDX-License-Identifier: Apache-2.0
"""What rows say, in a few numbers: everything in a report, as JSON values."""

import collections
from collections.abc import Mapping, Sequence
import numbers

import numpy as np

from meta_cot.evaluation import budgets
from meta_cot.evaluation import episodes
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import statistics
from meta_cot.solvers import base
from meta_cot.solvers import choosing

SAMPLES, REVISIONS = 'samples', 'revisions'  # names of solvers

# (policy, solver, split)
Key = tuple[str, str, str]


def of_rows(
    rows: Sequence[rows_lib.Row], *, reference: tuple[str, str] | None = None,
    start: str | None = None,
) -> dict:
  """Summarises the rows of any policies, solvers and splits.

  Only the newest step of every policy counts, but in `curve`.

  Args:
    rows: of `bench.run`, any order of policies; the first is shown first.
    reference: policy and solver that others are compared with, if they are
      there.
    start: where reinforcement learning started; its episodes are compared
      with its samples.

  Returns:
    `reference`, `success` of every procedure, `samples` by chooser,
    `equal_tokens` of samples beside procedures, `curve` by step; `episodes`,
    or None.
  """
  newest = {}
  for row in rows:
    key = row['policy'], row['seed']
    newest[key] = max(newest.get(key, 0), row['step'])
  newest = [r for r in rows if newest[r['policy'], r['seed']] == r['step']]
  found = {
      key: rows_lib.outcomes(some) for key, some in rows_lib.group(
          newest, 'policy', 'solver', 'split').items() if key[1] != REVISIONS}
  return dict(
      reference=reference and list(reference), success=[
          _success(found, key, reference) for key in found],
      samples=[
          dict(policy=policy, split=split,
               num_problems=len(outcomes.is_correct), **point)
          for (policy, solver, split), outcomes in found.items()
          if solver == SAMPLES
          for point in budgets.curve(outcomes, choosing.names(outcomes))],
      equal_tokens=_equal_tokens(found, reference),
      curve=_curve(rows), episodes=_episodes(newest, found, start))


def _success(found: Mapping[Key, base.Outcomes], key: Key, reference) -> dict:
  """Success and cost of one procedure, beside the reference if there is one."""
  (policy, solver, split), outcomes, minus = key, found[key], None
  other = found.get((*(reference or ()), split))
  if other is not None and reference != key[:2] and (
      other.is_correct.shape == outcomes.is_correct.shape):
    minus = statistics.difference_interval(
        other.is_correct[:, 0], outcomes.is_correct[:, 0])._asdict()
  num_problems, num_attempts = outcomes.is_correct.shape
  if num_attempts == 1:
    solved = int(outcomes.is_correct.sum())
    success = dict(
        success=solved / num_problems,
        ci95=list(statistics.wilson(solved, num_problems)))
  else:
    success = budgets.rate(outcomes.is_correct.mean(axis=1))
  errors = collections.Counter(
      error for error, is_correct in zip(
          outcomes.details.get('error', np.array([])).reshape(-1),
          outcomes.is_correct.reshape(-1)) if not is_correct)
  is_known = not np.isnan(outcomes.num_tokens).all()
  return dict(
      policy=policy, solver=solver, split=split, num_problems=num_problems,
      num_attempts=num_attempts, **success,
      mean_tokens=outcomes.mean_tokens if is_known else None,
      unfinished=int((~outcomes.is_finished).sum()), seconds=outcomes.seconds,
      occupancy=outcomes.occupancy, means=_means(outcomes),
      errors=dict(sorted(errors.items())), minus=minus)


def _means(outcomes: base.Outcomes) -> dict[str, float]:
  """Of all details that are numbers."""
  return {
      name: float(np.mean(values.astype(float)))
      for name, values in outcomes.details.items()
      if all(isinstance(x, numbers.Number) for x in values.reshape(-1))}


def _equal_tokens(found, reference) -> list[dict]:
  """Samples beside procedures that cost as much.

  Every sampled policy is compared with the reference and with what else the
  policy was asked with.
  """
  entries = []
  for (policy, solver, split), samples in found.items():
    if solver != SAMPLES:
      continue
    for key, other in found.items():
      is_beside = key[:2] == reference if key[0] != policy else (
          key[:2] != reference and key[1] not in (SAMPLES, 'greedy'))
      if key[2] != split or not is_beside:
        continue
      success = float(other.is_correct.mean())
      entries.append(dict(
          policy=policy, split=split, beside=list(key[:2]),
          beside_tokens=other.mean_tokens, beside_success=success,
          num_samples=samples.is_correct.shape[1],
          catch_up=budgets.catch_up(samples, success),
          **budgets.at_tokens(
              samples, other.mean_tokens, choosing.names(samples))))
  return entries


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


def _episodes(newest, found, start) -> dict | None:
  """Of `REVISIONS`, beside the samples of the start."""
  runs, splits = {}, set()
  for (policy, seed, split), some in rows_lib.group(
      [r for r in newest if r['solver'] == REVISIONS],
      'policy', 'seed', 'split').items():
    runs.setdefault(policy, {})[seed] = rows_lib.outcomes(some)
    splits.add(split)
  if not runs or start is None:
    return None
  (split,) = splits
  return episodes.summarise(runs, found[start, SAMPLES, split], start)
