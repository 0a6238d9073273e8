# SPDX-License-Identifier: Apache-2.0
"""Arms of an experiment: what of a search the model is trained to write."""

from collections.abc import Callable, Mapping
import dataclasses
import types

import numpy as np

from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib
from meta_cot.traces.arithmetic import operations

Events = tuple[events_lib.Event, ...]
Attempts = tuple[Events, ...]  # at one question; each is a whole text


def no_attempts(
    record: record_lib.TraceRecord, rng: np.random.Generator, limit: int
) -> Attempts:
  """None: the text stands alone."""
  del record, rng, limit
  return ()


@dataclasses.dataclass(frozen=True)
class Arm:
  """Turns a record into the attempts of one training sequence.

  Called as `arm(record, rng, max_attempts)`; None for a record that has no such
  sequence. `is_random` says whether it uses `rng`; if not, its sequences are
  tokenised once and kept.
  """

  last: Callable[
      [record_lib.TraceRecord, np.random.Generator], Events | None]
  is_random: bool
  # (record, rng, limit) -> what stands before it, at most so many attempts.
  earlier: Callable[
      [record_lib.TraceRecord, np.random.Generator, int], Attempts
  ] = no_attempts
  is_kept: bool = False  # the last attempt fills up what is left of the limit
  styles: tuple[str, ...] = tuple(format_lib.STYLES)  # that can write it

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator,
      max_attempts: int,
  ) -> Attempts | None:
    last = self.last(record, rng)
    if last is None:
      return None
    attempts = (*self.earlier(record, rng, max_attempts - 1), last)
    if self.is_kept:
      attempts += (last,) * (max_attempts - len(attempts))
    return attempts


def traces(
    record: record_lib.TraceRecord, rng: np.random.Generator) -> Events:
  """The whole search, and its solution if it found one."""
  del rng
  return events_lib.linearize(record)


def solution_only(
    record: record_lib.TraceRecord, rng: np.random.Generator) -> Events | None:
  """The question and the solution that the search found first."""
  del rng
  answer = solution(record)
  if answer is None:
    return None
  return events_lib.Start(record.problem.question), answer


def solution_only_permuted(
    record: record_lib.TraceRecord, rng: np.random.Generator) -> Events | None:
  """As `solution_only`, with the question's numbers in a random order."""
  answer = solution(record)
  if answer is None:
    return None
  numbers, separator, target = record.problem.question.partition('>')
  order = rng.permutation(numbers.split(','))
  return events_lib.Start(','.join(order) + separator + target), answer


def failures(
    record: record_lib.TraceRecord, rng: np.random.Generator, limit: int
) -> Attempts:
  """Dead ends of the search as wrong solutions (arXiv 2501.04682, Eq. 4-7).

  Their number is uniform in 0..limit, but at most the dead ends that the search
  met: where it had to look longer, more attempts come before the right one. No
  two are the same; their order is random.

  Args:
    record: of a Countdown problem.
    rng: drawn from twice.
    limit: at least 0.
  """
  count = rng.integers(limit + 1)
  target = operations.question(record.problem.question)[1]
  ends = [
      i for i, node in enumerate(record.nodes)
      if node.is_terminal and not node.is_correct]
  found = {}  # answer -> None, in the order drawn
  for end in rng.permutation(ends).tolist():
    if len(found) == count:
      break
    # A model's search may also end in what is no operation, or not be true.
    numbers = operations.numbers(record.nodes[end].state)
    if numbers is not None and len(numbers) == 1 and numbers[0] != target:
      found[_answer(record, from_tree.path(record.nodes, end))] = None
  return tuple(
      (events_lib.Start(record.problem.question), answer) for answer in found)


def solution(record: record_lib.TraceRecord) -> events_lib.Answer | None:
  """The answer that `linearize` ends with, without replaying the search."""
  return _answer(record, record.solution) if record.solution else None


def _answer(record, path) -> events_lib.Answer:
  return events_lib.Answer(
      '\n'.join(record.nodes[i].step for i in path[1:]))


def reference(arm: str, record: record_lib.TraceRecord) -> Events | None:
  """What arm `arm` should answer to the record's question as it stands.

  One text; what an arm of several attempts should write at once.

  Raises:
    ValueError: no such arm.
  """
  if arm not in ARMS:
    raise ValueError(f'{arm=}: must be one of {", ".join(ARMS)}.')
  write = traces if arm == 'traces' else solution_only
  return write(record, np.random.default_rng(0))


ARMS: Mapping[str, Arm] = types.MappingProxyType({
    'traces': Arm(traces, is_random=False),
    'solution_only': Arm(solution_only, is_random=False),
    'solution_only_permuted': Arm(solution_only_permuted, is_random=True),
    'revisions': Arm(
        solution_only, is_random=True, earlier=failures, styles=('compact',)),
    'revisions_kept': Arm(
        solution_only, is_random=True, earlier=failures, is_kept=True,
        styles=('compact',)),
})
