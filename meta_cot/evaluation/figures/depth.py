# SPDX-License-Identifier: Apache-2.0
"""Where a look-ahead pays: searches minus best of N by the same judge.

Both have the same tokens, and best of N the form that goes best on validation.
"""

from collections.abc import Iterator, Sequence
import itertools

import numpy as np

from meta_cot.evaluation import bootstrap
from meta_cot.evaluation import budgets
from meta_cot.evaluation import lookahead as model
from meta_cot.evaluation import runs as runs_lib
from meta_cot.evaluation.figures import base
from meta_cot.evaluation.figures import values
from meta_cot.solvers import choosing
from meta_cot.solvers import strategies

_MINUS = 'search minus best of N'
# Of the beams that the model tries: children of the root, of the nodes before
# the last level, of those of the last one; and the width.
_BEAMS = tuple(itertools.product(
    (2, 4, 6, 8, 12, 16, 24, 32), (1, 2, 3, 4, 8), (1, 2, 4),
    (1, 2, 4, 6, 8, 12, 16)))
_LEAST = 0.8  # of the steps that a beam may have
_NUM_PROBLEMS = 4_000


def depth(groups: Sequence[base.Group]) -> base.Figure:
  """Makes the difference by the steps that a solution has."""
  lines = {}
  for group in groups:
    found = {}  # steps -> differences of every run
    for outcomes, gaps_B in _differences(group):
      steps_B = outcomes.details['difficulty'][:, 0].astype(float)
      for steps in np.unique(steps_B).tolist():
        found.setdefault(steps, []).append(gaps_B[steps_B == steps])
    if found:
      lines.setdefault(group.label, []).extend(
          _point(steps, gaps) for steps, gaps in sorted(found.items()))
  return base.Figure(
      'steps of a solution', _MINUS, lines, is_log=False, is_rate=False)


def lookahead(groups: Sequence[base.Group]) -> base.Figure:
  """Makes the difference over that of the simplest model.

  The model has what the stages of kind `quality` with the same label measured:
  how many attempts may still succeed after every step, and the AUC of the
  values there. It takes the best of some beams of at most as many steps.
  """
  qualities = {
      group.label: run.summary for group in groups for run in group.runs
      if 'sources' in run.summary}
  lines = {}
  for group in groups:
    found = list(_differences(group))
    if found and group.label in qualities:
      tokens = np.mean([o.mean_tokens for o, _ in found])
      alone = np.mean([
          run.tested('samples').mean_tokens for run in group.runs])
      lines.setdefault(group.label, []).append(_point(
          _predicted(qualities[group.label], tokens / alone),
          [gaps_B for _, gaps_B in found]))
  return base.Figure(
      f'{_MINUS}, in the model', _MINUS, lines, is_log=False, is_rate=False)


def _differences(group: base.Group) -> Iterator[tuple]:
  """Searches, and their differences of every problem, of every run."""
  for run, samples, reference in values.rivals_of(group):
    for solver in strategies.STRATEGIES:
      other = run.tested(solver)
      if other is not None and len(other.is_correct) == len(
          samples.is_correct):
        n = budgets.within(samples, other.mean_tokens, is_whole=False)
        yield other, choosing.first(other, 1) - budgets.success(
            samples, n, values.best(run, reference))


def _point(x: float, gaps: Sequence[np.ndarray]) -> base.Point:
  """Over runs where there are several, else over problems."""
  means = [float(gaps_B.mean()) for gaps_B in gaps]
  interval = runs_lib.interval(means)
  if interval is None:
    found = bootstrap.difference(gaps[0], np.zeros_like(gaps[0]))
    interval = found['low'], found['high']
  return base.Point(x, float(np.mean(means)), *interval, len(means))


def _predicted(quality: dict, number: float) -> float:
  """What the best beam of at most `number` solutions gains in the model."""
  source = next(
      of for name, of in quality['sources'].items()
      if name not in ('likelihood', 'constant'))
  live = [entry['reachable'] for entry in quality['by_depth']]
  success = [after / max(before, 1e-9) for before, after in zip(live, live[1:])]
  by_depth = source['auc']['reachable']
  auc = [
      (by_depth.get(str(i)) or dict(estimate=0.5))['estimate']
      for i in range(1, len(success))]
  judge = (source['auc']['verdict'] or dict(estimate=0.5))['estimate']
  auc, rng = [*auc, judge], np.random.default_rng(0)
  most, gains = number * len(success), [0.0]
  for first, middle, last, width in _BEAMS:
    tree = (first, *[middle] * (len(success) - 2), last)[-len(success):]
    if _LEAST * most <= model.num_steps(tree, width) <= most:
      gains.append(model.beam(success, auc, tree, width, _NUM_PROBLEMS, rng))
  return max(gains) - model.best_of_n(
      success, judge, number, _NUM_PROBLEMS, rng)
