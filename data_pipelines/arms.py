# SPDX-License-Identifier: Apache-2.0
"""Arms of an experiment: what of a search the model is trained to write."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import types

import numpy as np

from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib

Events = tuple[events_lib.Event, ...]
Attempts = tuple[Events, ...]  # at one question; each is a whole text


def no_attempts(
    task: base.Task | None, record: record_lib.TraceRecord,
    rng: np.random.Generator, limit: int,
) -> Attempts:
  """None: the text stands alone."""
  del task, record, rng, limit
  return ()


@dataclasses.dataclass(frozen=True)
class Arm:
  """Turns a record into the attempts of one training sequence.

  Called as `arm(record, rng, max_attempts)`; None for a record that has no such
  sequence. `is_random` says whether it uses `rng`; if not, its sequences are
  tokenised once and kept.
  """

  last: Callable[
      [base.Task | None, record_lib.TraceRecord, np.random.Generator],
      Events | None]
  is_random: bool
  # (task, record, rng, limit) -> what stands before it, at most so many.
  earlier: Callable[
      [base.Task | None, record_lib.TraceRecord, np.random.Generator, int],
      Attempts
  ] = no_attempts
  is_kept: bool = False  # the last attempt fills up what is left of the limit
  styles: tuple[str, ...] = tuple(format_lib.STYLES)  # that can write it
  task: base.Task | None = None  # of the records, see `make`

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator,
      max_attempts: int,
  ) -> Attempts | None:
    last = self.last(self.task, record, rng)
    if last is None:
      return None
    attempts = (*self.earlier(self.task, record, rng, max_attempts - 1), last)
    if self.is_kept:
      attempts += (last,) * (max_attempts - len(attempts))
    return attempts


def traces(
    task: base.Task | None, record: record_lib.TraceRecord,
    rng: np.random.Generator,
) -> Events:
  """The whole search, and its solution if it found one."""
  del task, rng
  return events_lib.linearize(record)


def solution_only(
    task: base.Task | None, record: record_lib.TraceRecord,
    rng: np.random.Generator,
) -> Events | None:
  """The question and the solution that the search found first."""
  del task, rng
  answer = solution(record)
  if answer is None:
    return None
  return events_lib.Start(record.problem.question), answer


def solution_only_permuted(
    task: base.Task, record: record_lib.TraceRecord, rng: np.random.Generator
) -> Events | None:
  """As `solution_only`, with the question put otherwise every time."""
  answer = solution(record)
  if answer is None:
    return None
  return events_lib.Start(task.vary(record.problem, rng).question), answer


def failures(
    task: base.Task, record: record_lib.TraceRecord, rng: np.random.Generator,
    limit: int,
) -> Attempts:
  """Dead ends of the search as wrong solutions (arXiv 2501.04682, Eq. 4-7).

  Their number is uniform in 0..limit, but at most the dead ends that the search
  met: where it had to look longer, more attempts come before the right one. No
  two are the same; their order is random.

  Args:
    task: that has states.
    record: of one of its problems.
    rng: drawn from twice.
    limit: at least 0.
  """
  count = rng.integers(limit + 1)
  ends = [
      i for i, node in enumerate(record.nodes)
      if node.is_terminal and not node.is_correct]
  found = {}  # answer -> None, in the order drawn
  for end in rng.permutation(ends).tolist():
    if len(found) == count:
      break
    steps = [
        record.nodes[i].step for i in from_tree.path(record.nodes, end)[1:]]
    if _is_wrong(task, record.problem, steps):
      found[events_lib.Answer('\n'.join(steps))] = None
  return tuple(
      (events_lib.Start(record.problem.question), answer) for answer in found)


def _is_wrong(
    task: base.Task, problem: Problem, steps: Sequence[str]) -> bool:
  """Whether these are all steps that a solution has, legal, but wrong.

  A model's search may also end in what is no step, or too early.
  """
  state = task.states.first(problem)
  for step in steps:
    state = task.states.after(state, step)
    if state is None:
      return False
  return len(steps) == task.states.max_steps(problem) and (
      not task.verify(problem, '\n'.join(steps)).is_correct)


def solution(record: record_lib.TraceRecord) -> events_lib.Answer | None:
  """The answer that `linearize` ends with, without replaying the search."""
  if not record.solution:
    return None
  return events_lib.Answer(
      '\n'.join(record.nodes[i].step for i in record.solution[1:]))


def reference(arm: str, record: record_lib.TraceRecord) -> Events | None:
  """What arm `arm` should answer to the record's question as it stands.

  One text; what an arm of several attempts should write at once.

  Raises:
    ValueError: no such arm.
  """
  if arm not in ARMS:
    raise ValueError(f'{arm=}: must be one of {", ".join(ARMS)}.')
  write = traces if arm == 'traces' else solution_only
  return write(None, record, np.random.default_rng(0))


def make(name: str, task: base.Task) -> Arm:
  """The arm `name` of `ARMS` for records of a task.

  Raises:
    ConfigError: the arm needs states, which the task does not have.
  """
  arm = ARMS[name]
  if arm.earlier is failures and task.states is None:
    raise config_lib.ConfigError(
        f'arms: got {name!r}; this task has no states, so it has no '
        'wrong ends to revise.')
  return dataclasses.replace(arm, task=task)


# Of several attempts each must begin with a mark of its own.
_MARKED = tuple(n for n, s in format_lib.STYLES.items() if s.OPENING)

ARMS: Mapping[str, Arm] = types.MappingProxyType({
    'traces': Arm(traces, is_random=False),
    'solution_only': Arm(solution_only, is_random=False),
    'solution_only_permuted': Arm(solution_only_permuted, is_random=True),
    'revisions': Arm(
        solution_only, is_random=True, earlier=failures, styles=_MARKED),
    'revisions_kept': Arm(
        solution_only, is_random=True, earlier=failures, is_kept=True,
        styles=_MARKED),
})
