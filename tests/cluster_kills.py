# SPDX-License-Identifier: Apache-2.0
"""Kills ranks of a job of several processes, as tests/kills.py kills one.

The job runs under launch/local_cluster.sh, directly or as the pods of a JobSet;
the next start is that of all ranks, as a JobSet's failure policy makes it.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import signal
import time

from tests import kills
from tests import local_cluster as cluster
from tests import small_run

STAGES = ('problems', 'traces', 'tokenizer', 'sft', 'evaluate', 'rl')
ARM = 'revisions'
SECONDS = 100  # from a signal to the end of all ranks, also on a busy machine
_SETTINGS = (
    f'--stages={",".join(STAGES)}', f'--config.sft.arms={ARM}',
    '--config.evaluate.reference=None', '--config.sft.data.num_streams=2',
    *small_run.RL, '--config.rl.objectives=erl2',
    f'--config.rl.start=sft/{ARM}', '--config.evaluate.solvers=greedy',
    '--config.evaluate.samples.max_new_tokens=24')
_SIGNALS = (
    (signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGKILL,), (signal.SIGSTOP,))
_FINAL = re.compile(r'\[pod\] ended with code (2|76) ')  # fail a JobSet


def command(workdir: os.PathLike | str, *more: str) -> list[str]:
  """Trains, evaluates and does reinforcement learning, on two processes."""
  return small_run.command(
      workdir, *_SETTINGS, *more, config='configs/erl2.py:tiny')


def moments(counts: Mapping[str, int], seed: int) -> list[kills.Moment]:
  """So many of each stage, in order, repeatable by `seed`."""
  # What process 0 does while another one is stopped may end the stage before:
  # one begins when it says so.
  rng, found = random.Random(seed), [
      dataclasses.replace(m, pattern=f'begun/{m.stage}.json')
      if m.pattern.startswith('done/') else m
      for m in kills.moments((ARM,), num_rows=6)]
  chosen = {
      m for stage, count in counts.items()
      for m in rng.sample([m for m in found if m.stage == stage], count)}
  return [m for m in found if m in chosen]


@dataclasses.dataclass(frozen=True)
class RankKill(kills.Kill):
  """One planned kill of one rank."""

  rank: int

  @property
  def words(self) -> str:
    return f'{super().words} rank {self.rank}'


def plan(
    chosen: Sequence[kills.Moment], num_ranks: int, seed: int
) -> list[RankKill]:
  """Ranks, signals and delays for moments, repeatable by `seed`."""
  planned = kills.plan(chosen, seed, _SIGNALS)
  ranks = [i % num_ranks for i in range(len(planned))]
  random.Random(f'ranks {seed}').shuffle(ranks)
  return [
      RankKill(k.moment, k.signals, k.delay, k.pause, rank)
      for k, rank in zip(planned, ranks)]


def signal_rank(
    logs: pathlib.Path, rank: int, number: signal.Signals) -> None:
  """SIGTERM goes to a rank's first process, others to all of its processes."""
  pid = cluster.pid(logs, rank)
  with contextlib.suppress(ProcessLookupError):  # it has just ended
    (os.kill if number == signal.SIGTERM else os.killpg)(pid, number)


def as_pods(
    words: Sequence[str], hosts_per_slice: int
) -> tuple[list[str], dict[str, str]]:
  """Command and variables of a JobSet's pods that do what a command does."""
  python, *module = words[:3]
  assert module == ['-m', 'meta_cot.main']
  return ['bash', 'launch/tpu/pod.sh', *words[3:]], dict(
      META_COT_HOSTS_PER_SLICE=str(hosts_per_slice), META_COT_PYTHON=python)


class Job(kills.Run):
  """A small run of several processes, whose ranks may be killed."""

  def __init__(
      self, workdir: pathlib.Path, logs: pathlib.Path, num_ranks: int = 2,
      hosts_per_slice: int | None = None):
    """With `hosts_per_slice` the ranks are pods of a JobSet."""
    words, variables = command(workdir), {}
    if hosts_per_slice:
      words, variables = as_pods(words, hosts_per_slice)
    super().__init__(
        [cluster.LAUNCHER, str(num_ranks), '--', *words], workdir,
        cwd=cluster.ROOT, stages=STAGES, environment=cluster.environment(
            1, LOG_DIR=str(logs), **variables))
    self._logs, self._num_ranks = logs, num_ranks

  def _start(self, log):
    files = [self._logs / f'rank-{i}.pid' for i in range(self._num_ranks)]
    for path in files:
      path.unlink(missing_ok=True)
    process = super()._start(log)
    while not all(p.exists() and p.read_text() for p in files):
      assert process.poll() is None, process.returncode
      time.sleep(0.01)
    return process

  def _signal(self, process, kill, number):
    signal_rank(self._logs, kill.rank, number)

  def _end(self, process):
    while process.poll() is None:  # the second one ends all ranks at once
      process.terminate()
      time.sleep(0.5)

  def _check(self, hit, log, *, is_finished):
    """The rank that was hit is named, soon; a JobSet would start it again."""
    number, = hit.kill.signals
    allowed = {0} if is_finished else set()
    words = f'rank {hit.kill.rank} of {self._num_ranks} '
    if number == signal.SIGTERM:
      allowed.add(kills.EXIT_INTERRUPTED)
      words = ''  # all of them leave
      if hit.stage == 'startup' or is_finished:
        allowed.add(128 + number)
    else:
      allowed.add(128 + signal.SIGKILL)
      words += 'is stuck' if number == signal.SIGSTOP else (
          'failed (exit code 137, signal 9)')
    told = f'{hit}\n{log[-3000:]}'
    assert hit.code in allowed, f'no code of {sorted(allowed)}: {told}'
    assert hit.code == 0 or words in log, f'no "{words}": {told}'
    assert hit.ending < SECONDS, told
    assert not cluster.alive(self._logs, self._num_ranks)
    for path in self._logs.glob('rank-*.log'):
      assert not _FINAL.search(path.read_text()), path.read_text()[-3000:]
