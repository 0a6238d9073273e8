# SPDX-License-Identifier: Apache-2.0
"""The training loop: rows, saves, interruption, where the time goes."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.training import goodput
from meta_cot.training import loop
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import state as state_lib

STEPS = 6


@jax.jit
def _step(state, batch):
  """Metrics that depend on the batch and on all steps before."""
  moved = state.params * 0.9 + jnp.mean(batch)
  metrics = dict(
      loss=moved ** 2, accuracy=jnp.tanh(moved), grad_norm=jnp.abs(moved),
      tokens=batch.size, trained_tokens=jnp.sum(batch > 0),
      learning_rate=0.1)
  return state.replace(step=state.step + 1, params=moved), metrics


def _batches():
  rng = np.random.default_rng(0)
  while True:
    yield rng.normal(size=(4, 3)).astype(np.float32)


def _create():
  return state_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=jnp.float32(1.0), opt_state=(),
      rng=jax.random.key(0))


def _loop(tmp_path, state, batches, *, num_steps=STEPS, saved=None, stops=(),
          pending=(), clock=None):
  """The loop; stop k is asked for at call k of `is_stopped`, from 1."""
  writer = metrics_lib.MetricsWriter(tmp_path, int(state.step))
  calls, left = itertools.count(1), []
  hooks = loop.Hooks(
      save=lambda state, step: saved.append(step),
      is_save_due=lambda step: step % 3 == 0,
      evaluate=lambda state: {'eval_loss': 1.0},
      is_eval_due=lambda step: step == num_steps,
      is_stopped=lambda: next(calls) in stops,
      interrupt=lambda state, step, rows, lap: left.extend([step, rows, lap]))
  state = loop.run(
      state, batches, _step, num_steps=num_steps, log_every_steps=2,
      hooks=hooks, rates=loop.Rates(1.0, 1.0), writer=writer,
      clock=clock or goodput.Clock(), pending=list(pending), profile=None,
      name='test')
  writer.close()
  return (state, left) if stops else state


def test_loop_logs_every_window_once(tmp_path):
  saved = []
  state = _loop(tmp_path, _create(), _batches(), saved=saved)
  rows = metrics_lib.read(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [2, 3, 4, 6]
  assert saved == [3, 6] and int(state.step) == STEPS
  assert sum(row['tokens'] for row in rows) == STEPS * 12
  assert ['eval_loss' in row for row in rows] == [False, False, False, True]


def test_rows_are_means_over_trained_tokens(tmp_path):
  _loop(tmp_path, _create(), _batches(), saved=[])
  state, batches, steps = _create(), _batches(), []
  for _ in range(2):
    state, metrics = _step(state, next(batches))
    steps.append(metrics)
  weights = [float(m['trained_tokens']) for m in steps]
  losses = [float(m['loss']) for m in steps]
  row = metrics_lib.read(tmp_path / 'metrics.jsonl')[0]
  assert row['loss'] == pytest.approx(np.average(losses, weights=weights))


def _columns(tmp_path):
  rows = metrics_lib.read(tmp_path / 'metrics.jsonl')
  return [
      (r['step'], r['loss'], r['grad_norm'], r['accuracy'], r['tokens'])
      for r in rows]


@pytest.mark.parametrize('stop', [1, 2, 3, 5])
def test_an_interrupted_loop_leaves_the_same_rows(tmp_path, stop):
  _loop(tmp_path / 'whole', _create(), _batches(), saved=[])
  batches, saved, pending = _batches(), [], []
  state, left = _loop(
      tmp_path / 'cut', _create(), batches, saved=saved, stops=(stop,))
  assert int(state.step) == stop
  if stop == 3:  # it is saved as it would have been without a signal
    assert saved == [3] and not left
  else:
    step, pending, lap = left
    assert step == stop and lap['seconds/step'] >= 0
  _loop(tmp_path / 'cut', state, batches, saved=[], pending=pending)
  assert _columns(tmp_path / 'cut') == _columns(tmp_path / 'whole')


def _slow(batches):
  for batch in batches:
    time.sleep(0.1)
    yield batch


def test_all_the_time_of_a_loop_is_accounted_for(tmp_path):
  clock = goodput.Clock()
  started = time.monotonic()
  time.sleep(0.3)
  _loop(tmp_path, _create(), _slow(_batches()), saved=[], clock=clock)
  elapsed = time.monotonic() - started
  rows = metrics_lib.read(tmp_path / 'metrics.jsonl')
  summary = goodput.summarise([*rows, clock.lap()])
  assert summary['total'] == pytest.approx(elapsed, rel=0.02, abs=0.05)
  assert summary['startup'] >= 0.3 and summary['input'] >= STEPS * 0.1
  assert summary['step'] > 0
  assert summary['goodput'] == summary['step'] / summary['total']
  assert summary['restart'] == 0


def test_steps_done_twice_count_as_restart():
  clock = goodput.Clock()
  row = {f'seconds/{kind}': 1.0 for kind in goodput.KINDS}
  clock.continues([row, row], {'seconds/step': 5.0})
  lap = clock.lap()
  assert lap['seconds/restart'] >= 2 * len(goodput.KINDS)
  assert lap['seconds/step'] == 5.0


def test_non_finite_loss_stops_with_the_step_and_saves_nothing(tmp_path):
  saved = []

  def poisoned():
    for i, batch in enumerate(_batches(), 1):
      yield np.full_like(batch, np.inf) if i == 3 else batch

  with pytest.raises(FloatingPointError, match='at step 3'):
    _loop(tmp_path, _create(), poisoned(), saved=saved)
  assert not saved
