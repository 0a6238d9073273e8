# SPDX-License-Identifier: Apache-2.0
"""Records of solutions that are known: nothing is searched."""

from collections.abc import Sequence

from meta_cot.problem import Problem
from meta_cot.tasks import base
from meta_cot.traces import record as record_lib

STRATEGIES = ('solution',)


def record(
    problem: Problem, steps: Sequence[str], states: base.States, *,
    strategy: str, seed: int, model: str,
) -> record_lib.TraceRecord:
  """Makes the record of a solution, a chain of its steps.

  Args:
    problem: that is solved.
    steps: of the solution, each legal.
    states: of the task.
    strategy: one of STRATEGIES.
    seed: of the words, if they were drawn.
    model: whose solution it is.

  Raises:
    ValueError: no such strategy.
  """
  if strategy not in STRATEGIES:
    raise ValueError(
        f'strategy: got {strategy!r}; must be one of {", ".join(STRATEGIES)}.')
  nodes = [record_lib.Node(-1, '', states.first(problem), order=0)]
  for i, step in enumerate(steps, 1):
    is_last = i == len(steps)
    nodes.append(record_lib.Node(
        parent=i - 1, step=step,
        state=states.after(problem, nodes[-1].state, step),
        order=-1 if is_last else i, is_terminal=is_last, is_correct=is_last))
  return record_lib.TraceRecord(
      problem=problem, strategy=strategy, arguments={}, seed=seed, model=model,
      solution=tuple(range(len(nodes))), nodes=tuple(nodes),
      traversal='depth_first')
