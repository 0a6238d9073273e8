# SPDX-License-Identifier: Apache-2.0
"""What the time of a run was spent on.

Kinds: `startup` (building, initialising), `compile`, `input` (waiting for
batches), `step`, `checkpoint`, `evaluation`, `restart` (starting again after
an interruption, restoring, and the steps that had to be done twice). Their sum
is the wall-clock time of all processes of the run, except what passed between
the last row of metrics and a kill. Goodput is the share of `step`.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import os
import pathlib
import time

from meta_cot.training import compilation

KINDS = ('startup', 'compile', 'input', 'step', 'checkpoint', 'evaluation',
         'restart')
_PREFIX = 'seconds/'
_IMPORTED = time.monotonic()


class Clock:
  """Gives every moment to one kind; compiling is taken out of the others."""

  def __init__(self):
    self._seconds = dict.fromkeys(KINDS, 0.0)
    self._kind = 'startup'
    self._since, self._compiled = time.monotonic(), compilation.seconds()

  def switch(self, kind: str) -> str:
    """From now on time goes to `kind`; returns the kind before."""
    since, self._since = self._since, time.monotonic()
    before, self._compiled = self._compiled, compilation.seconds()
    compiled = self._compiled - before
    self._seconds['compile'] += compiled
    self._seconds[self._kind] += max(self._since - since - compiled, 0.0)
    old, self._kind = self._kind, kind
    return old

  @contextlib.contextmanager
  def measure(self, kind: str) -> Iterator[None]:
    """Time inside goes to `kind`."""
    before = self.switch(kind)
    try:
      yield
    finally:
      self.switch(before)

  def continues(
      self, dropped: Iterable[Mapping[str, float]],
      pending: Mapping[str, float]) -> None:
    """This process takes up a run that was interrupted.

    Args:
      dropped: rows of metrics behind the restored step, to be done again.
      pending: the last lap of the process that was interrupted, if it saved.
    """
    self.switch(self._kind)
    starting = max(_process_age() - self._seconds['compile'], 0.0)
    self._seconds['restart'] += starting + sum(
        row[_PREFIX + kind] for row in dropped for kind in KINDS)
    self._seconds['startup'] = 0.0
    for kind in KINDS:
      self._seconds[kind] += pending.get(_PREFIX + kind, 0.0)

  def lap(self) -> dict[str, float]:
    """The columns `seconds/<kind>` since the last lap."""
    self.switch(self._kind)
    lap = {_PREFIX + kind: s for kind, s in self._seconds.items()}
    self._seconds = dict.fromkeys(KINDS, 0.0)
    return lap


def summarise(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
  """Seconds by kind over the rows of a run, their sum, and the goodput."""
  rows = list(rows)
  seconds = {
      kind: sum(row[_PREFIX + kind] for row in rows) for kind in KINDS}
  total = max(sum(seconds.values()), 1e-9)
  return dict(seconds, total=total, goodput=seconds['step'] / total)


def _process_age() -> float:
  """Seconds since this process was started (since the import, off Linux)."""
  stat = pathlib.Path('/proc/self/stat')
  if not stat.exists():
    return time.monotonic() - _IMPORTED
  ticks = int(stat.read_text().rpartition(')')[2].split()[19])
  started = ticks / os.sysconf('SC_CLK_TCK')  # seconds after boot
  return time.clock_gettime(time.CLOCK_BOOTTIME) - started
