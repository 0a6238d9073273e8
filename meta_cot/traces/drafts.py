# SPDX-License-Identifier: Apache-2.0
"""Solutions in which some of what is written is taken back.

  4,9,3>24:S9+4=13~9-3=6,6*4=24         `~` takes back the step before it
  4,9,3>24:S9-3=6,6+4=10^S9-3=6,6*4=24  `^` takes back all since the question
  4,9,3>24:S9-3=6,6+4=10?10xS9-3=6,6*4=24?24!

`?` begins a check, the state that was reached; `x` behind it takes back all,
`!` nothing. What is left is the answer, in the words of another style; searches
are written as there, without drafts.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import re
from typing import Any, ClassVar

from meta_cot.traces import events as events_lib

BACK, RESET, CHECK, WRONG, RIGHT = '~', '^', '?', 'x', '!'


@dataclasses.dataclass(frozen=True)
class Drafts:
  """The style, on top of another one with an OPENING; see `format`."""

  base: Any  # a style whose solutions have none of the marks
  has_drafts: ClassVar[bool] = True
  EVENT_ENDS: ClassVar[tuple[str, ...]] = ()

  @property
  def OPENING(self) -> str:
    """That of the other style."""
    return self.base.OPENING

  @property
  def STEP_END(self) -> str:
    """That of the other style."""
    return self.base.STEP_END

  def prompt(self, question: str) -> str:
    """The text before the solution."""
    return self.base.prompt(question)

  def spans(
      self, events: Sequence[events_lib.Event]) -> list[events_lib.Span]:
    """The text in pieces; what is taken back is of kind 'abandoned'."""
    spans = self.base.spans(events)
    draft = getattr(events[-1], 'draft', '') if len(events) == 2 else ''
    if not draft:
      return spans
    return [spans[0], *(
        events_lib.Span(text, kind, kind == 'solution')
        for text, kind in _pieces(draft, self.base))]

  def read(self, text: str) -> events_lib.Reading:
    """Reads any text as far as it can be read; see `format.read`."""
    start = text.find(self.OPENING)
    if start < 0:
      return self.base.read(text)
    draft = text[start:]
    kept = ''.join(
        piece for piece, kind in _pieces(draft, self.base)
        if kind == 'solution' and piece not in (BACK, RESET)
        and not piece.startswith(CHECK))
    reading = self.base.read(text[:start] + kept)
    if kept == draft:
      return reading
    return dataclasses.replace(reading, events=tuple(
        dataclasses.replace(event, draft=draft)
        if isinstance(event, events_lib.Answer) else event
        for event in reading.events))


def num_attempts(text: str) -> int:
  """Counts the beginnings of a solution, those that were taken back too."""
  return 1 + len(re.findall(
      rf'\{RESET}|\{CHECK}[^{WRONG}{RIGHT}]*{WRONG}', text))


def _pieces(draft: str, style: Any) -> Iterator[tuple[str, str]]:
  """Cuts a draft: (text, 'abandoned' or 'solution'); marks are of the latter.
  """
  marks = list(re.finditer(
      rf'\{BACK}|\{RESET}|\{CHECK}[^{WRONG}{RIGHT}]*[{WRONG}{RIGHT}]', draft))
  resets = [
      m.end() for m in marks if m[0] == RESET or m[0][-1] == WRONG]
  last, at = max(resets, default=0), 0
  for mark in marks:
    text = draft[at:mark.start()]
    if mark.end() <= last:
      yield text, 'abandoned'
    elif mark[0] == BACK:
      start = text.rfind(style.STEP_END) + len(style.STEP_END)
      if style.STEP_END not in text:
        start = len(style.OPENING) if at == last else 0
      yield text[:start], 'solution'
      yield text[start:], 'abandoned'
    else:
      yield text, 'solution'
    yield mark[0], 'solution'
    at = mark.end()
  yield draft[at:], 'solution'
