# SPDX-License-Identifier: Apache-2.0
"""How good values of states are, beside their targets, as JSON values.

Axes: S states, B problems, R resamples of problems. Estimates are dicts of
`estimate`, `low`, `high` (bootstrap over problems, 95%), or None where there is
none: an AUC of states that are all alike.
"""

from collections.abc import Callable, Mapping
import dataclasses

import numpy as np

from meta_cot.evaluation import bootstrap

NUM_BINS = 10
CONSTANT = 'constant'


@dataclasses.dataclass(frozen=True)
class States:
  """States with targets, NumPy."""

  problems: np.ndarray  # [S] int, 0 .. B - 1
  depths: np.ndarray  # [S] int, steps so far
  targets: np.ndarray  # [S] float in [0, 1]
  is_end: np.ndarray  # [S] bool, a finished attempt; its target is its verdict
  visits: np.ndarray  # [S] int, attempts through the state
  # [S] float, 1 where a solution goes on from the state, else 0; None: unknown.
  reachable: np.ndarray | None = None


def summarise(states: States, values: Mapping[str, np.ndarray]) -> dict:
  """Measures every source of values, and the mean target as a constant.

  Args:
    states: at least one.
    values: by source, [S] float in [0, 1] each.

  Returns:
    `constant`, counts, `by_depth` (`reachable`: the share of attempts that may
    still succeed), and by source `mae`, `brier` and their differences to those
    of the constant, `calibration`, and AUCs: `reachable` and `target` of
    unfinished states by depth, `verdict` of finished attempts.
  """
  constant = float(states.targets.mean())
  sources = {**values, CONSTANT: np.full(len(states.targets), constant)}
  return dict(
      constant=constant, num_states=len(states.targets),
      num_problems=len(np.unique(states.problems)),
      num_ends=int(states.is_end.sum()), by_depth=[
          dict(depth=int(depth), num_states=int(is_at.sum()),
               mean_target=float(states.targets[is_at].mean()),
               reachable=_reachable(states, is_at))
          for depth, is_at in _depths(states).items()],
      sources={
          name: _source(states, mine, sources[CONSTANT])
          for name, mine in sources.items()})


def _reachable(states: States, is_in: np.ndarray) -> float | None:
  """The share of attempts from whose state a solution goes on."""
  if states.reachable is None:
    return None
  return float(np.average(
      states.reachable[is_in], weights=states.visits[is_in]))


def _source(states: States, values: np.ndarray, constant: np.ndarray) -> dict:
  is_open = ~states.is_end
  by_depth = lambda positive: {
      str(depth): _auc(states, values, positive, is_at & is_open)
      for depth, is_at in _depths(states).items() if (is_at & is_open).any()}
  errors = {
      name: (of(values, states.targets), of(constant, states.targets))
      for name, of in (('mae', absolute_error), ('brier', brier))}
  return dict(
      {name: _mean(states, mine) for name, (mine, _) in errors.items()},
      minus_constant={
          name: _mean(states, mine - theirs)
          for name, (mine, theirs) in errors.items()},
      calibration=calibration(values, states.targets),
      auc=dict(
          reachable=None if states.reachable is None else by_depth(
              states.reachable),
          verdict=_auc(
              states, values, states.targets, states.is_end, states.visits),
          target=by_depth(states.targets)))


def absolute_error(values_S: np.ndarray, targets_S: np.ndarray) -> np.ndarray:
  """Computes the distance of every value to its target, [S]."""
  return np.abs(values_S - targets_S)


def brier(values_S: np.ndarray, targets_S: np.ndarray) -> np.ndarray:
  """Computes the mean squared distance to outcomes right with `targets_S`, [S].

  y (1 - v)^2 + (1 - y) v^2: that to single completions, not to their share.
  """
  return targets_S * (1 - values_S)**2 + (1 - targets_S) * values_S**2


def calibration(values_S: np.ndarray, targets_S: np.ndarray) -> list[dict]:
  """Cuts states into bins of equal count by value; means of each bin."""
  order = np.argsort(values_S, kind='stable')
  return [
      dict(num_states=len(part), value=float(values_S[part].mean()),
           target=float(targets_S[part].mean()))
      for part in np.array_split(order, NUM_BINS) if len(part)]


def auc(
    values_S: np.ndarray, positive_S: np.ndarray, negative_S: np.ndarray
) -> float:
  """Computes the area under the ROC curve of weighted states.

  The probability that a state drawn by positive weight has a higher value than
  one drawn by negative weight, ties as one half; NaN where either has none.
  """
  _, index_S = np.unique(values_S, return_inverse=True)
  return _auc_of_ranks(index_S, positive_S, negative_S)


def _auc_of_ranks(index_S, positive_S, negative_S) -> float:
  positive_U, negative_U = (
      np.bincount(index_S, weights) for weights in (positive_S, negative_S))
  below_U = np.cumsum(negative_U) - negative_U
  total = positive_U.sum() * negative_U.sum()
  if not total:
    return float('nan')
  return float(positive_U @ (below_U + negative_U / 2) / total)


def _auc(states, values, positive, is_in, weights=None) -> dict | None:
  """Of some states: `positive` is the share of a state's weight."""
  problems, positive = states.problems[is_in], positive[is_in]
  weights = np.ones(len(problems)) if weights is None else weights[is_in]
  _, index_S = np.unique(values[is_in], return_inverse=True)
  of = lambda weights: _auc_of_ranks(
      index_S, weights * positive, weights * (1 - positive))
  return _estimate(problems, of, weights)


def _mean(states, values) -> dict:
  return _estimate(
      states.problems, lambda weights: float(weights @ values / weights.sum()),
      np.ones(len(values)))


def _estimate(
    problems: np.ndarray, of: Callable[[np.ndarray], float],
    weights: np.ndarray,
) -> dict | None:
  """A statistic of weighted states, its interval by resampled problems."""
  if not len(problems) or np.isnan(estimate := of(weights)):
    return None
  _, index_S = np.unique(problems, return_inverse=True)
  low, high = bootstrap.interval(np.array([
      of(weights * counts_B[index_S])
      for counts_B in bootstrap.counts(int(index_S.max()) + 1)]))
  return dict(estimate=estimate, low=low, high=high)


def _depths(states: States) -> dict[int, np.ndarray]:
  return {
      depth: states.depths == depth for depth in np.unique(states.depths)}
