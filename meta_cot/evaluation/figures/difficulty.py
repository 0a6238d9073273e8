# SPDX-License-Identifier: Apache-2.0
"""What is reached and tried as problems get harder (Figure 11).

A problem is as hard as the teacher's search for it is long: the nodes that it
visits. Problems are cut into parts of equal size by it, the easiest first; x is
the mean of a part.
"""

from collections.abc import Callable, Sequence

import numpy as np

from meta_cot.evaluation import runs as runs_lib
from meta_cot.evaluation import symbolic
from meta_cot.evaluation.figures import base
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base

_PARTS = 4
_X = 'nodes of the teacher\'s search'


def difficulty(groups: Sequence[base.Group]) -> base.Figure:
  """Makes the share of problems that are solved, by their difficulty."""
  return base.Figure(_X, 'solved', _lines(
      groups, lambda o: o.is_correct, lambda x, found: base.line(
          [[(x, some_B)] for some_B in found])[0]))


def attempts(groups: Sequence[base.Group]) -> base.Figure:
  """Makes how many attempts a text makes before its end, by difficulty.

  Of policies whose style counts them, such as arm `attempts`.
  """
  return base.Figure(_X, 'attempts in a text', _lines(
      groups, lambda o: o.details.get('attempts'),
      lambda x, found: base.of_estimates(x, [*map(_estimate, found)])),
                     is_rate=False)


def _lines(
    groups: Sequence[base.Group],
    values: Callable[[solvers_base.Outcomes], np.ndarray | None],
    point: Callable[[float, Sequence[np.ndarray]], base.Point],
) -> dict[str, list[base.Point]]:
  """By policy: a point of the values, [B, N] a run, over every part."""
  lines = {}
  for group in groups:
    parts, x = _parts(group)
    for policy, found in base.by_policy(group, ('samples', 'greedy')).items():
      means = [v.astype(float).mean(axis=1) for o in found
               if (v := values(o)) is not None]
      name = f'{group.label}: {policy}' if len(groups) > 1 else policy
      if means:
        lines[name] = [
            point(mean, [some_B[part] for some_B in means])
            for part, mean in zip(parts, x, strict=True)]
  return lines


def _estimate(values_B: np.ndarray) -> dict[str, float]:
  """A mean and its 95% interval over problems."""
  mean = float(np.mean(values_B))
  low, high = runs_lib.interval(values_B) or (mean, mean)
  return dict(estimate=mean, low=low, high=high)


def _parts(group: base.Group) -> tuple[list[np.ndarray], list[float]]:
  """Where the problems of a part stand, and their mean nodes.

  Raises:
    UserError: the stage did not ask a teacher.
  """
  nodes = [
      o.details['nodes'][:, 0].astype(float) for run in group.runs
      if run.policy == symbolic.POLICY
      and (o := run.tested(symbolic.TEACHER)) is not None]
  if not nodes:
    raise config_lib.UserError(
        f'{group.label}: has no searches of a teacher; name its strategies in '
        'evaluate.teacher.')
  order = np.argsort(nodes[0], kind='stable')
  parts = np.array_split(order, _PARTS)
  return parts, [float(nodes[0][part].mean()) for part in parts]
