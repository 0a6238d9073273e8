# SPDX-License-Identifier: Apache-2.0
"""Bounded worker processes that are used again and again, from any thread."""

from collections.abc import Callable
import os
import queue
from typing import Any

from meta_cot.runtime import bounded

CallError = bounded.CallError
LimitError = bounded.LimitError


class Pool:
  """Calls a function in one of some processes, each started when it is needed.

  A call that meets a limit ends its process; another one takes its place.
  """

  def __init__(
      self, make: Callable[[], Callable[..., Any]], *, seconds: float,
      num_bytes: int, num_processes: int | None = None):
    """Makes a pool; see `bounded.Process`.

    Args:
      make: makes the function, in every process.
      seconds: that a call may take.
      num_bytes: of data that a process may have.
      num_processes: at most; by default one for every core, up to four.
    """
    number = num_processes or min(os.cpu_count() or 1, 4)
    # The one that was used last first: others need not start.
    self._idle = queue.LifoQueue()
    for _ in range(number):
      self._idle.put(bounded.Process(
          make, seconds=seconds, num_bytes=num_bytes))

  def __call__(self, *args: Any, seconds: float | None = None) -> Any:
    """Returns the result, see `bounded.Process`; waits for an idle process."""
    process = self._idle.get()
    try:
      return process(*args, seconds=seconds)
    finally:
      self._idle.put(process)
