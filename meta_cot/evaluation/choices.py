# SPDX-License-Identifier: Apache-2.0
"""How best of N goes best by the values of a judge, chosen on validation."""

import numpy as np

from meta_cot.evaluation import budgets
from meta_cot.solvers import base
from meta_cot.solvers import choosing
from meta_cot.solvers import scoring

# Of the probability of a whole text, beside its value.
POWERS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)


def of_validation(samples: base.Outcomes) -> dict[str, dict]:
  """Chooses a power and a chooser for every judge, and for the likelihood.

  That with the highest success is taken, a mean over N = 2, 4, ... up to all
  samples; of several the first: smaller powers, then the weighted vote.

  Args:
    samples: of validation problems.

  Returns:
    By judge: `power`, None for the likelihood; `best`, the chooser's name;
    `success` of every name; and `num_problems`.
  """
  found = {}
  for judge in (scoring.LIKELIHOOD, *choosing.judges(samples)):
    names, weighted = {0.0: 'value'}, 'weighted'
    if judge != scoring.LIKELIHOOD:
      names = {power: choosing.tempered(judge, power) for power in POWERS}
      weighted = f'weighted by {judge}'
    success = {
        name: _success(samples, name) for name in (*names.values(), weighted)}
    power = max(names, key=lambda power: success[names[power]])
    found[judge] = dict(
        power=None if judge == scoring.LIKELIHOOD else power,
        best=max((names[power], weighted), key=success.get), success=success,
        num_problems=len(samples.is_correct))
  return found


def _success(samples: base.Outcomes, name: str) -> float:
  sizes = budgets.sizes(samples)
  return float(np.mean([
      budgets.success(samples, n, name) for n in sizes[1:] or sizes]))


def names(outcomes: base.Outcomes, chosen: dict[str, dict]) -> tuple[str, ...]:
  """Lists all choosers: those of the attempts, and with the powers chosen."""
  return tuple(dict.fromkeys((*choosing.names(outcomes), *(
      choosing.tempered(judge, choice['power'])
      for judge, choice in chosen.items() if choice['power'] is not None))))
