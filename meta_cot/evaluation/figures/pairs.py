# SPDX-License-Identifier: Apache-2.0
"""Every policy with every value: success of its searches (Table 1)."""

from collections.abc import Sequence

from meta_cot.evaluation.figures import base
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import strategies

_GREEDY = 'greedy'


def table(groups: Sequence[base.Group]) -> base.Figure:
  """Makes a line for every policy: greedy, then a search by every value.

  The label of a group is the value that guides its searches; greedy answers
  are those of the first group that has any of a policy.
  """
  columns = (_GREEDY, *dict.fromkeys(group.label for group in groups))
  lines = {}
  for group in groups:
    for policy, found in base.by_policy(group, (_GREEDY,)).items():
      lines.setdefault(policy, _points(0, found))
  for group in groups:
    x = columns.index(group.label)
    searches = base.by_policy(group, tuple(strategies.STRATEGIES))
    for policy, found in searches.items():
      lines.setdefault(policy, []).extend(_points(x, found))
  return base.Figure(
      ', '.join(f'{x}: {name}' for x, name in enumerate(columns)), 'solved',
      lines, is_log=False, columns=dict(enumerate(columns)))


def _points(
    x: int, found: Sequence[solvers_base.Outcomes]) -> list[base.Point]:
  """The mean success of first answers."""
  return base.line([
      [(x, outcomes.is_correct[:, 0].astype(float))] for outcomes in found])
