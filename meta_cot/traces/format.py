# SPDX-License-Identifier: Apache-2.0
"""Events to text and back, in named styles.

A style is a module, or an object, with

  prompt(question) -> str       the text before the search
  spans(events) -> list[Span]   what `render` joins
  read(text) -> Reading         of any text, in time proportional to its length
  OPENING: str                  what begins a solution
  STEP_END: str                 what ends a step that is not the last one
  EVENT_ENDS: tuple[str, ...]   what ends an event, or some, of a search;
                                () where it writes no searches
"""

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from meta_cot.problem import Problem
from meta_cot.traces import arithmetic
from meta_cot.traces import events as events_lib
from meta_cot.traces import free_text
from meta_cot.traces import grid
from meta_cot.traces import prose
from meta_cot.traces import sudoku

STYLES = {
    **arithmetic.STYLES, **grid.STYLES, **sudoku.STYLES, 'prose': prose,
    'free_text': free_text}


def has_drafts(style: str) -> bool:
  """Says whether solutions of a style may be taken back in part."""
  return getattr(_module(style), 'has_drafts', False)


def has_threads(style: str) -> bool:
  """Says whether texts of a style may open child threads."""
  return getattr(_module(style), 'has_threads', False)


def spans(
    events: Sequence[events_lib.Event], style: str
) -> list[events_lib.Span]:
  """The text of `events` in pieces, the prompt first.

  Args:
    events: as of `linearize`, or only `Start` and `Answer`.
    style: a name of `STYLES`.

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


def read(text: str, style: str) -> events_lib.Reading:
  """Reads any text (prompt and continuation) as far as it can be read.

  Takes time in proportion to the length of the text.

  Raises:
    ValueError: no such style.
  """
  reading = _module(style).read(text)
  if any(fault.is_grammar for fault in reading.faults):
    return reading
  # Many texts could be read as the same events; only one of them is right.
  expected = render(reading.events, style)
  if expected == text:
    return reading
  at = len(os.path.commonprefix((expected, text)))
  fault = events_lib.Fault('format', at, repr(expected[at:at + 40]))
  return dataclasses.replace(reading, faults=(*reading.faults, fault))


def parse(text: str, style: str) -> tuple[events_lib.Event, ...]:
  """Reads a whole text written in `style`; inverse of `render`.

  The grammar is checked strictly, arithmetic is not.

  Raises:
    ValueError: no such style, or the text departs from it; one line with the
      position and what is expected there.
  """
  reading = read(text, style)
  for fault in reading.faults:
    if fault.is_grammar:
      at = fault.position
      raise ValueError(
          f'position {at} (line {text.count(chr(10), 0, at) + 1}): '
          f'{text[at:at + 40]!r} is not {fault.expected}.')
  return reading.events


def extract_answer(text: str, style: str) -> str | None:
  """Finds the solution that `text` (prompt and continuation) ends with.

  Returns:
    One step per line, to be judged by a verifier; None if the text claims
    none, or does not end with it as the grammar wants.

  Raises:
    ValueError: no such style.
  """
  return _module(style).read(text).answer or None


def find_answer(text: str, style: str) -> int:
  """Finds where the solution begins that a continuation ends with.

  Args:
    text: behind a prompt.
    style: a name of `STYLES`.

  Returns:
    The place of the last `OPENING`; 0 where there is none, or the style has no
    mark: then all of the text is the solution.

  Raises:
    ValueError: no such style.
  """
  opening = _module(style).OPENING
  return max(0, text.rfind(opening)) if opening else 0


def _module(style: str) -> Any:
  if style not in STYLES:
    raise ValueError(
        f'style {style!r} is unknown; the styles are '
        f'{", ".join(sorted(STYLES))}.')
  return STYLES[style]
