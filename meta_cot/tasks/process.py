# SPDX-License-Identifier: Apache-2.0
"""Calls into a task's code in a process of its own, with limits.

Nothing stops a call in Python that hangs or takes all memory, but a process can
be ended: the one here ends itself when a call lasts too long.
"""

from collections.abc import Callable
import multiprocessing
from multiprocessing import connection
import resource
import signal
import subprocess
import sys
import threading
from typing import Any

from meta_cot.tasks import faults

SECONDS = 10  # of a call
NUM_BYTES = 4 * 2**30  # of data
_NO_MEMORY = 77  # exit code


class Lost(Exception):
  """A call came to no end: its process has ended before."""


class Process:
  """Calls `answer(*args)` in another process, started by the first call.

  One call at a time; whoever calls meanwhile waits.
  """

  def __init__(self, answer: Callable[..., Any], file: str):
    """Makes one; `answer`, arguments and results are picklable."""
    self._answer, self._file = answer, file
    self._lock = threading.Lock()
    self._child = self._pipe = None

  def __call__(self, *args: Any) -> tuple[Any, str]:
    """Returns the result, and the words of what was raised in its place.

    Raises:
      Lost: no result within the limits.
    """
    with self._lock:
      try:
        if self._child is None:
          self._start()
        self._pipe.send(args)
        return self._pipe.recv()
      except (EOFError, ConnectionError):
        raise Lost(self._end()) from None

  def _start(self) -> None:
    self._pipe, theirs = multiprocessing.Pipe()
    # In a session of its own: a signal to the run does not end a call.
    self._child = subprocess.Popen(
        [sys.executable, '-c',
         f'import sys; sys.path[:] = {sys.path!r}\n'
         'from meta_cot.tasks import process\n'
         f'process.serve({theirs.fileno()})'],
        stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
        start_new_session=True)
    theirs.close()
    self._pipe.send((self._answer, self._file, SECONDS))

  def _end(self) -> str:
    """Forgets the process; returns why it has ended."""
    code = self._child.wait()
    self._pipe.close()
    self._child = None
    return {
        -signal.SIGALRM: f'no end within {SECONDS} seconds',
        _NO_MEMORY: f'more than {NUM_BYTES >> 30} GiB of memory',
    }.get(code, f'its process ended with code {code}')


def serve(handle: int) -> None:
  """Answers calls from a pipe until its other end is closed."""
  pipe = connection.Connection(handle)
  answer, file, seconds = pipe.recv()
  resource.setrlimit(resource.RLIMIT_DATA, (NUM_BYTES, NUM_BYTES))
  while True:
    try:
      args = pipe.recv()
    except EOFError:
      return
    result, caught = None, faults.Caught(file)
    # The signal ends this process, whatever the task's code is doing.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with caught:
      result = answer(*args)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if isinstance(caught.error, MemoryError):
      raise SystemExit(_NO_MEMORY)
    pipe.send((result, caught.words))
