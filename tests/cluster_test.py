# SPDX-License-Identifier: Apache-2.0
"""Several processes on this machine, as on a pod: same numbers, clear ends."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from meta_cot.evaluation import rows as rows_lib
from tests import small_run

ROOT = pathlib.Path(__file__).parents[1]
LAUNCHER = ROOT / 'launch' / 'local_cluster.sh'
ARM = 'solution_only'
SMALL = (
    '--config=configs/countdown.py:tiny', f'--config.sft.arms={ARM}',
    '--config.evaluate.reference=None', '--config.task.max_number=9',
    '--config.model.num_layers=1', '--config.model.embed_dim=32',
    '--config.model.mlp_dim=32',
    '--config.sft.data.num_streams=4', '--config.sft.num_tokens=18600',
    '--config.sft.log_every_steps=2', '--config.sft.eval_every_steps=10',
    '--config.sft.num_eval_batches=2', '--config.sft.save_every_steps=6',
    '--config.evaluate.num_problems=16',
    '--config.evaluate.num_curve_problems=8',
    '--config.evaluate.samples.batch_size=16',
    '--config.evaluate.samples.num_samples=2',
    '--config.evaluate.samples.max_new_tokens=24')


def _main(workdir, *more):
  return [
      sys.executable, '-m', 'meta_cot.main', f'--workdir={workdir}', *SMALL,
      *more]


def _environment(num_devices, **more):
  return os.environ | {
      'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(num_devices)} | more


def _run_alone(workdir, *more):
  """One process with four devices."""
  done = subprocess.run(
      _main(workdir, *more), cwd=ROOT, env=_environment(4), text=True,
      capture_output=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]


def _start(num_processes, command, logs, *, num_devices=1, **environment):
  """Starts the launcher; it is alone in its group, as in a terminal."""
  return subprocess.Popen(
      [LAUNCHER, str(num_processes), '--', *command], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
      # A command in the background of a script ignores it.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
      env=_environment(num_devices, LOG_DIR=str(logs), **environment))


def _run(num_processes, command, logs, **settings):
  process = _start(num_processes, command, logs, **settings)
  out, err = process.communicate()
  return process.returncode, out, err


def _rows(workdir):
  text = (workdir / 'sft' / ARM / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def _assert_same_training(workdir, expected):
  """Every number of every row but the times, within 1e-5."""
  found, wanted = _rows(workdir), _rows(expected)
  assert [row['step'] for row in found] == [row['step'] for row in wanted]
  for a, b in zip(found, wanted):
    for name in ('tokens', 'loss', 'accuracy', 'grad_norm', 'eval_loss'):
      if name in b:
        assert a[name] == pytest.approx(b[name], rel=1e-5), (name, b['step'])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The unbroken run of one process with four devices."""
  workdir = tmp_path_factory.mktemp('whole') / 'w'
  _run_alone(workdir)
  assert len(_rows(workdir)) > 8
  return workdir


def _ready_to_train(whole, workdir):
  """A workdir with the traces and the tokenizer of `whole`."""
  for name in ('problems', 'traces', 'tokenizer', 'done'):
    shutil.copytree(whole / name, workdir / name)
  shutil.copy(whole / 'config.json', workdir)
  (workdir / 'done' / 'sft.json').unlink()
  (workdir / 'done' / 'evaluate.json').unlink()
  return workdir


def test_four_processes_give_what_one_gives(whole, tmp_path):
  workdir = tmp_path / 'w'
  code, _, err = _run(4, _main(workdir), tmp_path / 'logs')
  assert code == 0, err[-3000:]
  for folder in ('traces', 'tokenizer'):
    files = sorted((whole / folder).iterdir())
    assert [p.name for p in files] == [
        p.name for p in sorted((workdir / folder).iterdir())]
    for path in files:
      assert path.read_bytes() == (workdir / folder / path.name).read_bytes()
  _assert_same_training(workdir, whole)
  assert _answers(whole / 'evaluate') == _answers(workdir / 'evaluate')
  summaries = [
      json.loads((w / 'evaluate' / 'summary.json').read_text())
      for w in (whole, workdir)]
  of_success = [
      [{k: v for k, v in entry.items() if k not in ('seconds', 'occupancy')}
       for entry in summary['success']] for summary in summaries]
  assert of_success[0] == of_success[1]
  assert (workdir / 'evaluate' / 'report.md').exists()
  assert not [p for p in workdir.rglob('*') if 'tmp' in p.name]
  log = (tmp_path / 'logs' / 'rank-0.log').read_text()
  assert '4 sequences of 256 tokens per step = 1 rows/device x 4 devices' in log


