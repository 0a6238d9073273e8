# SPDX-License-Identifier: Apache-2.0
"""What all readers of texts are: a place in a text, and what it has told."""

import re
from typing import ClassVar

from meta_cot.traces import events as events_lib


def unread(text: str, expected: str, claim: str) -> events_lib.Reading:
  """A text without a prompt: one fault.

  `claim` is what a text has that claims a solution.
  """
  fault = events_lib.Fault('format', 0, expected)
  return events_lib.Reading((), (fault,), '' if claim in text else None)


class Reader:
  """Reads text into events and faults: a search, then its solution.

  What cannot be read is one fault; after it, only the solution is. For `read` a
  style has, besides what is declared here,

    _read_event() -> bool      reads what stands here; False: it cannot, or the
                               search is over
    _expected() -> str         what should stand here
    _solution_faults(steps)    index and kind of what is wrong with a solution
  """

  OPENING: ClassVar[str]  # of a solution
  STEP_END: ClassVar[str]  # between its steps
  SOLUTION: ClassVar[re.Pattern]  # the whole of it
  RIGHT: ClassVar[str] = 'a right solution'
  UNFINISHED: ClassVar[re.Pattern]  # what a cut text may end with
  is_open = False  # something must follow

  def __init__(self, question: str, text: str, at: int):
    self.events = [events_lib.Start(question)]
    self.here = 0
    self._faults = []
    self._text = text
    self._at = at

  def fault(
      self, kind: str, position: int, expected: str, is_grammar: bool = True
  ) -> None:
    """Notes what is wrong; see `events.Fault`."""
    self._faults.append(
        events_lib.Fault(kind, position, expected, is_grammar))

  def jump(self, node: int) -> None:
    """Goes on at `node`."""
    self.events.append(events_lib.Jump(node))
    self.here = node

  def reading(self, answer: str | None) -> events_lib.Reading:
    """What was read."""
    return events_lib.Reading(tuple(self.events), tuple(self._faults), answer)

  def read(self) -> events_lib.Reading:
    """Reads all of the text."""
    while self._read_event():
      pass
    start = self._text.find(self.OPENING, self._at)
    if self.is_open or self._at not in (start, len(self._text)):
      self._fault_rest(self._at, self._expected(), is_cut=start < 0)
    return self.reading(self._read_solution(start) if start >= 0 else None)

  def _read_solution(self, start: int) -> str:
    """The answer; '' where it cannot be read, or more stands behind it."""
    steps, end, expected = self._steps(start)
    if end < len(self._text):
      self._fault_rest(end, expected)
      return ''
    places, texts = zip(*steps)
    for i, kind in self._solution_faults(texts):
      self.fault(kind, places[i], self.RIGHT, is_grammar=False)
    answer = '\n'.join(texts)
    self.events.append(events_lib.Answer(answer))
    return answer

  def _steps(self, start: int) -> tuple[list[tuple[int, str]], int, str]:
    """(place, text) of all steps, where they end, what should stand there."""
    match = self.SOLUTION.match(self._text, start)
    if match is None:
      return [], start, f'{self.OPENING} and the solution'
    steps, at = [], start + len(self.OPENING)
    for step in match[0].removeprefix(self.OPENING).split(self.STEP_END):
      steps.append((at, step))
      at += len(step) + len(self.STEP_END)
    return steps, match.end(), 'the end of the text'

  def _fault_rest(self, at: int, expected: str, is_cut: bool = True) -> None:
    """Notes that the text from `at` on is not read, or not whole."""
    is_cut = is_cut and self.UNFINISHED.fullmatch(self._text, at)
    self.fault('unfinished' if is_cut else 'format', at, expected)
