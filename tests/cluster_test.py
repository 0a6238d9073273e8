# SPDX-License-Identifier: Apache-2.0
"""Several processes on this machine, as on a pod: same numbers, clear ends."""

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from meta_cot.evaluation import rows as rows_lib
from tests import cluster_kills
from tests import local_cluster as cluster
from tests import run_comparison
from tests import small_run

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


def _run_alone(workdir, *more):
  """One process with four devices."""
  done = subprocess.run(
      _main(workdir, *more), cwd=cluster.ROOT, env=cluster.environment(4),
      text=True, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]


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


@pytest.mark.parametrize('number', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_give_what_one_gives(whole, tmp_path, number):
  workdir = tmp_path / 'w'
  code, _, err = cluster.run(
      number, _main(workdir), tmp_path / 'logs', num_devices=4 // number)
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
  code, _, err = cluster.run(
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
  deadline = time.monotonic() + 600
  while time.monotonic() < deadline and process.poll() is None:
    if metrics.exists() and metrics.read_text().count('\n') >= num_rows and (
        checkpoint is None or (folder / 'checkpoints' / checkpoint).exists()):
      return
    time.sleep(0.02)
  raise AssertionError(f'no {num_rows} rows: {process.communicate()}')


@pytest.mark.slow
def test_killed_pods_are_made_again_and_end_with_the_same_bits(
    whole, tmp_path):
  """Each once; they have the variables of a JobSet only, and its command."""
  unbroken = _ready_to_train(whole, tmp_path / 'unbroken')
  code, _, err = cluster.run(
      2, _main(unbroken, '--stages=sft'), tmp_path / 'logs', num_devices=2)
  assert code == 0, err[-3000:]
  _assert_same_training(unbroken, whole)
  workdir, logs = _ready_to_train(whole, tmp_path / 'w'), tmp_path / 'logs'
  command, variables = cluster_kills.as_pods(
      _main(workdir, '--stages=sft'), hosts_per_slice=1)
  for rank, num_rows, checkpoint in ((1, 4, '6'), (0, 7, '12')):
    process = cluster.start(2, command, logs, num_devices=2, **variables)
    _wait_for_rows(process, workdir, num_rows, checkpoint=checkpoint)
    started = time.monotonic()
    cluster_kills.signal_rank(logs, rank, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 137
    assert f'rank {rank} of 2 failed (exit code 137, signal 9)' in err
    assert f'\n[{rank}] ' in err  # its last lines
    assert not cluster.alive(logs, 2)
    assert not (workdir / 'done' / 'sft.json').exists(), 'killed too late'
  saved = (workdir / 'sft' / ARM / 'checkpoints').iterdir()
  newest = max(int(path.name) for path in saved if path.name.isdigit())
  code, _, err = cluster.run(2, command, logs, num_devices=2, **variables)
  assert code == 0, err[-3000:]
  assert f'{ARM}: continues after step {newest} of ' in err
  assert run_comparison.differences(unbroken, workdir) == []
  assert run_comparison.litter(workdir) == []


def test_sigterm_saves_and_another_number_of_processes_continues(
    whole, tmp_path):
  workdir = _ready_to_train(whole, tmp_path / 'w')
  process = cluster.start(
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
          _main(tmp_path / 'w'), cwd=cluster.ROOT, text=True,
          stderr=subprocess.PIPE,
          env=cluster.environment(
              1, META_COT_DISTRIBUTED='1', META_COT_START_TIMEOUT='15',
              META_COT_COORDINATOR=f'localhost:{port}',
              META_COT_NUM_PROCESSES='3', META_COT_PROCESS_ID=str(rank)))
      for rank in (0, 2)]
  for process in processes:
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1  # a JobSet would start them again
    assert err == (
        f'error: META_COT_COORDINATOR=localhost:{port}: worker 1 of 3 has not '
        'joined within 15 s; read its log, and start all workers again.\n')
  assert not (tmp_path / 'w').exists()


def test_streams_that_the_hosts_cannot_share(tmp_path):
  code, _, err = cluster.run(
      2, _main(tmp_path / 'w', '--config.sft.data.num_streams=1'), tmp_path)
  assert code == 2
  assert 'config.sft.data.num_streams: got 1; must be a multiple of 2' in err
  assert 'Traceback' not in err
  assert not (tmp_path / 'w').exists()
