# SPDX-License-Identifier: Apache-2.0
"""What went wrong in a model's text, and how it searched.

Unlike `format.parse`, which refuses a text at its first fault, `analyze` counts
the faults. It raises on no text and takes time in proportion to its length.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses

from meta_cot.problem import Problem
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib

NO_ERROR = 'none'
# What any style and task may say; a style adds kinds of `events.Fault`, a task
# of wrong answers.
FORMAT = 'format'  # text outside the grammar
UNFINISHED = 'unfinished'  # no end of sequence within the limit
WRONG_ANSWER = 'wrong_answer'
NO_ANSWER = 'no_answer'  # ended without claiming a solution


@dataclasses.dataclass(frozen=True)
class TraceAnalysis:
  """Counts over one text."""

  nodes: int  # steps tried in a search; the root is not counted
  # Moves that go back: to a node that is neither the present one (a depth-first
  # search states it again) nor a child of it.
  backtracks: int
  errors: Mapping[str, int]  # kinds that are there -> how often
  primary_error: str  # why it is not solved; 'none' if it is


def analyze(
    problem: Problem, text: str, style: str, is_finished: bool,
    answer_error: Callable[[str], str],
) -> TraceAnalysis:
  """Counts nodes, backtracks and errors of a model's text.

  `errors` counts over the whole text; what the limit cut in half is no fault of
  its own. `primary_error` is about the outcome: 'unfinished' before all else;
  else that of the claimed answer; else 'format' or 'no_answer' if there is none
  to judge.

  Args:
    text: prompt and continuation, without control tokens.
    style: a name of `format.STYLES`.
    is_finished: whether the model ended the text itself.
    answer_error: says what is wrong with an answer, 'none' of a right one.

  Raises:
    ValueError: no such style, or one that cannot express the question.
  """
  reading = format_lib.read(text, style)
  errors, events = collections.Counter(), ()
  if text.startswith(format_lib.prompt(problem, style)):
    events = reading.events
    for fault in reading.faults:
      if fault.kind == UNFINISHED:
        errors[FORMAT] += is_finished
      elif fault.kind != 'line_feed':
        errors[fault.kind] += 1
  else:
    errors[FORMAT] += 1
  if not is_finished:
    primary = UNFINISHED
  elif reading.answer:
    primary = answer_error(reading.answer)
  else:
    primary = NO_ANSWER if reading.answer is None else FORMAT
  if primary in (UNFINISHED, NO_ANSWER):
    errors[primary] += 1
  return TraceAnalysis(
      nodes=sum(isinstance(event, events_lib.Step) for event in events),
      backtracks=_count_backtracks(events), errors=dict(+errors),
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