def _answers(directory):
  """All rows, without times and values, which rounding changes."""
  assert list(directory.glob('rows/**/*.jsonl'))
  return [
      {k: v for k, v in json.loads(line).items()
       if k not in ('seconds', 'occupancy', 'value')}
      for path in sorted(directory.glob('rows/**/*.jsonl'))
      for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_search_as_one(whole, tmp_path):
  more = (
      '--config=configs/search.py:tiny', '--stages=search',
      *small_run.SEARCH, '--config.search.solvers=greedy,samples,beam,mcts',
      '--config.search.search.num_simulations=6')
  alone, workdir = tmp_path / 'alone', tmp_path / 'w'
  for copy in (alone, workdir):
    shutil.copytree(whole, copy)
  _run_alone(alone, *more)
  code, _, err = _run(
      2, _main(workdir, *more), tmp_path / 'logs', num_devices=2)
  assert code == 0, err[-3000:]
  for name in ('beam', 'mcts'):
    found, wanted = (
        [record for folder in (w / 'search').glob(
            f'rows/**/{name}/heldout_numbers')
         for record in rows_lib.records(folder)]
        for w in (workdir, alone))
    assert len(found) == len(wanted) == 12
    for a, b in zip(found, wanted):
      assert a.problem == b.problem and a.solution == b.solution
      for x, y in zip(a.nodes, b.nodes, strict=True):
        bare = lambda n: dataclasses.replace(n, value=0.0, log_prob=0.0)
        assert bare(x) == bare(y)
        assert (x.value, x.log_prob) == pytest.approx(
            (y.value, y.log_prob), abs=1e-5)
  assert _answers(workdir / 'search') == _answers(alone / 'search')
  assert not [p for p in (workdir / 'search').rglob('*') if 'tmp' in p.name]


def _wait_for_rows(process, workdir, num_rows, *, checkpoint=None):
  """Also until the checkpoint of a step is safe: it is saved behind the rows.
  """
  folder = workdir / 'sft' / ARM
  metrics = folder / 'metrics.jsonl'
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline and process.poll() is None:
    if metrics.exists() and metrics.read_text().count('\n') >= num_rows and (
        checkpoint is None or (folder / 'checkpoints' / checkpoint).exists()):
      return
    time.sleep(0.02)
  raise AssertionError(f'no {num_rows} rows: {process.communicate()}')


def _pid(logs, rank):
  return int((logs / f'rank-{rank}.pid').read_text())


def _is_alive(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
  except (FileNotFoundError, ProcessLookupError):
    return False


def test_a_killed_process_ends_the_job_and_a_rerun_continues(whole, tmp_path):
  workdir = _ready_to_train(whole, tmp_path / 'w')
  logs = tmp_path / 'logs'
  command = _main(workdir, '--stages=sft')
  process = _start(2, command, logs, num_devices=2)
  _wait_for_rows(process, workdir, 4, checkpoint='6')
  last_line = (logs / 'rank-1.log').read_text().splitlines()[-1]
  started = time.monotonic()
  os.kill(_pid(logs, 1), signal.SIGKILL)
  _, err = process.communicate(timeout=60)
  assert time.monotonic() - started < 30
  assert process.returncode == 137
  assert 'rank 1 of 2 failed (exit code 137, signal 9)' in err
  assert f'[1] {last_line}' in err
  assert not any(_is_alive(_pid(logs, rank)) for rank in range(2))
  assert not (workdir / 'done' / 'sft.json').exists(), 'killed too late to tell'

  saved = (workdir / 'sft' / ARM / 'checkpoints').iterdir()
  newest = max(int(path.name) for path in saved if path.name.isdigit())
  code, _, err = _run(2, command, logs, num_devices=2)
  assert code == 0, err[-3000:]
  assert f'{ARM}: continues after step {newest} of ' in err
  _assert_same_training(workdir, whole)


def test_sigterm_saves_and_another_number_of_processes_continues(
    whole, tmp_path):
  workdir = _ready_to_train(whole, tmp_path / 'w')
  process = _start(
      2, _main(workdir, '--stages=sft'), tmp_path / 'logs', num_devices=2)
  _wait_for_rows(process, workdir, 2)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 75, err
  assert 'failed' not in err
  step = _rows(workdir)[-1]['step']
  assert step < _rows(whole)[-1]['step'], 'stopped too late to tell'

  _run_alone(workdir, '--stages=sft')
  _assert_same_training(workdir, whole)


def _free_port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def test_a_missing_worker_is_named_by_those_that_came(tmp_path):
  port = _free_port()
  processes = [
      subprocess.Popen(
          _main(tmp_path / 'w'), cwd=ROOT, text=True, stderr=subprocess.PIPE,
          env=_environment(
              1, META_COT_DISTRIBUTED='1', META_COT_START_TIMEOUT='15',
              META_COT_COORDINATOR=f'localhost:{port}',
              META_COT_NUM_PROCESSES='3', META_COT_PROCESS_ID=str(rank)))
      for rank in (0, 2)]
  for process in processes:
    _, err = process.communicate(timeout=90)
    assert process.returncode == 2
    assert err == (
        f'error: META_COT_COORDINATOR=localhost:{port}: worker 1 of 3 has not '
        'joined within 15 s; read its log, and start all workers again.\n')
  assert not (tmp_path / 'w').exists()


def test_streams_that_the_hosts_cannot_share(tmp_path):
  code, _, err = _run(
      2, _main(tmp_path / 'w', '--config.sft.data.num_streams=1'), tmp_path)
  assert code == 2
  assert 'config.sft.data.num_streams: got 1; must be a multiple of 2' in err
  assert 'Traceback' not in err
  assert not (tmp_path / 'w').exists()


PROGRAM = """
import signal, sys, time
from meta_cot.runtime import distributed

def interrupt(number, frame):
  raise SystemExit(75)

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
  code, _, err = _run(
      3, _program(tmp_path, 'late'), tmp_path / 'logs', PYTHONPATH=str(ROOT))
  assert code == 0, err
  times = [
      float((tmp_path / 'logs' / f'rank-{i}.log').read_text().split()[-1])
      for i in range(3)]
  assert max(times) - min(times) < 2.5  # the late one is waited for


def test_the_code_of_a_failing_process_stands(tmp_path):
  code, _, err = _run(
      3, _program(tmp_path, 'fail'), tmp_path / 'logs', PYTHONPATH=str(ROOT))
  assert code == 1
  assert 'rank 2 of 3 failed (exit code 1); its last lines:' in err
  assert '[2] error: this rank has had enough' in err


def test_a_signal_is_served_while_waiting(tmp_path):
  process = _start(
      3, _program(tmp_path, 'signal'), tmp_path / 'logs', PYTHONPATH=str(ROOT))
  assert process.stdout.readline() == 'asleep\n'
  process.send_signal(signal.SIGTERM)
  started = time.monotonic()
  _, err = process.communicate(timeout=60)
  assert process.returncode == 75, err
  assert time.monotonic() - started < 30


def _bash(script):
  return ['bash', '-c', script]


def test_the_launcher_passes_variables_and_streams_rank_0(tmp_path):
  code, out, err = _run(
      2, _bash('echo "$META_COT_DISTRIBUTED $META_COT_NUM_PROCESSES '
               '$META_COT_PROCESS_ID $JAX_PLATFORMS $JAX_NUM_CPU_DEVICES"; '
               'echo to stderr >&2'), tmp_path, num_devices=3)
  assert (code, out, err) == (0, '1 2 0 cpu 3\n', 'to stderr\n')
  log = (tmp_path / 'rank-1.log').read_text()
  assert log == '1 2 1 cpu 3\nto stderr\n'


def test_the_launcher_prints_the_last_lines_of_what_failed(tmp_path):
  started = time.monotonic()
  code, _, err = _run(
      3, _bash('[[ $META_COT_PROCESS_ID == 1 ]] || exec sleep 60; '
               'seq 100; exit 7'), tmp_path)
  assert code == 7 and time.monotonic() - started < 10
  assert err.splitlines() == [
      'rank 1 of 3 failed (exit code 7); its last lines:',
      *[f'[1] {i}' for i in range(81, 101)], f'all logs: {tmp_path}']


def test_the_launcher_ends_what_does_not_want_to(tmp_path):
  code, _, err = _run(
      2, _bash('trap "" TERM; sleep 60 & [[ $META_COT_PROCESS_ID == 0 ]] || '
               '{ sleep 0.2; kill -KILL $$; }; wait'),
      tmp_path, META_COT_GRACE='1')
  assert code == 137
  assert 'rank 1 of 2 failed (exit code 137, signal 9)' in err
  assert not any(_is_alive(_pid(tmp_path, rank)) for rank in range(2))


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
  process = _start(
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
  assert not any(_is_alive(_pid(tmp_path, rank)) for rank in range(2))


@pytest.mark.parametrize('arguments, words', [
    ((), "N: got ''"), (('0', '--', 'true'), "N: got '0'"),
    (('two', '--', 'true'), "N: got 'two'"),
    (('2', 'true'), "got 'true' after N; must be --"),
    (('2', '--'), 'no command after --')])
def test_wrong_arguments_of_the_launcher(arguments, words):
  done = subprocess.run(
      [LAUNCHER, *arguments], text=True, capture_output=True, check=False)
  assert done.returncode == 2
  error, usage = done.stderr.splitlines()
  assert words in error and usage.startswith('usage: ')
