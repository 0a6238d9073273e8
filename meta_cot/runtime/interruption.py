# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, SIGINT, SIGHUP: save, leave with a code of its own, start again.

The first signal ends the process with exit code 75. A training loop runs in
`deferred()`: it is told by `Stop` instead, finishes its step, saves, and then
leaves. The second signal ends the process at once, with 128 plus its number.
"""

import collections
from collections.abc import Iterator
import contextlib
import logging
import os
import signal

import jax

from meta_cot import sharding
from meta_cot.runtime import distributed

EXIT_INTERRUPTED = 75  # "try again": the same command continues
_LAG = 2  # steps between a process's vote and its count

_received = []  # signals, in order
_is_deferred = False


class Interrupted(SystemExit):
  """Ends the process with the code for "rerun the same command"."""

  def __init__(self):
    super().__init__(EXIT_INTERRUPTED)


def install() -> None:
  """Starts to handle the signals; call it after jax.distributed starts.

  SIGHUP comes of a lost connection; under nohup it stays ignored.
  """
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, _on_signal)


def _on_signal(number, _) -> None:
  if _received:
    os._exit(128 + number)
  _received.append(number)
  words = 'saving after this step' if _is_deferred else 'leaving'
  logging.warning(
      '%s: %s; the same command continues, a second signal ends at once',
      signal.Signals(number).name, words)
  if not _is_deferred:
    raise Interrupted


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Signals wait inside; the only process of a job acts on them at the end.

  Raises:
    Interrupted: a signal came.
  """
  global _is_deferred
  _is_deferred = True
  try:
    yield
  finally:
    _is_deferred = False
  if _received and jax.process_count() == 1:
    raise Interrupted


def check() -> None:
  """For places that all processes pass.

  Raises:
    Interrupted: one of them has received a signal.
  """
  if any(distributed.gather_objects(bool(_received))):
    raise Interrupted


class Stop:
  """Whether to stop: all processes of a job agree after the same step.

  With several processes each casts a vote per step. It is counted on the
  devices and read two steps later, so that no process waits for it.
  """

  def __init__(self, mesh: jax.sharding.Mesh):
    self._mesh = mesh
    self._votes = collections.deque()
    self._count = jax.jit(
        lambda votes: votes.sum(), out_shardings=sharding.replicated(mesh))

  def is_agreed(self) -> bool:
    """To be called once per step, by every process."""
    if jax.process_count() == 1:
      return bool(_received)
    vote = sharding.put_flag(bool(_received), self._mesh)
    self._votes.append(self._count(vote))
    if len(self._votes) <= _LAG:
      return False
    return int(self._votes.popleft()) > 0
