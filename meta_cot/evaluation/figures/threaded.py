# SPDX-License-Identifier: Apache-2.0
"""Success over what texts with threads take: windows, tokens, and in a row.

Of solver `threads`; a policy that opens none has one text, whose tokens all
were drawn one after another. What is right counts from where its window, or so
many tokens, hold it: with less it is not finished.
"""

from collections.abc import Sequence

import numpy as np

from meta_cot.evaluation.figures import base
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import spawning

_POINTS = 24  # of a line, at most
_SOLVED = 'solved within so many'


def window(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success over the longest text, its question included."""
  return _figure(groups, 'window, tokens', 'window')


def sequential(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success over tokens that were drawn one after another."""
  return _figure(groups, 'sequential tokens', 'sequential')


def total(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success over the tokens of all texts together."""
  return _figure(groups, 'tokens', None)


def _figure(groups, x_label: str, detail: str | None) -> base.Figure:
  """A line for every policy, from the mean of its attempts' success."""
  lines = {}
  for group in groups:
    for policy in dict.fromkeys(run.policy for run in group.runs):
      found = [
          o for run in group.runs if run.policy == policy
          and (o := run.tested(spawning.NAME)) is not None]
      if found:
        name = f'{group.label}: {policy}' if len(groups) > 1 else policy
        lines[name] = _line(found, detail)
  return base.Figure(x_label, _SOLVED, lines)


def _line(
    found: Sequence[solvers_base.Outcomes], detail: str | None
) -> list[base.Point]:
  taken = [
      (o.num_tokens if detail is None else o.details[detail]).astype(float)
      for o in found]
  most = max(x_BxN.max() for x_BxN in taken)
  least = min(x_BxN.min() for x_BxN in taken)
  places = np.unique(np.rint(np.geomspace(least, most, _POINTS)))
  return base.line([
      [(x, (o.is_correct & (x_BxN <= x)).mean(axis=1)) for x in places]
      for o, x_BxN in zip(found, taken, strict=True)])
