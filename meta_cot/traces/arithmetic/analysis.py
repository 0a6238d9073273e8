# SPDX-License-Identifier: Apache-2.0
"""What went wrong in a model's text, and how it searched.

Unlike `format.parse`, which refuses a text at its first fault, `analyze` counts
the faults. It raises on no text and takes time in proportion to its length.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from meta_cot.problem import Problem
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces.arithmetic import operations
from meta_cot.verifiers import arithmetic

NO_ERROR = 'none'
ERROR_KINDS = (
    'arithmetic',  # a result that is not exact
    'illegal_state',  # numbers or nodes that are not there
    'format',  # text outside the grammar
    'unfinished',  # no end of sequence within the limit
    'wrong_answer',  # a hit claimed or overlooked against the target
    'no_answer',  # ended without claiming a solution
)


@dataclasses.dataclass(frozen=True)
class TraceAnalysis:
  """Counts over one text."""

  nodes: int  # steps tried in a search; the root is not counted
  # Moves that go back: to a node that is neither the present one (a depth-first
  # search states it again) nor a child of it.
  backtracks: int
  errors: Mapping[str, int]  # every one of ERROR_KINDS -> how often
  primary_error: str  # why it is not solved; 'none' if it is


def analyze(
    problem: Problem, text: str, style: str, is_finished: bool
) -> TraceAnalysis:
  """Counts nodes, backtracks and errors of a model's text.

  `errors` counts over the whole text; what the limit cut in half is no fault of
  its own. `primary_error` is about the outcome: 'unfinished' before all else;
  else the first fault of the claimed answer; else 'format' or 'no_answer' if
  there is none to judge.

  Args:
    text: prompt and continuation, without control tokens.
    style: a name of `format.STYLES`.
    is_finished: whether the model ended the text itself.

  Raises:
    ValueError: no such style, or a question not of the form 4,9,3>24.
  """
  numbers, target = operations.question(problem.question)
  reading = format_lib.read(text, style)
  errors, events = dict.fromkeys(ERROR_KINDS, 0), ()
  if text.startswith(format_lib.prompt(problem, style)):
    events = reading.events
    for fault in reading.faults:
      if fault.kind == 'unfinished':
        errors['format'] += is_finished
      elif fault.kind != 'line_feed':
        errors[fault.kind] += 1
  else:
    errors['format'] += 1
  if not is_finished:
    primary = 'unfinished'
  elif reading.answer:
    primary = _fault(reading.answer, numbers, target)
  else:
    primary = 'no_answer' if reading.answer is None else 'format'
  if primary in ('unfinished', 'no_answer'):
    errors[primary] += 1
  return TraceAnalysis(
      nodes=sum(isinstance(event, events_lib.Step) for event in events),
      backtracks=_count_backtracks(events), errors=errors,
      primary_error=primary)


def _count_backtracks(events: Sequence[events_lib.Event]) -> int:
  parents, here, count = {}, 0, 0
  for event in events:
    if isinstance(event, events_lib.Step):
      parents[event.node] = event.parent
    elif isinstance(event, events_lib.Jump):
      count += event.node != here and parents.get(event.node) != here
      here = event.node
  return count


def _fault(answer: str, numbers: Sequence[int], target: int) -> str:
  """The first fault of an answer; the verifier has the last word."""
  if arithmetic.check(answer, numbers, target).is_correct:
    return NO_ERROR
  faults = operations.faults(answer.split('\n'), numbers, target)
  return next((kind for _, kind in faults), 'format')
