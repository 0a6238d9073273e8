# SPDX-License-Identifier: Apache-2.0
"""Calls into a task's code in a process of its own, with limits."""

from collections.abc import Callable
import functools
from typing import Any

from meta_cot.runtime import bounded
from meta_cot.tasks import faults

SECONDS = 10  # of a call
NUM_BYTES = 4 * 2**30  # of data


class Process(bounded.Process):
  """Calls `answer(*args)` in another process.

  A call returns the result, and the words of what was raised in its place.
  """

  def __init__(self, answer: Callable[..., Any], file: str):
    """Makes one; `answer`, arguments and results are picklable."""
    super().__init__(
        functools.partial(_catching, answer, file), seconds=SECONDS,
        num_bytes=NUM_BYTES)


def _catching(
    answer: Callable[..., Any], file: str) -> Callable[..., tuple[Any, str]]:
  """Makes the function of the process."""

  def call(*args):
    result, caught = None, faults.Caught(file)
    with caught:
      result = answer(*args)
    if isinstance(caught.error, MemoryError):
      raise caught.error
    return result, caught.words

  return call
