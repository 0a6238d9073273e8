# SPDX-License-Identifier: Apache-2.0
"""Events to text and back, in named styles."""

from collections.abc import Sequence
import types

from meta_cot.problem import Problem
from meta_cot.traces import events as events_lib
from meta_cot.traces.arithmetic import compact
from meta_cot.traces.arithmetic import stream_of_search

STYLES = {
    'compact': compact,
    'stream_of_search': stream_of_search,
}


def spans(
    events: Sequence[events_lib.Event], style: str
) -> list[events_lib.Span]:
  """The text of `events` in pieces, with what each piece tells.

  Args:
    events: as of `linearize`, or only `Start` and `Answer`.
    style: a name of `STYLES`.

  Returns:
    Spans in order; the first one is the prompt, the texts joined are
    `render(events, style)`.

  Raises:
    ValueError: no such style, or the style cannot express the events.
  """
  if not events or not isinstance(events[0], events_lib.Start):
    raise ValueError(
        f'the first event is {events[0] if events else None!r}; it must be '
        'Start.')
  return _module(style).spans(events)


def render(events: Sequence[events_lib.Event], style: str) -> str:
  """The text of `events`; arguments and errors as of `spans`."""
  return ''.join(span.text for span in spans(events, style))


def prompt(
    source: Problem | Sequence[events_lib.Event], style: str) -> str:
  """The beginning of the text, up to where the model goes on.

  Raises:
    ValueError: no such style, or it cannot express the question.
  """
  if isinstance(source, Problem):
    return _module(style).prompt(source.question)
  return spans(source[:1], style)[0].text


def parse(text: str, style: str) -> tuple[events_lib.Event, ...]:
  """Reads a whole text written in `style`; inverse of `render`.

  The grammar is checked strictly, arithmetic is not.

  Raises:
    ValueError: no such style, or the text departs from it; one line with the
      position and what is expected there.
  """
  events = _module(style).parse(text)
  # Many texts could be read as the same events; only one of them is right.
  expected = render(events, style)
  if expected != text:
    at = next((i for i, (a, b) in enumerate(zip(expected, text)) if a != b),
              min(len(expected), len(text)))
    raise ValueError(
        f'position {at} (line {text.count(chr(10), 0, at) + 1}): '
        f'{text[at:at + 40]!r} is not {expected[at:at + 40]!r}.')
  return events


def _module(style: str) -> types.ModuleType:
  if style not in STYLES:
    raise ValueError(
        f'style {style!r} is unknown; the styles are '
        f'{", ".join(sorted(STYLES))}.')
  return STYLES[style]
