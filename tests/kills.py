# SPDX-License-Identifier: Apache-2.0
"""Runs a command again and again, killed at chosen moments, to its end.

A `Moment` is reached when a file that matches a pattern appears in the
workdir. Patterns name what is there for a few milliseconds as well (a file or
a step before its rename), so the workdir is looked at every two milliseconds.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import random
import signal
import subprocess
import tempfile
import time

STAGES = (
    'problems', 'traces', 'tokenizer', 'sft', 'evaluate', 'search', 'answers',
    'label', 'value', 'quality', 'words', 'sized', 'judged', 'figure', 'rl',
    'episodes')
EXIT_INTERRUPTED = 75
_POLL_SECONDS = 0.002
_DEADLINE_SECONDS = 600
_TEMPORARY_FILES = ('.*tmp*', '*/.*tmp*', '*/*/.*tmp*', '*/*/*/.*tmp*')
_TEMPORARY_STEPS = (
    '*/*/checkpoints/*tmp*', '*/*/interrupted/*tmp*',
    'rl/*/*/checkpoints/*tmp*', 'rl/*/*/interrupted/*tmp*',
    'rl/*/*/best/*tmp*')


@dataclasses.dataclass(frozen=True)
class Moment:
  """When to kill, in order of the pipeline."""

  stage: str
  name: str
  pattern: str  # of a path in the workdir, which appears or changes
  num_lines: int = 0  # at least so many in it
  latest: float = 0.0  # seconds; the kill waits up to so long, at random


# In the order in which an unbroken run meets them.
_BEFORE_ARMS = (
    Moment('problems', 'start', 'config.json', latest=0.3),
    Moment('problems', 'problem shard', 'problems/.*-00001-of-*.tmp-*'),
    Moment('problems', 'problem manifest', 'problems/.manifest.json.tmp-*'),
    Moment('traces', 'traces', 'done/problems.json', latest=0.1),
    Moment('traces', 'shard', 'traces/.*-00001-of-*.tmp-*'),
    Moment('traces', 'description', 'traces/.*.array_record.json'),
    Moment('traces', 'manifest', 'traces/.manifest.json.tmp-*'),
    Moment('traces', 'splits', 'traces/manifest.json', latest=0.1),
    Moment('tokenizer', 'start', 'done/traces.json', latest=0.1),
    Moment('tokenizer', 'model', 'tokenizer/*'),
    Moment('sft', 'start', 'done/tokenizer.json', latest=2.0),
)
_BEFORE_VALUE = (
    Moment('evaluate', 'start', 'done/sft.json', latest=1.0),
    Moment('evaluate', 'decoding', 'done/sft.json', latest=10.0),
    Moment('evaluate', 'rows', 'evaluate/rows/**/samples/*/*.jsonl'),
    Moment('evaluate', 'plots', 'evaluate/*.png'),
    Moment('evaluate', 'summary', 'evaluate/summary.json'),
    Moment('evaluate', 'report', 'evaluate/report.md'),
    Moment('search', 'start', 'done/evaluate.json', latest=1.0),
    Moment('search', 'searching', 'done/evaluate.json', latest=10.0),
    Moment('search', 'search rows', 'search/rows/**/*.jsonl'),
    Moment('search', 'search summary', 'search/summary.json'),
    Moment('search', 'search report', 'search/report.md'),
    Moment('answers', 'answers rows', 'answers/rows/**/*.jsonl'),
    Moment('answers', 'answers shard', 'answers/.*.tmp-*'),
    Moment('label', 'start', 'done/answers.json', latest=1.0),
    Moment('label', 'completing', 'done/answers.json', latest=6.0),
    Moment('label', 'in a piece', 'label/pieces/train/.*tmp*'),
    Moment('label', 'piece', 'label/pieces/train/*.records', latest=1.0),
    Moment('label', 'last piece', 'label/pieces/validation/*.records'),
    Moment('label', 'label shard', 'label/.*.tmp-*'),
    Moment('label', 'label summary', 'label/summary.json'),
    Moment('value', 'start', 'done/label.json', latest=2.0),
)
_BEFORE_WORDS = (
    Moment('quality', 'start', 'done/value.json', latest=1.0),
    Moment('quality', 'quality summary', 'quality/summary.json'),
    Moment('words', 'start', 'done/quality.json', latest=2.0),
)
_AFTER_WORDS = (
    Moment('sized', 'start', 'done/words.json', latest=1.0),
    Moment('sized', 'sizes', 'sized/sizes/**/*.jsonl', latest=4.0),
    Moment('judged', 'start', 'done/sized.json', latest=1.0),
    Moment('judged', 'judged rows', 'judged/rows/**/*.jsonl'),
    Moment('judged', 'judging', 'judged/rows/**/*.jsonl', latest=4.0),
    Moment('judged', 'judged summary', 'judged/summary.json'),
    Moment('figure', 'start', 'done/judged.json', latest=0.3),
    Moment('figure', 'picture', 'figure/figure.png'),
    Moment('rl', 'start', 'done/figure.json', latest=1.0),
    Moment('rl', 'first rollout', 'done/figure.json', latest=15.0),
    Moment('rl', 'in the best save', 'rl/*/*/best/*tmp*', latest=0.1),
    # An iteration takes about a tenth of a second: all of its parts are met.
    Moment('rl', 'iteration', 'rl/*/*/metrics.jsonl', num_lines=1, latest=0.2),
    Moment('rl', 'late iteration', 'rl/*/*/metrics.jsonl', num_lines=3,
           latest=0.1),
    Moment('rl', 'in an rl save', 'rl/*/*/checkpoints/*tmp*', latest=0.1),
    Moment('rl', 'rl hashed', 'rl/*/*/checkpoints/*tmp*/hashes.json'),
    Moment('rl', 'rl renamed', 'rl/*/*/checkpoints/[0-9]', latest=0.01),
    Moment('rl', 'policy', 'rl/*/*/summary.json', latest=3.0),
    Moment('episodes', 'start', 'done/rl.json', latest=1.0),
    Moment('episodes', 'episodes rows', 'episodes/rows/**/*.jsonl'),
    Moment('episodes', 'episodes report', 'episodes/report.md'),
)


def _training_moments(
    stage: str, arm: str, part: str, num_rows: int) -> tuple[Moment, ...]:
  """Moments of training one arm; saves fall between its rows."""
  run = f'{stage}/{arm}'
  save = f'{run}/checkpoints/*tmp*'
  step = f'{run}/checkpoints/[0-9]*[0-9]'
  return (
      Moment(stage, part + 'first row', f'{run}/metrics.jsonl', num_lines=1),
      Moment(stage, part + 'in a save', save, latest=0.1),
      Moment(stage, part + 'in files of a save', f'{save}/*', latest=0.05),
      Moment(stage, part + 'hashed', f'{save}/hashes.json'),
      Moment(stage, part + 'renamed', step, latest=0.01),
      Moment(stage, part + 'row', f'{run}/metrics.jsonl',
             num_lines=num_rows // 2),
      Moment(stage, part + 'late row', f'{run}/metrics.jsonl',
             num_lines=num_rows - 2),
      Moment(stage, part + 'summary', f'{run}/summary.json'),
  )


def moments(arms: Sequence[str], num_rows: int) -> tuple[Moment, ...]:
  """All moments of the pipeline, in order.

  Args:
    arms: the runs of stage sft, in order; the last one is that of the stages
      value and words.
    num_rows: rows of metrics that every run has at least.
  """
  per_arm = [m for arm in arms for m in _training_moments(
      'sft', arm, f'{arm}: ', num_rows)]
  of_value, of_words = (
      _training_moments(stage, arms[-1], f'{stage}: ', num_rows)
      for stage in ('value', 'words'))
  return (*_BEFORE_ARMS, *per_arm, *_BEFORE_VALUE, *of_value, *_BEFORE_WORDS,
          *of_words, *_AFTER_WORDS)


@dataclasses.dataclass(frozen=True)
class Kill:
  """One planned kill."""

  moment: Moment
  signals: tuple[signal.Signals, ...]
  delay: float  # seconds after the moment
  pause: float  # seconds between two signals

  @property
  def words(self) -> str:
    return '+'.join(s.name for s in self.signals)


_SIGNALS = (
    (signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGKILL,), (signal.SIGTERM,),
    (signal.SIGTERM, signal.SIGKILL))


def plan(
    chosen: Sequence[Moment], seed: int, signals: Sequence = _SIGNALS
) -> list[Kill]:
  """Signals and delays for moments, repeatable by `seed`."""
  rng = random.Random(seed)
  # Dealt, not drawn: every kind of signal comes up among a few kills.
  order = [i % len(signals) for i in range(len(chosen))]
  rng.shuffle(order)
  return [
      Kill(moment, signals[i], rng.uniform(0, moment.latest),
           rng.uniform(0, 0.2))
      for moment, i in zip(chosen, order)]


@dataclasses.dataclass(frozen=True)
class Hit:
  """What a kill met."""

  kill: Kill
  stage: str  # that was running, 'startup' before any
  is_in_save: bool  # a checkpoint was being written
  is_in_file: bool  # some file had its temporary name
  is_late: bool  # the moment had passed unseen; killed after its stage
  code: int
  seconds: float  # from start to end of the process
  ending: float  # of them, from the first signal


class Run:
  """A command on one workdir, which may be killed and continued."""

  def __init__(
      self, command: Sequence[str], workdir: pathlib.Path, *,
      cwd: pathlib.Path, environment: Mapping[str, str],
      stages: Sequence[str] = STAGES):
    self._command = list(command)
    self._workdir = workdir
    self._cwd = cwd
    self._environment = dict(environment)
    self._stages = stages  # that the command runs, in order

  def finish(self) -> str:
    """Runs the command to its end; its log.

    Raises:
      AssertionError: it ended with another code than 0.
    """
    with tempfile.TemporaryFile('w+') as log:
      code = self._start(log).wait(_DEADLINE_SECONDS)
      text = _text(log)
    assert code == 0, f'exit code {code}:\n{text[-3000:]}'
    return text

  def kill(self, kill: Kill) -> Hit | None:
    """Starts the command and kills it; None where it finished before.

    Raises:
      AssertionError: the command ended by itself, or the signal ended it with
        a code that it must not have.
    """
    with tempfile.TemporaryFile('w+') as log:
      before, old = self._seen(kill.moment), self._unfinished()
      started = time.monotonic()
      process = self._start(log)
      try:
        is_late = self._await(process, kill, before)
        if process.poll() is not None:
          assert process.returncode == 0, (
              f'waiting for {kill.moment}: exit code {process.returncode}\n'
              f'{_text(log)[-3000:]}')
          return None
        stage = self._stage(_text(log))
        killed = time.monotonic()
        new = self._send(process, kill) - old
        ended = time.monotonic()
      finally:
        self._end(process)
      text = _text(log)
    hit = Hit(
        kill, stage, any('/.' not in name for name in new),
        any('/.' in name for name in new), is_late,
        process.returncode, ended - started, ended - killed)
    self._check(hit, text, is_finished=self._stages[-1] in self._done())
    return hit

  def _start(self, log) -> subprocess.Popen:
    return subprocess.Popen(
        self._command, cwd=self._cwd, env=self._environment,
        stdout=subprocess.DEVNULL, stderr=log)

  def _send(self, process, kill: Kill) -> set[str]:
    """Sends the signals; what was unfinished when the first one came."""
    self._signal(process, kill, kill.signals[0])
    unfinished = self._unfinished()
    for number in kill.signals[1:]:
      time.sleep(kill.pause)
      self._signal(process, kill, number)
    process.wait(_DEADLINE_SECONDS)
    return unfinished

  def _signal(self, process, kill: Kill, number: signal.Signals) -> None:
    """Sends one signal."""
    del kill
    process.send_signal(number)

  def _end(self, process) -> None:
    """Leaves nothing behind, whatever happened."""
    process.kill()
    process.wait()

  def _check(self, hit: Hit, log: str, *, is_finished: bool) -> None:
    """A signal is answered by its code, whatever it meets."""
    sent, allowed = hit.kill.signals, set()
    if is_finished:
      allowed.add(0)
    if signal.SIGKILL in sent:
      allowed.add(-signal.SIGKILL)
    if signal.SIGTERM in sent:
      allowed.add(EXIT_INTERRUPTED)
      # Python dies by the signal while it still imports, or when it tidies up.
      if hit.stage == 'startup' or is_finished:
        allowed.add(-signal.SIGTERM)
    assert hit.code in allowed, (
        f'{hit}: exit code must be one of {sorted(allowed)}\n{log[-3000:]}')

  def _await(self, process, kill: Kill, before: set[tuple]) -> bool:
    """Waits for the moment; whether it came too late for it."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    if kill.moment.stage in self._done():
      time.sleep(20 * kill.pause)  # somewhere in the start, then
      return True
    while process.poll() is None:
      assert time.monotonic() < deadline, f'{kill.moment} never came'
      if self._seen(kill.moment) - before:
        time.sleep(kill.delay)
        return False
      if kill.moment.stage in self._done():
        return True
      time.sleep(_POLL_SECONDS)
    return False

  def _seen(self, moment: Moment) -> set[tuple]:
    """Files that match, so that one written again counts as another."""
    seen = set()
    for path in self._workdir.glob(moment.pattern):
      try:
        status = path.stat()
        if moment.num_lines and (
            path.read_bytes().count(b'\n') < moment.num_lines):
          continue
      except FileNotFoundError:  # renamed meanwhile
        continue
      # Of a folder the time would change with every file in it.
      changed = status.st_mtime_ns if path.is_file() else 0
      seen.add((path, status.st_ino, changed))
    return seen

  def _done(self) -> set[str]:
    return {s for s in self._stages
            if (self._workdir / 'done' / f'{s}.json').exists()}

  def _stage(self, text: str) -> str:
    """The stage at work: the first one that is not done, after it says so."""
    if 'stage ' not in text:
      return 'startup'
    done = self._done()
    return next((s for s in self._stages if s not in done), 'end')

  def _unfinished(self) -> set[str]:
    """Files and checkpoints under their temporary names."""
    return {
        path.relative_to(self._workdir).as_posix() for pattern in (
            *_TEMPORARY_FILES, *_TEMPORARY_STEPS)
        for path in self._workdir.glob(pattern)}


def _text(log) -> str:
  log.seek(0)
  return log.read()


def table(hits: Sequence[Hit]) -> str:
  """One line per kill."""
  rows = [('moment', 'signals', 'hit', 'in', 'code', 'seconds', 'ending')]
  for hit in hits:
    where = [
        word for word, is_so in (
            ('save', hit.is_in_save), ('file', hit.is_in_file),
            ('late', hit.is_late)) if is_so]
    rows.append((
        f'{hit.kill.moment.stage}/{hit.kill.moment.name}',
        hit.kill.words, hit.stage,
        ' '.join(where) or '-', str(hit.code), f'{hit.seconds:.1f}',
        f'{hit.ending:.1f}'))
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
      '  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
      for row in rows)
