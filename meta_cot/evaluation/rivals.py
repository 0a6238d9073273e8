# SPDX-License-Identifier: Apache-2.0
"""Procedures beside best of N by the same judge, at equal tokens."""

from collections.abc import Mapping

import numpy as np

from meta_cot.evaluation import bootstrap
from meta_cot.evaluation import budgets
from meta_cot.evaluation import costs
from meta_cot.solvers import base
from meta_cot.solvers import scoring

VERIFIER = 'verifier'
_NUM_PARTS = 3  # of the problems, by difficulty


def against(
    other: base.Outcomes, samples: base.Outcomes, chosen: Mapping[str, Mapping],
    difficulty_B: np.ndarray | None = None,
) -> list[dict]:
  """Compares a procedure with samples chosen by every judge and the verifier.

  A rival has the tokens of the procedure, exactly: some problems get a sample
  more than others, and none more than were drawn. Differences are of the
  procedure minus the rival, paired by problem, with bootstrap intervals over
  problems: of all, and of thirds of them from easy to hard.

  Args:
    other: attempts of the procedure.
    samples: at the same problems.
    chosen: of `choices.of_validation`.
    difficulty_B: of the problems, by which they are cut into thirds; by default
      the share of samples that fail, and then a procedure's gain on the hardest
      third is in part that those samples had no luck.
  """
  if difficulty_B is None:
    difficulty_B = 1 - samples.is_correct.mean(axis=1)
  n = budgets.within(samples, other.mean_tokens, is_whole=False)
  parts = np.array_split(np.argsort(difficulty_B, kind='stable'), _NUM_PARTS)
  mine_B, entries = other.is_correct.mean(axis=1), []
  rivals = {judge: choice['best'] for judge, choice in chosen.items()}
  for judge, name in (rivals | {VERIFIER: 'oracle'}).items():
    theirs_B = budgets.success(samples, n, name)
    is_asked = judge not in (VERIFIER, scoring.LIKELIHOOD)
    entries.append(dict(
        judge=judge, chooser=name, n=n, success=float(theirs_B.mean()),
        cost=costs.of_attempts(samples, n, judge if is_asked else None),
        minus=bootstrap.difference(mine_B, theirs_B),
        by_difficulty=[
            bootstrap.difference(mine_B[part], theirs_B[part])
            for part in parts if len(part)]))
  return entries
