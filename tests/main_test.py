# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline as a user runs it: one command, killed and rerun."""

import json
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import small_run


def _run(workdir, *more, code=0):
  done = subprocess.run(
      small_run.command(workdir, *more), cwd=small_run.ROOT,
      env=small_run.environment(), text=True,
      capture_output=True, check=False)
  assert done.returncode == code, done.stderr[-3000:]
  return done.stderr


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run') / 'w'
  log = _run(workdir, '--profile=4:5')
  return workdir, log


def _losses(workdir, arm):
  rows = (workdir / 'sft' / arm / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(row) for row in rows]
  return [(r['step'], r['loss'], r['grad_norm'], r['tokens']) for r in rows]


def _arrays(workdir, arm):
  """Every array of the newest checkpoint, read with Orbax alone."""
  directory = workdir / 'sft' / arm / 'checkpoints'
  step = max(int(p.name) for p in directory.iterdir() if p.name.isdigit())
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore((directory / str(step) / 'state').absolute())
  return step, jax.tree.map(np.asarray, tree)


def test_leaves_what_the_readme_promises(finished):
  workdir, log = finished
  summary = json.loads((workdir / 'evaluate' / 'summary.json').read_text())
  for name, solver in (
      ('sft/traces', 'greedy'), ('sft/solution_only', 'greedy'),
      ('symbolic', 'teacher')):
    values = small_run.find(
        summary['success'], policy=name, solver=solver, split='heldout_numbers')
    assert 0.0 <= values['ci95'][0] <= values['success']
    assert values['success'] <= values['ci95'][1] <= 1.0
    assert values['num_problems'] == 16
    assert values['mean_tokens'] > 0
  for name, n in (('sft/traces', 2), ('sft/solution_only', 3)):
    curve = [p for p in summary['samples'] if p['policy'] == name]
    assert [curve[0]['n'], curve[-1]['n']] == [1, n]
    assert len([p for p in summary['curve'] if p['policy'] == name]) > 1
  assert values['success'] == 1.0
  assert len([p for p in summary['success'] if p['policy'] == 'symbolic']) > 14
  report = (workdir / 'evaluate' / 'report.md').read_text()
  for name in ('loss', 'learning_curve', 'success_against_tokens', 'search_1',
               'search_2'):
    assert f'({name}.png)' in report
    image = (workdir / 'evaluate' / f'{name}.png').read_bytes()
    assert image.startswith(b'\x89PNG')
  for arm in ('traces', 'solution_only'):
    assert arm in report
    assert list((workdir / 'sft' / arm / 'tensorboard').glob('events*'))
  assert json.loads((workdir / 'config.json').read_text())['seed'] == 0
  assert ('4 sequences of 256 tokens per step = 2 rows/device x 2 devices x '
          '1 accumulation') in log


def test_profile_traces_the_chosen_steps(finished):
  workdir, _ = finished
  traces = list((workdir / 'sft' / 'traces' / 'profile').rglob('*.xplane.pb'))
  assert len(traces) == 1 and b'train_step' in traces[0].read_bytes()


def test_arms_train_on_the_same_number_of_tokens(finished):
  workdir, _ = finished
  totals = [
      sum(row[3] for row in _losses(workdir, arm))
      for arm in ('traces', 'solution_only')]
  assert max(totals) - min(totals) < 0.05 * 20000


def test_compiles_nothing_after_the_first_steps(finished):
  workdir, _ = finished
  text = (workdir / 'sft' / 'traces' / 'metrics.jsonl').read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  # Step 10 is the first evaluation and the first save; each compiles once.
  later = {r['programs_compiled'] for r in rows if r['step'] > 10}
  assert len(rows) > 8 and len(later) == 1


def test_rerun_skips_what_is_done(finished):
  workdir, _ = finished
  before = (workdir / 'evaluate' / 'report.md').stat().st_mtime_ns
  log = _run(workdir)
  assert log.count('already done') == 5
  assert (workdir / 'evaluate' / 'report.md').stat().st_mtime_ns == before


def test_tokenizer_of_another_run_is_reused(finished, tmp_path):
  workdir, _ = finished
  model = workdir / 'tokenizer' / 'tokenizer.model'
  _run(tmp_path / 'w', f'--config.tokenizer.vocabulary.path={model}',
       '--stages=problems,traces,tokenizer')
  copy = tmp_path / 'w' / 'tokenizer' / 'tokenizer.model'
  assert copy.read_bytes() == model.read_bytes()


def test_a_missing_stage_is_named_in_one_line(tmp_path):
  log = _run(tmp_path / 'w', '--stages=sft', code=2)
  assert log.splitlines()[-1].startswith('error: ')
  assert 'run the stage traces first' in log
  assert 'Traceback' not in log


def test_wrong_settings_stop_before_any_work(tmp_path):
  log = _run(tmp_path / 'w', '--config.sft.optimizer.learning_rat=1', code=2)
  assert log == (
      'error: config.sft.optimizer.learning_rat: no such key; did you mean '
      'config.sft.optimizer.learning_rate?\n')
  assert not (tmp_path / 'w').exists()


@pytest.mark.slow
@pytest.mark.parametrize('rows', [1, 6])
def test_killed_anywhere_it_continues_to_the_same_bits(
    finished, tmp_path, rows):
  expected, _ = finished
  workdir = tmp_path / 'w'
  only = '--stages=problems,traces,tokenizer,sft'
  process = subprocess.Popen(
      small_run.command(workdir, only), cwd=small_run.ROOT,
      env=small_run.environment(),
      stderr=subprocess.DEVNULL)
  metrics = workdir / 'sft' / 'solution_only' / 'metrics.jsonl'
  deadline = time.monotonic() + 240
  while time.monotonic() < deadline and process.poll() is None:
    if metrics.exists() and metrics.read_text().count('\n') >= rows:
      break
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (workdir / 'done' / 'sft.json').exists(), 'killed too late to tell'

  _run(workdir, only)
  for arm in ('traces', 'solution_only'):
    assert _losses(workdir, arm) == _losses(expected, arm)
    step, arrays = _arrays(workdir, arm)
    expected_step, expected_arrays = _arrays(expected, arm)
    assert step == expected_step
    jax.tree.map(np.testing.assert_array_equal, arrays, expected_arrays)
  leftovers = [p for p in workdir.rglob('*') if 'tmp' in p.name]
  assert not leftovers
