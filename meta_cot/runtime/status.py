# SPDX-License-Identifier: Apache-2.0
"""How far a stage is: one line that changes on a terminal, few lines elsewhere.

On a terminal the line is drawn anew, no wider than the terminal, and stands
below what is logged (`Handler`). Elsewhere (files, notebooks) a line is logged
at the first report, then at most every `SECONDS`, and at the end.
"""

import logging
import os
import sys
import time
from typing import TextIO

SECONDS = 20.0  # between two plain lines
_REDRAW = 0.1  # seconds between two states of the line
_CLEAR = '\r\x1b[K'

_shown: list['Status'] = []  # those whose line is on a terminal, oldest first


class Status:
  """Counts what is done of a whole, and shows it."""

  def __init__(
      self, name: str, total: int, unit: str, *, first: int = 0,
      stream: TextIO | None = None):
    """Shows nothing yet.

    Args:
      name: of the work.
      total: units of all of it.
      unit: such as 'step'.
      first: units that an earlier process did.
      stream: where the line stands; stderr by default.
    """
    self._name, self._total, self._unit = name, total, unit
    self._first = self._done = first
    self._stream, self._words = stream or sys.stderr, ''
    self._start = time.monotonic()
    self._drawn = self._logged = -float('inf')
    self._is_live = self._stream.isatty()
    if self._is_live:
      _shown.append(self)

  def update(self, done: int, words: str | None = None) -> None:
    """Says that `done` units are done; `words` are their last numbers.

    Without words nothing is logged; the line on a terminal moves on.
    """
    self._done, now = done, time.monotonic()
    self._words = self._words if words is None else words
    if self._is_live:
      if now - self._drawn >= _REDRAW or done == self._total:
        self._drawn = now
        self.draw()
    elif words is not None and (
        now - self._logged >= SECONDS or done == self._total):
      self._logged = now
      logging.info(
          '%s %s %d/%d  %s', self._name, self._unit, done, self._total,
          '  '.join(filter(None, (words, self._left()))))

  def close(self) -> None:
    """Leaves the line as it is, and goes below it."""
    if self._is_live:
      self._is_live = False
      self.draw()
      self._stream.write('\n')
      self._stream.flush()
      _shown.remove(self)

  def draw(self) -> None:
    """Draws the line in the place of what stands there."""
    rate = (self._done - self._first) / self._seconds()
    parts = (
        f'{self._name} {self._done:,}/{self._total:,}',
        f'{rate:.3g} {self._unit}/s', self._left(), self._words)
    line = '  '.join(filter(None, parts))
    self._stream.write(f'{_CLEAR}{line[:_width(self._stream) - 1]}')
    self._stream.flush()

  def clear(self) -> None:
    """Takes the line away until it is drawn again."""
    self._stream.write(_CLEAR)
    self._stream.flush()

  def _seconds(self) -> float:
    return max(time.monotonic() - self._start, 1e-9)

  def _left(self) -> str:
    """The time that the rest takes at the pace so far; '' if unknown."""
    done = self._done - self._first
    if not done or self._done >= self._total:
      return ''
    left = self._seconds() / done * (self._total - self._done)
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f'{hours}:{minutes:02}:{seconds:02}' if hours else (
        f'{minutes}:{seconds:02}')
    return f'{clock} left'


class Handler(logging.StreamHandler):
  """Logs above the line of a status."""

  def emit(self, record: logging.LogRecord) -> None:
    """Writes a line; the one of the status stands below it again."""
    for status in _shown[-1:]:
      status.clear()
    super().emit(record)
    for status in _shown[-1:]:
      status.draw()


def _width(stream: TextIO) -> int:
  """Columns of the terminal; 80 where it does not say."""
  try:
    return os.get_terminal_size(stream.fileno()).columns or 80
  except OSError:
    return 80
