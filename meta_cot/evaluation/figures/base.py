# SPDX-License-Identifier: Apache-2.0
"""What figures are made of: stages that were asked, by label and by seed."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import re
from typing import Any, NamedTuple

import numpy as np

from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import runs as runs_lib
from meta_cot.evaluation import tables
from meta_cot.solvers import base
from meta_cot.tasks import base as tasks

_SEED = re.compile('[0-9]+$')


class Point(NamedTuple):
  """Of a line; the interval has 95%."""

  x: float
  y: float
  low: float
  high: float
  num_runs: int


class Key(NamedTuple):
  """How, and by how long trained a policy, problems were answered."""

  solver: str
  split: str
  step: int


@dataclasses.dataclass(frozen=True)
class Run:
  """One seed of a stage."""

  outcomes: Mapping[Key, base.Outcomes]
  trained_tokens: Mapping[int, float | None]  # by step
  summary: Mapping[str, Any]  # of the stage
  policy: str = ''  # its label; '' where there are no rows

  def tested(self, solver: str) -> base.Outcomes | None:
    """Finds the attempts at test problems, of the newest step."""
    keys = [k for k in self.outcomes if k.solver == solver
            and k.split != tasks.VALIDATION]
    return self.outcomes[max(keys, key=lambda k: k.step)] if keys else None


@dataclasses.dataclass(frozen=True)
class Group:
  """Stages that differ in their seed alone."""

  label: str
  runs: Sequence[Run]


@dataclasses.dataclass(frozen=True)
class Figure:
  """Lines of points, and what the axes are."""

  x_label: str
  y_label: str
  lines: Mapping[str, Sequence[Point]]
  is_log: bool = True  # of x
  is_rate: bool = True  # of y
  columns: Mapping[float, str] | None = None  # by x, where it is a table too


def runs_of(
    rows: Iterable[rows_lib.Row], summary: Mapping[str, Any]) -> list[Run]:
  """Makes the runs of a stage: one for every policy and seed in its rows."""
  made = []
  for (policy, _), mine in rows_lib.group(rows, 'policy', 'seed').items():
    made.append(Run(
        {Key(*key): rows_lib.outcomes(some) for key, some in rows_lib.group(
            mine, 'solver', 'split', 'step').items()},
        {row['step']: row['trained_tokens'] for row in mine}, summary, policy))
  return made


def grouped(
    stages: Sequence[tuple[str, str, Sequence[Run]]]
) -> list[Group]:
  """Puts seeds together: stages (name, label, runs) in order.

  Those of one label whose names differ in their last number alone are one
  group.
  """
  found = {}
  for name, label, runs in stages:
    found.setdefault((_SEED.sub('', name), label), []).extend(runs)
  return [Group(label, runs) for (_, label), runs in found.items()]


def by_policy(
    group: Group, solvers: Sequence[str]) -> dict[str, list[base.Outcomes]]:
  """Finds attempts of every policy's runs, by the first of the solvers there.
  """
  found = {}
  for run in group.runs:
    outcomes = next((
        o for solver in solvers if (o := run.tested(solver)) is not None), None)
    if outcomes is not None:
      found.setdefault(run.policy, []).append(outcomes)
  return found


def judge(reference: str) -> str:
  """Names a judge of samples, of whatever seed."""
  return _SEED.sub('', reference.partition('/')[0]).rstrip('_')


def line(runs: Sequence[Sequence[tuple[float, np.ndarray]]]) -> list[Point]:
  """Averages runs, each a line of (x, [B] success of every problem).

  Intervals are between the means of several runs (Student's t), else over the
  problems of one. Runs are cut to the points that all of them have.
  """
  points = []
  for some in zip(*runs):
    x, values_RxB = zip(*some)
    rate = runs_lib.rate(np.stack(values_RxB))
    points.append(Point(
        float(np.mean(x)), rate['success'],
        *(rate['seeds_ci95'] or rate['ci95']), len(some)))
  return points


def of_estimates(
    x: float, estimates: Sequence[Mapping[str, float]]) -> Point:
  """Averages estimates of several runs; one keeps its own interval."""
  values = [e['estimate'] for e in estimates]
  low, high = runs_lib.interval(values) or (
      estimates[0]['low'], estimates[0]['high'])
  return Point(x, float(np.mean(values)), low, high, len(values))


def markdown(figure: Figure) -> str:
  """Writes the lines as a table of percents with their intervals."""
  rows = []
  for name, points in figure.lines.items():
    cells = {
        p.x: dict(success=p.y, ci95=(p.low, p.high)) for p in points}
    rows.append([name, *map(cells.get, figure.columns)])
  return tables.table(' | '.join(('policy', *figure.columns.values())), rows)
