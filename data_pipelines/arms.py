# SPDX-License-Identifier: Apache-2.0
"""Arms of an experiment: what of a search the model is trained to write."""

from collections.abc import Callable, Mapping
import dataclasses
import types

import numpy as np

from meta_cot.traces import events as events_lib
from meta_cot.traces import record as record_lib

Events = tuple[events_lib.Event, ...]


@dataclasses.dataclass(frozen=True)
class Arm:
  """Turns a record into the events of one training sequence.

  Called as `arm(record, rng)`; None for a record that has no such sequence.
  `is_random` says whether it uses `rng`; if not, its sequences are tokenised
  once and kept.
  """

  function: Callable[
      [record_lib.TraceRecord, np.random.Generator], Events | None]
  is_random: bool

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator
  ) -> Events | None:
    return self.function(record, rng)


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


def solution(record: record_lib.TraceRecord) -> events_lib.Answer | None:
  """The answer that `linearize` ends with, without replaying the search."""
  if not record.solution:
    return None
  return events_lib.Answer(
      '\n'.join(record.nodes[i].step for i in record.solution[1:]))


def reference(arm: str, record: record_lib.TraceRecord) -> Events | None:
  """What arm `arm` should answer to the record's question as it stands.

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
})
