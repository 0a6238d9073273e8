# SPDX-License-Identifier: Apache-2.0
"""Solutions as pretrained models write them: any text behind the question.

What follows the line of the question is the solution, a step a line; which part
of it is the final answer, the task's verifier says. Searches have no words
here: `prose` has.
"""

from collections.abc import Sequence

from meta_cot.traces import events as events_lib
from meta_cot.traces import reading as reading_lib

OPENING = ''
STEP_END = '\n'
EVENT_ENDS = ()


def spans(events: Sequence[events_lib.Event]) -> list[events_lib.Span]:
  """The text in pieces; see `format.spans`."""
  start, *rest = events
  result = [events_lib.Span(prompt(start.question), 'prompt', False)]
  if rest:
    if len(rest) > 1 or not isinstance(rest[0], events_lib.Answer):
      raise ValueError(
          f'event 1, {rest[0]!r}, cannot be written in free_text, which writes '
          'no searches.')
    result.append(events_lib.Span(rest[0].text, 'solution', True))
  return result


def prompt(question: str) -> str:
  """The text before the solution."""
  if '\n' in question:
    raise ValueError(
        f'question {question!r} cannot be written in free_text; it must be one '
        'line.')
  return f'{question}\n'


def read(text: str) -> events_lib.Reading:
  """Reads any text; see `format.read`."""
  question, mark, solution = text.partition('\n')
  if not mark:
    return reading_lib.unread(text, 'a question and a line feed', '\n')
  if not solution.strip():
    return events_lib.Reading((events_lib.Start(question),), (), None)
  return events_lib.Reading(
      (events_lib.Start(question), events_lib.Answer(solution)), (), solution)
