# SPDX-License-Identifier: Apache-2.0
"""Every policy with every value: success of its searches (Table 1)."""

from collections.abc import Sequence

from meta_cot.evaluation import tables
from meta_cot.evaluation.figures import base
from meta_cot.settings import config as config_lib
from meta_cot.solvers import strategies

_GREEDY = 'greedy'


def table(groups: Sequence[base.Group]) -> base.Figure:
  """Makes a line for every policy: greedy, then a search by every value.

  Labels of the groups are 'POLICY, VALUE'. Columns are in the order in which
  values come first; greedy answers are those of the first group of a policy.

  Raises:
    UserError: a label is not of two parts.
  """
  columns, lines = [_GREEDY], {}
  for group in groups:
    policy, comma, value = group.label.partition(', ')
    if not (policy and comma and value):
      raise config_lib.UserError(
          f"labels: got {group.label!r}; figure 'table' wants 'POLICY, VALUE'.")
    solver = next((
        key.solver for run in group.runs for key in run.outcomes
        if key.solver in strategies.STRATEGIES), None)
    points = lines.setdefault(policy, [])
    if not points:
      points += _points(0, group, _GREEDY)
    if solver is not None:
      if value not in columns:
        columns.append(value)
      points += _points(columns.index(value), group, solver)
  return base.Figure(
      ', '.join(f'{x}: {name}' for x, name in enumerate(columns)), 'solved',
      lines, is_log=False, columns=tuple(columns))


def _points(x: int, group: base.Group, solver: str) -> list[base.Point]:
  """The success of a solver over the runs of a group; [] if nobody asked."""
  found = [run.tested(solver) for run in group.runs]
  return base.line([
      [(x, outcomes.is_correct[:, 0].astype(float))]
      for outcomes in found if outcomes is not None])


def markdown(figure: base.Figure) -> str:
  """Writes the lines as a table of percents with their intervals."""
  rows = []
  for name, points in figure.lines.items():
    cells = {round(p.x): p for p in points}
    rows.append([name, *(
        dict(success=cells[x].y, ci95=(cells[x].low, cells[x].high))
        if x in cells else None for x in range(len(figure.columns)))])
  return tables.table(' | '.join(('policy', *figure.columns)), rows)
