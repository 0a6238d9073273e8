# SPDX-License-Identifier: Apache-2.0
"""The launcher of several processes: signals, failures, ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests import local_cluster as cluster

PROGRAM = """
import signal, sys, time
from meta_cot.runtime import distributed

def interrupt(number, frame):
  raise SystemExit(75)

distributed._PATIENCE_SECONDS = 1
with distributed.session(agreed_exit_codes=(75,)):
  signal.signal(signal.SIGTERM, interrupt)
  rank = distributed.process_index()
  assert distributed.gather_objects({'rank': rank}) == [
      {'rank': i} for i in range(distributed.num_processes())]
  if sys.argv[1] == 'late' and rank == 1:
    time.sleep(3)
  if sys.argv[1] == 'fail' and rank == 2:
    sys.exit('error: this rank has had enough')
  if sys.argv[1] == 'signal' and rank == 0:
    print('asleep', flush=True)
    time.sleep(100)
  distributed.wait('middle')
  print('after', time.time(), flush=True)
  if sys.argv[1] == 'late' and rank == 2:
    time.sleep(1)
"""


def _program(tmp_path, case):
  path = tmp_path / 'program.py'
  path.write_text(PROGRAM)
  return [sys.executable, str(path), case]


def test_processes_wait_for_one_another(tmp_path):
  code, _, err = cluster.run(
      3, _program(tmp_path, 'late'), tmp_path / 'logs',
      PYTHONPATH=str(cluster.ROOT))
  assert code == 0, err
  logs = [(tmp_path / 'logs' / f'rank-{i}.log').read_text() for i in range(3)]
  times = [float(log.partition('after ')[2].split()[0]) for log in logs]
  assert max(times) - min(times) < 2.5  # the late one is waited for
  assert 'middle: waiting for worker 1 of 3; read its log' in err


def test_the_code_of_a_failing_process_stands(tmp_path):
  code, _, err = cluster.run(
      3, _program(tmp_path, 'fail'), tmp_path / 'logs',
      PYTHONPATH=str(cluster.ROOT))
  assert code == 1
  assert 'rank 2 of 3 failed (exit code 1); its last lines:' in err
  assert '[2] error: this rank has had enough' in err


def test_a_signal_is_served_while_waiting(tmp_path):
  process = cluster.start(
      3, _program(tmp_path, 'signal'), tmp_path / 'logs',
      PYTHONPATH=str(cluster.ROOT))
  assert process.stdout.readline() == 'asleep\n'
  process.send_signal(signal.SIGTERM)
  started = time.monotonic()
  _, err = process.communicate(timeout=60)
  assert process.returncode == 75, err
  assert time.monotonic() - started < 30


def _bash(script):
  return ['bash', '-c', script]


def test_the_launcher_passes_variables_and_streams_rank_0(tmp_path):
  code, out, err = cluster.run(
      2, _bash('echo "$META_COT_DISTRIBUTED $META_COT_NUM_PROCESSES '
               '$META_COT_PROCESS_ID $JAX_PLATFORMS $JAX_NUM_CPU_DEVICES"; '
               'echo to stderr >&2'), tmp_path, num_devices=3)
  assert (code, out, err) == (0, '1 2 0 cpu 3\n', 'to stderr\n')
  log = (tmp_path / 'rank-1.log').read_text()
  assert log == '1 2 1 cpu 3\nto stderr\n'


def test_the_launcher_prints_the_last_lines_of_what_failed(tmp_path):
  started = time.monotonic()
  code, _, err = cluster.run(
      3, _bash('[[ $META_COT_PROCESS_ID == 1 ]] || exec sleep 60; '
               'seq 100; exit 7'), tmp_path)
  assert code == 7 and time.monotonic() - started < 10
  assert err.splitlines() == [
      'rank 1 of 3 failed (exit code 7); its last lines:',
      *[f'[1] {i}' for i in range(81, 101)], f'all logs: {tmp_path}']


def test_the_launcher_ends_what_does_not_want_to(tmp_path):
  code, _, err = cluster.run(
      2, _bash('trap "" TERM; sleep 60 & [[ $META_COT_PROCESS_ID == 0 ]] || '
               '{ sleep 0.2; kill -KILL $$; }; wait'),
      tmp_path, META_COT_GRACE='1')
  assert code == 137
  assert 'rank 1 of 2 failed (exit code 137, signal 9)' in err
  assert not cluster.alive(tmp_path, 2)


def test_the_launcher_passes_the_variables_of_a_jobset(tmp_path):
  """Those of the golden JobSet, but for what libtpu reads, and no others."""
  golden = cluster.ROOT / 'tests' / 'golden' / 'jobset_two_slices.yaml'
  jobset = yaml.safe_load(golden.read_text())
  job, = jobset['spec']['replicatedJobs']
  container, = job['template']['spec']['template']['spec']['containers']
  wanted = {variable['name'] for variable in container['env']}
  code, _, err = cluster.run(
      4, _bash('env | grep -E "^(META_COT|JOB_)" | sort'), tmp_path,
      META_COT_HOSTS_PER_SLICE='2')
  assert code == 0, err
  for rank in range(4):
    found = dict(line.split('=') for line in (
        tmp_path / f'rank-{rank}.log').read_text().splitlines())
    assert found['JOB_COMPLETION_INDEX'] == str(rank % 2)
    assert found['META_COT_SLICE'] == str(rank // 2)
    assert found.keys() - {'JOB_COMPLETION_INDEX'} == {
        name for name in wanted if name.startswith('META_COT')}


@pytest.mark.parametrize('rank, case', [(0, 'lost'), (1, 'lost'), (1, 'left')])
def test_the_launcher_names_a_rank_that_is_stopped(tmp_path, rank, case):
  """The others lose it and abort, as JAX makes them do, or have ended well."""
  end = 'sleep 0.5; kill -ABRT $$' if case == 'lost' else 'exit 0'
  code, _, err = cluster.run(
      3, _bash(f'[[ $META_COT_PROCESS_ID == {rank} ]] || {{ {end}; }}; '
               'echo here; kill -STOP $$'), tmp_path, META_COT_GRACE='1')
  assert code == 137
  assert err.splitlines() == [
      f'rank {rank} of 3 is stuck (stopped by a signal); its last lines:',
      f'[{rank}] here', f'all logs: {tmp_path}']
  assert not cluster.alive(tmp_path, 3)


def test_the_launcher_lets_a_rank_be_stopped_for_a_moment(tmp_path):
  process = cluster.start(
      2, _bash('sleep 2.5; exit 3'), tmp_path, META_COT_GRACE='1')
  while not (tmp_path / 'rank-1.pid').exists():
    time.sleep(0.05)
  for _ in range(2):
    os.kill(cluster.pid(tmp_path, 1), signal.SIGSTOP)
    time.sleep(0.7)
    os.kill(cluster.pid(tmp_path, 1), signal.SIGCONT)
    time.sleep(0.3)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 3, err


# A rank that needs some time to save; Bash may lose signals, Python does not.
SAVING = """
import signal, sys, time
def save(*_):
  time.sleep({pause})
  sys.exit(75)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
  signal.signal(number, save)
