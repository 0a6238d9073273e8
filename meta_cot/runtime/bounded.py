# SPDX-License-Identifier: Apache-2.0
"""Calls in a process of its own, with limits of time and memory.

Nothing stops a call in Python that hangs or takes all memory, but a process can
be ended: the one here ends itself when a call lasts too long, and the next call
starts another one.
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

_NO_MEMORY = 77  # exit code


class LimitError(Exception):
  """A call came to no end: its process has ended before."""


class CallError(Exception):
  """A call raised something; says what."""


class Process:
  """Calls a function in another process, started by the first call.

  One call at a time, from any thread; whoever calls meanwhile waits.
  """

  def __init__(
      self, make: Callable[[], Callable[..., Any]], *, seconds: float,
      num_bytes: int):
    """Makes one; all that goes to the process and back is picklable.

    Args:
      make: makes the function, in the process; takes the time it needs.
      seconds: that a call may take.
      num_bytes: of data that the process may have.
    """
    self._make, self._seconds, self._num_bytes = make, seconds, num_bytes
    self._lock = threading.Lock()
    self._child = self._pipe = None

  def __call__(self, *args: Any, seconds: float | None = None) -> Any:
    """Returns the result; `seconds` are those of this call.

    Raises:
      LimitError: no result within the limits.
      CallError: the call raised something.
    """
    seconds = self._seconds if seconds is None else seconds
    with self._lock:
      try:
        if self._child is None:
          self._start()
        self._pipe.send((seconds, args))
        is_returned, result = self._pipe.recv()
      except (EOFError, ConnectionError):
        raise LimitError(self._end(seconds)) from None
      if not is_returned:
        self._end(seconds)
        raise CallError(result)
    return result

  def _start(self) -> None:
    self._pipe, theirs = multiprocessing.Pipe()
    # In a session of its own: a signal to the run does not end a call.
    self._child = subprocess.Popen(
        [sys.executable, '-c',
         f'import sys; sys.path[:] = {sys.path!r}\n'
         'from meta_cot.runtime import bounded\n'
         f'bounded.serve({theirs.fileno()})'],
        stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
        start_new_session=True)
    theirs.close()
    self._pipe.send((self._make, self._num_bytes))

  def _end(self, seconds: float) -> str:
    """Forgets the process; returns why it has ended."""
    code = self._child.wait()
    self._pipe.close()
    self._child = None
    return {
        -signal.SIGALRM: f'no end within {seconds:g} seconds',
        _NO_MEMORY: f'more than {self._num_bytes / 2**30:g} GiB of memory',
    }.get(code, f'its process ended with code {code}')


def serve(handle: int) -> None:
  """Answers calls from a pipe until its other end is closed."""
  pipe = connection.Connection(handle)
  make, num_bytes = pipe.recv()
  function = make()
  # What is raised is told, and ends this process.
  sys.excepthook = lambda kind, error, _: pipe.send(
      (False, f'{kind.__name__}: {error}'[:200]))
  resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))
  while True:
    try:
      seconds, args = pipe.recv()
    except EOFError:
      return
    # The signal ends this process, whatever the function is doing.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
      result = function(*args)
    except MemoryError:
      raise SystemExit(_NO_MEMORY) from None
    signal.setitimer(signal.ITIMER_REAL, 0)
    pipe.send((True, result))
