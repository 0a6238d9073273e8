# SPDX-License-Identifier: Apache-2.0
"""What is shown of work in progress, on real terminals and elsewhere."""

import fcntl
import io
import logging
import os
import pty
import re
import struct
import termios
import threading
import time

import pytest

from meta_cot.runtime import status


@pytest.fixture
def clock(monkeypatch):
  """Seconds that pass when the test says so."""
  now = [1000.0]
  monkeypatch.setattr(status.time, 'monotonic', lambda: now[0])
  return now


def _work(shown, clock, number=10_000, seconds=100.0):
  for i in range(1, number + 1):
    clock[0] += seconds / number
    shown.update(i, f'loss {i / 7:.4f}' if i % 10 == 0 else None)
  shown.close()


def test_plain_lines_are_few(clock, caplog):
  caplog.set_level(logging.INFO)
  _work(status.Status('sft', 10_000, 'step', stream=io.StringIO()), clock)
  assert len(caplog.messages) == 6
  assert caplog.messages[0] == 'sft step 10/10000  loss 1.4286  1:40 left'
  assert caplog.messages[-1] == 'sft step 10000/10000  loss 1428.5714'
  caplog.clear()
  # However much there is to do in a second.
  _work(status.Status('sft', 10_000, 'step', stream=io.StringIO()), clock,
        seconds=1.0)
  assert len(caplog.messages) == 2


class _Terminal:
  """A terminal of so many columns, and what has been written to it."""

  def __init__(self, columns):
    self._master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ,
                struct.pack('HHHH', 24, columns, 0, 0))
    self.stream, self._data = os.fdopen(slave, 'w'), bytearray()
    # A terminal holds some kilobytes, then whoever writes waits.
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self):
    while True:
      self._data += os.read(self._master, 1 << 16)

  def written(self):
    self.stream.flush()
    time.sleep(0.3)
    data, self._data = self._data, bytearray()
    return data.decode().replace('\r\n', '\n')


def _seen(written):
  """The lines as they end up."""
  return [line.rpartition(status._CLEAR)[2] for line in written.split('\n')]


@pytest.mark.parametrize('columns', [10, 40, 200])
def test_a_line_is_no_wider_than_the_terminal(columns, clock, caplog):
  caplog.set_level(logging.INFO)
  terminal = _Terminal(columns)
  shown = status.Status(
      'traces', 3000, 'step', first=1000, stream=terminal.stream)
  clock[0] += 100.0
  shown.update(1500, 'loss 0.5')
  states = terminal.written().split(status._CLEAR)
  assert states[1] == (
      'traces 1,500/3,000  5 step/s  5:00 left  loss 0.5')[:columns - 1]
  _work(shown, clock, 3000)
  written = terminal.written()
  states = re.split(f'\n|{re.escape(status._CLEAR)}', written)
  assert len(states) > 100 and max(map(len, states)) <= columns - 1
  # Ten times a second at most.
  assert len(states) < 100 / status._REDRAW + 10
  last, rest = _seen(written)
  assert last.startswith('traces 3,000/3,000'[:columns - 1]) and not rest
  assert not caplog.messages


def test_what_is_logged_stands_above_the_line(clock):
  terminal = _Terminal(60)
  handler = status.Handler(terminal.stream)
  shown = status.Status('rl', 4, 'iteration', stream=terminal.stream)
  clock[0] += 1.0
  shown.update(1, 'success 0.5')
  for number in range(3):
    handler.emit(logging.LogRecord(
        'x', logging.INFO, '', 0, f'line {number}', (), None))
  assert _seen(terminal.written()) == [
      'line 0', 'line 1', 'line 2',
      'rl 1/4  1 iteration/s  0:03 left  success 0.5']
  shown.close()
  handler.emit(logging.LogRecord('x', logging.INFO, '', 0, 'end', (), None))
  assert _seen(terminal.written())[-2:] == ['end', '']
