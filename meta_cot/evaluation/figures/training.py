# SPDX-License-Identifier: Apache-2.0
"""Success as a policy trains (arXiv 2501.04682, Figure 2)."""

from collections.abc import Sequence

from meta_cot.evaluation.figures import base
from meta_cot.solvers import choosing
from meta_cot.tasks import base as tasks


def training(groups: Sequence[base.Group]) -> base.Figure:
  """Makes greedy, majority and pass@k at every checkpoint.

  Of validation problems: stages with `curve_solvers` greedy and samples.
  """
  found = {}
  for group in groups:
    for run in group.runs:
      if any(key.split == tasks.VALIDATION for key in run.outcomes):
        found.setdefault((group.label, run.policy), []).append(run)
  lines = {}
  for (label, policy), runs in found.items():
    about = (label,) * (len(groups) > 1) + (policy,) * (
        len({policy for _, policy in found}) > 1)
    for text, points in _lines(runs).items():
      lines[': '.join((*about, text))] = points
  return base.Figure(
      'training tokens', 'validation problems solved', lines, is_log=False)


def _lines(runs: Sequence[base.Run]) -> dict[str, list[base.Point]]:
  """Lines of one policy, `runs` its seeds."""
  lines = {'greedy': base.line([
      [(tokens, choosing.first(outcomes, 1))
       for tokens, outcomes in _curve(run, 'greedy')] for run in runs])}
  samples = [_curve(run, 'samples') for run in runs]
  number = min((outcomes.is_correct.shape[1]
                for run in samples for _, outcomes in run), default=0)
  if not number:
    return lines
  lines[f'majority of {number}'] = base.line([
      [(tokens, choosing.majority(outcomes, number))
       for tokens, outcomes in run] for run in samples])
  k = 1
  while k <= number:
    lines[f'pass@{k}'] = base.line([
        [(tokens, choosing.oracle(outcomes, k)) for tokens, outcomes in run]
        for run in samples])
    k *= 4
  return lines


def _curve(run: base.Run, solver: str):
  """(training tokens, attempts) of every checkpoint."""
  return [
      (run.trained_tokens[key.step] or 0.0, outcomes)
      for key, outcomes in sorted(
          run.outcomes.items(), key=lambda item: item[0].step)
      if (key.solver, key.split) == (solver, tasks.VALIDATION)]
