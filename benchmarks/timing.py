# SPDX-License-Identifier: Apache-2.0
"""Fair timing on a noisy machine: contestants take turns, ratios pair by pair.

A round runs every contestant once, in the order of the list or, every other
round, backwards; so a machine that slows down slows all of them. The ratio of a
round compares two calls made within seconds of each other, and the median over
the rounds is what to quote. Contestants of the same process are Python calls;
a peer is a process of its own that waits on its standard input for its turn.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

import jax

from meta_cot.settings import config as config_lib

_PROJECT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one call took."""

  seconds: float  # of the clock
  cpu_seconds: float  # of all threads of the process together


@dataclasses.dataclass(frozen=True)
class Contestant:
  """Something to time."""

  name: str
  call: Callable[[], Cost]  # runs the workload once
  facts: dict[str, str | float]  # versions and the like, for its line


def of_function(name: str, run: Callable[[], None]) -> Contestant:
  """A contestant of this process; `run` returns when its result is there."""

  def call():
    start, cpu_start = time.perf_counter(), time.process_time()
    run()
    return Cost(time.perf_counter() - start, time.process_time() - cpu_start)

  return Contestant(name, call, dict(jax=jax.__version__))


@contextlib.contextmanager
def peer(
    name: str, python: str, settings: dict
) -> Iterator[Contestant]:
  """A peer in its own process, from the script `benchmarks/<name>_peer.py`.

  The script gets `settings` as JSON, compiles, prints its versions, and then
  answers every line on its input with the `Cost` of one call.

  Args:
    name: of the peer.
    python: interpreter of the environment that has it.
    settings: what to run.

  Raises:
    UserError: the interpreter is missing, or the peer stopped; its last words
      are above the error.
  """
  script = _PROJECT / 'benchmarks' / f'{name}_peer.py'
  try:
    process = subprocess.Popen(
        [python, str(script), json.dumps(settings)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True)
  except OSError as error:
    raise config_lib.UserError(
        f'{name}: cannot start {python!r}: {error.strerror}; name the '
        f'interpreter of an environment with it (--{name}-python=...).'
    ) from error

  def answer():
    line = process.stdout.readline()
    if not line:
      raise config_lib.UserError(
          f'{name}: benchmarks/{script.name} stopped with exit code '
          f'{process.wait()}; its messages are above.')
    return json.loads(line)

  def call():
    process.stdin.write('go\n')
    process.stdin.flush()
    return Cost(**answer())

  with process:
    try:
      yield Contestant(name, call, answer())
    finally:
      process.kill()


def measure(
    contestants: list[Contestant], repeats: int, *, is_warm: bool = False
) -> dict[str, list[Cost]]:
  """Costs of every contestant in every round; a round before is not counted.

  That one compiles and touches memory for the first time: its CPU seconds are
  `first_cpu_seconds` of a contestant's facts. With `is_warm` there is none: the
  contestants have seen to it.
  """
  costs = {c.name: [] for c in contestants}
  for i in range(is_warm, repeats + 1):
    for c in contestants if i % 2 else reversed(contestants):
      cost = c.call()
      if i:
        costs[c.name].append(cost)
      else:
        c.facts['first_cpu_seconds'] = cost.cpu_seconds
  return costs


def spread(values: list[float]) -> dict[str, float]:
  """Median, least and greatest."""
  return dict(
      median=statistics.median(values), min=min(values), max=max(values))


def report(
    contestants: list[Contestant],
    costs: dict[str, list[Cost]],
    *,
    tokens: int,
    facts: dict,
) -> Iterator[dict]:
  """The lines to print: one a contestant, then one a ratio of the first's.

  Args:
    contestants: the first is ours.
    costs: from `measure`.
    tokens: of one call.
    facts: about the workload and the machine, repeated in every line.
  """
  ours, *others = contestants
  for c in contestants:
    seconds = spread([cost.seconds for cost in costs[c.name]])
    yield facts | dict(
        contestant=c.name, repeats=len(costs[c.name]), seconds=seconds,
        cpu_seconds=spread([cost.cpu_seconds for cost in costs[c.name]]),
        tokens_per_second=tokens / seconds['median'], **c.facts)
  for c in others:
    pairs = list(zip(costs[ours.name], costs[c.name], strict=True))
    yield facts | dict(
        ratio_to=c.name,
        ratio=spread([b.seconds / a.seconds for a, b in pairs]),
        cpu_ratio=spread([b.cpu_seconds / a.cpu_seconds for a, b in pairs]))


def machine() -> dict:
  """Where and when this was measured."""
  device = jax.devices()[0]
  kind = _processor() if device.platform == 'cpu' else device.device_kind
  return dict(
      device=kind, platform=device.platform,
      cpus=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
      else os.cpu_count(),
      date=datetime.date.today().isoformat())


def _processor() -> str:
  """Name of this machine's processor."""
  listing = pathlib.Path('/proc/cpuinfo')
  names = listing.exists() and re.search(
      r'^model name\s*:\s*(.+)$', listing.read_text(), re.MULTILINE)
  return names.group(1) if names else platform.machine()


def check_allocator() -> None:
  """Warns where the memory settings of launch/environment.sh are not in force.

  XLA on a Linux CPU loses up to a third of a training step to page faults
  without them, whatever the program.
  """
  if (sys.platform == 'linux' and jax.default_backend() == 'cpu'
      and 'hugetlb=1' not in os.environ.get('GLIBC_TUNABLES', '')):
    print(
        'warning: GLIBC_TUNABLES is not set: training is measured up to a '
        'third too slow; run `source launch/environment.sh` first.',
        file=sys.stderr)
