# SPDX-License-Identifier: Apache-2.0
"""What samples buy, beside procedures: part of a summary, as JSON values."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from meta_cot.evaluation import budgets
from meta_cot.evaluation import choices
from meta_cot.evaluation import costs
from meta_cot.evaluation import rivals
from meta_cot.solvers import base
from meta_cot.solvers import choosing
from meta_cot.solvers import strategies
from meta_cot.tasks import base as tasks

SOLVER = 'samples'

# (policy, solver, split) -> attempts
Found = Mapping[tuple[str, str, str], base.Outcomes]


def of(
    found: Found, chosen: Mapping[str, Mapping],
    reference: tuple[str, str] | None, judges: Mapping[str, str],
    discounts: Sequence[float],
) -> dict[str, list[dict]]:
  """Makes the parts `samples`, `equal_tokens`, `rivals`, `discounted`, `costs`.

  Args:
    found: of all procedures; samples of validation problems are left out.
    chosen: of `choices.of_validation`, by policy.
    reference: as of `summary.of_rows`, like the others.
    judges: likewise.
    discounts: likewise.
  """
  drawn = {
      (policy, split): samples
      for (policy, solver, split), samples in found.items()
      if solver == SOLVER and split != tasks.VALIDATION}
  names = {
      key: choices.names(samples, chosen.get(key[0], {}))
      for key, samples in drawn.items()}
  entry = lambda key: dict(
      policy=key[0], split=key[1], num_problems=len(drawn[key].is_correct))
  return dict(
      samples=[
          entry(key) | point for key, samples in drawn.items()
          for point in budgets.curve(samples, names[key])],
      equal_tokens=_equal_tokens(found, drawn, names, reference),
      rivals=_rivals(found, drawn, chosen, reference, judges),
      discounted=[
          entry(key) | dict(gamma=gamma, n=n) | {
              name: budgets.rate(
                  choosing.discounted(name, samples, n, gamma))
              for name in names[key]}
          for key, samples in drawn.items() for gamma in discounts
          for n in budgets.sizes(samples)],
      costs=_costs(found, drawn))


def _beside(
    found: Found, drawn, reference
) -> Iterator[tuple[tuple[str, str], tuple[str, str, str]]]:
  """Samples, and keys of what they are compared with.

  Every sampled policy is compared with the reference and with what else the
  policy was asked with.
  """
  for policy, split in drawn:
    for key in found:
      is_beside = key[:2] == reference if key[0] != policy else (
          key[:2] != reference and key[1] not in (SOLVER, 'greedy'))
      if key[2] == split and is_beside:
        yield (policy, split), key


def _equal_tokens(found, drawn, names, reference) -> list[dict]:
  """Samples beside procedures that cost as much."""
  entries = []
  for (policy, split), key in _beside(found, drawn, reference):
    samples, other = drawn[policy, split], found[key]
    success = float(other.is_correct.mean())
    entries.append(dict(
        policy=policy, split=split, beside=list(key[:2]),
        beside_tokens=other.mean_tokens, beside_success=success,
        num_samples=samples.is_correct.shape[1],
        catch_up=budgets.catch_up(samples, success),
        **budgets.at_tokens(
            samples, other.mean_tokens, names[policy, split])))
  return entries


def _rivals(found, drawn, chosen, reference, judges) -> list[dict]:
  """Procedures beside samples by every judge whose chooser was chosen."""
  entries = []
  for (policy, split), key in _beside(found, drawn, reference):
    samples, other = drawn[policy, split], found[key]
    if policy not in chosen or len(samples.is_correct) != len(other.is_correct):
      continue
    difficulty_B = _difficulty(found, split, len(samples.is_correct))
    entries.append(dict(
        policy=policy, split=split, beside=list(key[:2]),
        judge=judges.get(key[0]) if key[1] in strategies.STRATEGIES else None,
        cost=costs.of_attempts(other), success=float(other.is_correct.mean()),
        num_samples=samples.is_correct.shape[1],
        difficulty='samples that fail' if difficulty_B is None else 'task',
        rivals=rivals.against(other, samples, chosen[policy], difficulty_B)))
  return entries


def _difficulty(found: Found, split: str, number: int) -> np.ndarray | None:
  """What is known of all problems of a split, where they differ in it."""
  for key, outcomes in found.items():
    if key[2] == split and 'difficulty' in outcomes.details:
      said = outcomes.details['difficulty'][:, 0]
      if len(said) == number and None not in said and len(set(said)) > 1:
        return said.astype(float)
  return None


def _costs(found: Found, drawn) -> list[dict]:
  """Of every procedure; of samples for every number of them and judge."""
  entries = []
  for (policy, solver, split), outcomes in found.items():
    if split == tasks.VALIDATION:
      continue
    is_drawn = (policy, split) in drawn and solver == SOLVER
    judges = (None, *(choosing.judges(outcomes) if is_drawn else ()))
    entries += [
        dict(policy=policy, solver=solver, split=split, judge=judge, n=n,
             **costs.of_attempts(outcomes, n, judge))
        for judge in judges
        for n in (budgets.sizes(outcomes) if is_drawn else [1])]
  return entries