print('ready', flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize('signals, code', [
    ([signal.SIGTERM], 75), ([signal.SIGINT], 75), ([signal.SIGHUP], 75),
    ([signal.SIGTERM, signal.SIGTERM], 128 + signal.SIGTERM),
    ([signal.SIGTERM, signal.SIGINT], 128 + signal.SIGINT)])
def test_the_launcher_passes_the_first_signal_on(tmp_path, signals, code):
  pause = 1 if len(signals) == 1 else 60  # a second one must not come too late
  process = cluster.start(
      2, (sys.executable, '-c', SAVING.format(pause=pause)), tmp_path)
  assert process.stdout.readline() == 'ready\n'
  while 'ready' not in (tmp_path / 'rank-1.log').read_text():
    time.sleep(0.05)
  for number in signals:
    process.send_signal(number)
    time.sleep(0.4)
  _, err = process.communicate(timeout=60)
  assert process.returncode == code, err
  assert f'{signals[0].name} passed on to all processes' in err
  assert not cluster.alive(tmp_path, 2)


@pytest.mark.parametrize('arguments, words', [
    ((), "N: got ''"), (('0', '--', 'true'), "N: got '0'"),
    (('two', '--', 'true'), "N: got 'two'"),
    (('2', 'true'), "got 'true' after N; must be --"),
    (('2', '--'), 'no command after --')])
def test_wrong_arguments_of_the_launcher(arguments, words):
  done = subprocess.run(
      [cluster.LAUNCHER, *arguments], text=True, capture_output=True,
      check=False)
  assert done.returncode == 2
  error, usage = done.stderr.splitlines()
  assert words in error and usage.startswith('usage: ')
