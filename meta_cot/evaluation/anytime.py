# SPDX-License-Identifier: Apache-2.0
"""Success within t tokens, and what is lost until then: JSON values.

What counts at t is the newest answer that was finished by then: an attempt
that goes on has none yet, and a later episode replaces an earlier one. The
regret of T tokens is the sum over t = 1..T of the best success that anybody
reaches at the same problems minus the success within t (after MRT, arXiv
2503.07572): the area above the curve. Axes: R runs, B problems, T budgets.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from meta_cot.evaluation import runs as runs_lib
from meta_cot.solvers import base
from meta_cot.tasks import base as tasks

SOLVERS = ('greedy', 'samples', 'revisions')
SEARCHED = 'searched'  # detail of a row: tokens before the mark of the answer

Key = tuple[str, str, str]  # (policy, solver, split)
Runs = Mapping[int, base.Outcomes]  # of one policy, by their seeds


def within(outcomes: base.Outcomes, tokens_T: Sequence[int]) -> np.ndarray:
  """Computes success of every problem within every budget, [B, T] float64."""
  grid = outcomes.by_episode
  spent_BxGxE = np.cumsum(grid(outcomes.num_tokens), axis=-1)
  is_there_BxGxE = grid(outcomes.is_finished) & (grid(outcomes.num_tokens) > 0)
  # Of no episode there is no success.
  correct = np.pad(
      grid(outcomes.is_correct) & is_there_BxGxE, ((0, 0), (0, 0), (1, 0)))
  number_E = np.arange(1, spent_BxGxE.shape[-1] + 1)
  success = []
  for tokens in tokens_T:
    newest = np.max(
        number_E * (is_there_BxGxE & (spent_BxGxE <= tokens)), axis=-1)
    success.append(np.take_along_axis(
        correct, newest[..., None], axis=-1)[..., 0].mean(axis=1))
  return np.stack(success, axis=1)


def regret(success_T: np.ndarray, best: float) -> np.ndarray:
  """Sums best - success from t = 1 on; tokens, the shape of `success_T`.

  `success_T` is within 1, 2, ... tokens, on the last axis.
  """
  return np.cumsum(best - success_T, axis=-1)


def summarise(
    runs: Mapping[Key, Runs], grid: Sequence[int], start: str | None
) -> list[dict]:
  """Makes an entry for every procedure that writes whole texts.

  Args:
    runs: of all procedures.
    grid: rising numbers of tokens; (): no entries.
    start: of whom the others' differences are taken, if it is there.

  Returns:
    policy, solver, split, seeds; mean `tokens`, and `to_answer` those before
    the mark of right answers (None: unknown); `best`; `points`: `t`, the rates
    `within` and `minus_start` (None: of the start itself), `regret`, and its
    interval over seeds `regret_ci95` (None: of one).
  """
  some = {
      key: group for key, group in runs.items()
      if grid and key[1] in SOLVERS and key[2] != tasks.VALIDATION}
  all_T = np.arange(1, max(grid, default=0) + 1)
  found = {
      key: np.stack([within(o, all_T) for o in group.values()])
      for key, group in some.items()}
  best = {}
  for (_, *where), success_RxBxT in found.items():
    where = tuple(where)
    best[where] = max(
        best.get(where, 0.0), float(success_RxBxT.mean(axis=(0, 1)).max()))
  return [
      _entry(key, some[key], grid, found, best[key[1:]], (start, *key[1:]))
      for key in some]


def _entry(key, group: Runs, grid, found, best: float, start: Key) -> dict:
  policy, solver, split = key
  success_RxBxT, others = found[key], found.get(start)
  places = np.asarray(grid) - 1
  lost_RxT = regret(success_RxBxT.mean(axis=1), best)
  is_beside = others is not None and key != start and (
      others.shape[1] == success_RxBxT.shape[1])
  minus = lambda at: runs_lib.rate(
      success_RxBxT[..., at] - _paired(others, len(group))[..., at], low=-1.0)
  return dict(
      policy=policy, solver=solver, split=split, seeds=list(group),
      tokens=float(np.mean([
          o.by_episode(o.num_tokens).sum(axis=-1).mean()
          for o in group.values()])),
      to_answer=_to_answer(group), best=best, points=[
          dict(t=t, within=runs_lib.rate(success_RxBxT[..., at]),
               minus_start=minus(at) if is_beside else None,
               regret=float(lost_RxT[:, at].mean()),
               regret_ci95=runs_lib.interval(lost_RxT[:, at]))
          for t, at in zip(grid, places.tolist(), strict=True)])


def _paired(others_RxBxT: np.ndarray, number: int) -> np.ndarray:
  """The start by seed where it has as many, else its mean."""
  if len(others_RxBxT) == number:
    return others_RxBxT
  return others_RxBxT.mean(axis=0, keepdims=True)


def _to_answer(group: Runs) -> float | None:
  """Mean tokens before the mark of right answers."""
  values = [
      float(x) for o in group.values() if SEARCHED in o.details
      for x in o.details[SEARCHED][o.is_correct] if x is not None]
  return float(np.mean(values)) if values else None
