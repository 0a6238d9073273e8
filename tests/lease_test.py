# SPDX-License-Identifier: Apache-2.0
"""Leases between real processes, and the check before anything is written."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

from etils import epath
import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot.runtime import files
from meta_cot.runtime import lease
from meta_cot.settings import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
HOLD = '''
import sys, time
from meta_cot.settings import command_line
from meta_cot.runtime import lease
lease.HEARTBEAT_SECONDS = 0.05
with command_line.one_line_errors(), lease.hold(sys.argv[1]):
  print('holding', flush=True)
  time.sleep(float(sys.argv[2]))
'''
ELSEWHERE = dict(host='far', machine='another boot')


@contextlib.contextmanager
def _process(source: str, *args):
  process = subprocess.Popen(
      [sys.executable, '-c', source, *map(str, args)], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  try:
    yield process
  finally:
    process.kill()
    process.communicate()


def _holding(workdir, seconds=60):
  return _process(HOLD, workdir, seconds)


def _wait_for(process, line='holding\n'):
  assert process.stdout.readline() == line, process.stderr.read()


def _write(workdir, **changes) -> lease.Holder:
  """Leaves the lease of somebody else."""
  other = dataclasses.replace(lease.myself(), token='other', **changes)
  (workdir / lease.NAME).write_text(json.dumps(dataclasses.asdict(other)))
  return other


@pytest.fixture
def quick(monkeypatch):
  """Heartbeats of 0.1 s; silent after 0.5 s."""
  monkeypatch.setattr(lease, 'HEARTBEAT_SECONDS', 0.1)
  monkeypatch.setattr(lease, 'STALE_SECONDS', 0.5)
  monkeypatch.setattr(lease, '_SETTLE_SECONDS', 0.1)


def test_a_second_run_is_refused_and_told_by_whom(tmp_path):
  with _holding(tmp_path) as first:
    _wait_for(first)
    with _holding(tmp_path) as second:
      _, errors = second.communicate(timeout=30)
      assert second.returncode == 2
  assert re.fullmatch(
      rf'error: {tmp_path}/lease.json: this workdir is in use by process '
      rf'{first.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \(.*\); '
      r'wait for it, stop it, or use another --workdir\.\n', errors)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_keeps_nothing(tmp_path, number):
  with _holding(tmp_path) as first:
    _wait_for(first)
    first.send_signal(number)
    first.wait()
    began = time.monotonic()
    with lease.hold(tmp_path):
      assert time.monotonic() - began < 1
  assert os.listdir(tmp_path) == []


def test_a_killed_holder_that_nobody_waited_for_keeps_nothing(tmp_path):
  with _holding(tmp_path) as first:
    _wait_for(first)
    os.kill(first.pid, signal.SIGKILL)
    while lease.is_dead(lease.Store(epath.Path(tmp_path)).read()) is False:
      time.sleep(0.01)
    with lease.hold(tmp_path):  # the first is a zombie now
      pass


def test_a_stopped_holder_still_holds(tmp_path):
  with _holding(tmp_path) as first:
    _wait_for(first)
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(config_lib.UserError, match=f'process {first.pid} '):
      with lease.hold(tmp_path):
        pass


def test_another_process_with_the_same_number_does_not_hold(tmp_path):
  _write(tmp_path, start=1)  # this process's number, another start
  with lease.hold(tmp_path):
    pass


def test_nothing_is_left_after_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError):
    with lease.hold(tmp_path):
      assert os.listdir(tmp_path) == ['lease.json']
      raise ZeroDivisionError
  assert os.listdir(tmp_path) == []


def test_a_process_cannot_hold_twice(tmp_path):
  with lease.hold(tmp_path):
    with pytest.raises(config_lib.UserError, match=f'process {os.getpid()} '):
      with lease.hold(tmp_path):
        pass
  with lease.hold(tmp_path):
    pass


def test_one_of_many_wins(tmp_path):
  """All start at once, over the lease of a dead holder."""
  _write(tmp_path, start=1)
  with contextlib.ExitStack() as stack:
    processes = [stack.enter_context(_holding(tmp_path)) for _ in range(6)]
    while sum(p.poll() is None for p in processes) > 1:
      time.sleep(0.05)
    winner, = [p for p in processes if p.poll() is None]
    _wait_for(winner)
    assert {p.returncode for p in processes if p is not winner} == {2}


@hypothesis.given(st.integers(0, 400))
@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_record_cut_off_by_a_kill_is_taken_over(tmp_path, length):
  whole = json.dumps(dataclasses.asdict(lease.myself()), indent=2)
  (tmp_path / 'lease.json').write_text(whole[:min(length, len(whole) - 1)])
  with lease.hold(tmp_path):
    pass
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('skew, shortest', [
    (0.0, 0.5), (-1000.0, 0.25), (1000.0, 0.5)])
def test_a_silent_holder_elsewhere_is_replaced(
    tmp_path, quick, skew, shortest):
  _write(tmp_path, heartbeat=time.time() + skew, **ELSEWHERE)
  began = time.time()
  with lease.hold(tmp_path):
    assert shortest <= time.time() - began < 5
    text = (tmp_path / 'lease.json').read_text()
    assert json.loads(text)['pid'] == os.getpid()


@pytest.mark.parametrize('skew', [0.0, -1000.0, 1000.0])
def test_a_holder_elsewhere_that_lives_is_respected(tmp_path, quick, skew):
  other = _write(tmp_path, heartbeat=time.time() + skew, **ELSEWHERE)
  store = lease.Store(epath.Path(tmp_path))
  done = threading.Event()

  def beat():
    while not done.wait(0.1):
      store.renew(dataclasses.replace(other, heartbeat=time.time() + skew))

  thread = threading.Thread(target=beat)
  thread.start()
  try:
    with pytest.raises(config_lib.UserError, match='on far since'):
      with lease.hold(tmp_path):
        pass
  finally:
    done.set()
    thread.join()


def test_who_loses_the_lease_ends_at_once(tmp_path):
  """As after a suspension in which a run elsewhere took over."""
  with _holding(tmp_path) as first:
    _wait_for(first)
    first.send_signal(signal.SIGSTOP)
    taken = _write(tmp_path, heartbeat=time.time(), pid=77, **ELSEWHERE)
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=30)
  assert first.returncode == lease.EXIT_LOST
  assert errors == (
      f'error: {tmp_path}/lease.json: the lease of this workdir is lost: '
      'process 77 on far took it; this run ends.\n')
  kept = lease.Store(epath.Path(tmp_path)).read()
  assert kept == taken


def test_a_removed_lease_is_noticed(tmp_path, quick, monkeypatch):
  lost = []
  monkeypatch.setattr(lease, '_end_process', lost.append)
  with lease.hold(tmp_path):
    os.unlink(tmp_path / 'lease.json')
    while not lost:
      time.sleep(0.01)
  assert lost == [
      f'{tmp_path}/lease.json: the lease of this workdir is lost: it is gone']


def test_a_forked_child_neither_keeps_nor_removes_the_lease(tmp_path):
  source = HOLD.replace("print('holding', flush=True)", '''
  import os
  if os.fork() == 0:
    os.setsid()
    time.sleep(1)
    print('child', flush=True)
    sys.exit()
  print('holding', flush=True)''')
  with _process(source, tmp_path, 60) as first:
    _wait_for(first)
    _wait_for(first, 'child\n')
    time.sleep(0.2)
    assert os.listdir(tmp_path) == ['lease.json']
  with lease.hold(tmp_path):
    pass


def test_a_bucket_has_a_lease_too(bucket, quick):
  """The same life of a lease, between holders that only see heartbeats."""
  workdir = files.path(f'{bucket}/lease-a')
  store = lease.Store(workdir)
  first, second = (
      dataclasses.replace(lease.myself(), token=t, **ELSEWHERE)
      for t in 'ab')
  assert store.take(first, replacing=None) is None
  assert store.take(second, replacing=None) == first
  later = dataclasses.replace(first, heartbeat=first.heartbeat + 1)
  assert store.renew(later) == later
  assert store.take(second, replacing=first) == later
  store.remove(second.token)
  assert store.read() == later
  assert store.take(second, replacing=later) is None
  assert store.renew(first) == second
  store.remove(second.token)
  assert store.read() is None


def test_a_bucket_refuses_a_second_run_and_forgets_a_dead_one(bucket, quick):
  workdir = files.path(f'{bucket}/lease-b')
  lease.check_writable(workdir)
  assert files.matching(workdir, '*') == []
  with lease.hold(workdir):
    with pytest.raises(config_lib.UserError, match=(
        f'^{workdir}/lease.json: this workdir is in use by process ')):
      with lease.hold(workdir):
        pass
  store = lease.Store(workdir)
  assert store.read() is None
  dead = dataclasses.replace(lease.myself(), token='dead', **ELSEWHERE)
  assert store.take(dead, replacing=None) is None
  with lease.hold(workdir):
    assert store.read().pid == os.getpid()
  assert files.matching(workdir, '*') == []


def test_writable_creates_the_folder_and_leaves_nothing_in_it(
    tmp_path, monkeypatch):
  lease.check_writable(tmp_path / 'a', 1)
  assert os.listdir(tmp_path / 'a') == []
  monkeypatch.chdir(tmp_path)
  lease.check_writable('b/c')
  assert os.listdir('b/c') == []


@pytest.mark.parametrize('workdir, num_bytes, expected', [
    ('{}/no/run', 0, '{}/no/run: there is no folder {}/no; create it, or'),
    ('{}/file', 0, r'{}/file cannot be written \(File exists\)'),
    ('{}/file/run', 0, '{}/file/run: there is no folder {}/file; create it'),
    ('/proc/run', 0, r'/proc/run cannot be written \(No such file'),
    ('{}', 1 << 60, r'{} has [\d.]+ GB free, this run needs about 11529215'),
])
def test_what_cannot_be_written_is_said_before(
    tmp_path, workdir, num_bytes, expected):
  (tmp_path / 'file').write_text('')
  expected = '^--workdir: ' + expected.replace('{}', str(tmp_path))
  with pytest.raises(config_lib.UserError, match=expected) as e:
    lease.check_writable(workdir.format(tmp_path), num_bytes)
  assert '\n' not in str(e.value)


def test_a_failing_write_is_said_before(tmp_path):
  """A limit on file sizes stands in for a full disk."""
  source = '''
import resource, sys
from meta_cot.settings import command_line
from meta_cot.runtime import lease
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with command_line.one_line_errors():
  lease.check_writable(sys.argv[1])
'''
  with _process(source, tmp_path) as process:
    _, errors = process.communicate(timeout=30)
  assert process.returncode == 2
  assert errors == (
      f'error: --workdir: {tmp_path} cannot be written (File too large); '
      'choose another, or mend it.\n')
  assert os.listdir(tmp_path) == []


def test_an_unwritable_bucket_is_said_before(bucket):
  del bucket  # there is another
  with pytest.raises(config_lib.UserError, match=(
      r'^--workdir: gs://no-such-bucket/run cannot be written \(.+\); ')):
    lease.check_writable('gs://no-such-bucket/run')
