# SPDX-License-Identifier: Apache-2.0
"""What is kept of rollouts is, to the token, what was learned from."""

import json

import jax
import numpy as np
import pytest

from meta_cot.rl import atif
from meta_cot.rl import kept
from meta_cot.settings import config as config_lib
from tests import small_rl

_WAYS = {
    'whole': dict(num_kept_rollouts=6),
    'a window': dict(window=1, num_accumulation=2, num_kept_rollouts=5),
    'penalty': dict(
        kl_in='reward', kl_estimator='k1', kl_coefficient=0.5,
        num_kept_rollouts=3, num_loss_chunks=2),
    'values': dict(advantage='gae', num_kept_rollouts=16),
    'two devices': dict(axes=(2, 1, 1), num_kept_rollouts=3),
}


def _keep(directory, step=0, number=2, **changes):
  """A run of some iterations behind `step`, with its rows."""
  run = small_rl.Run(**changes)
  store = kept.Store(directory, step)
  state, memory = run.state(), run.memory()
  run.metrics = []
  with run.mesh:
    keeper = kept.Keeper(run.learner, run.programs.keep(), store)
    for iteration in range(number):
      state, row = run.learner.iterate(state, memory, iteration, keeper)
      run.metrics.append(row)
  store.close()
  return run, kept.read(directory / kept.NAME)


@pytest.mark.parametrize('way', [
    'a window', 'values', 'two devices', *(
        pytest.param(way, marks=pytest.mark.slow)
        for way in ('whole', 'penalty'))])
def test_rows_are_what_was_trained(tmp_path, way):
  run, rows = _keep(tmp_path, **_WAYS[way])
  num, samples = run.settings.num_kept_rollouts, 4
  for step, batch in enumerate(run.batches, 1):
    batch = jax.device_get(batch)
    found = [row for row in rows if row['step'] == step]
    assert {(r['question'], r['sample']) for r in found} == {
        (run_questions[n // samples], n % samples) for n in range(num)
        for run_questions in [_questions(found, samples, num)]}
    per_row = len(batch.rows.tokens) // 16
    for row in found:
      order = _questions(found, samples, num).index(row['question'])
      r = (order * samples + row['sample']) * per_row + row['row']
      _check_row(row, batch, r)
    # The largest gap of what is kept is not above that of all rows.
    gaps = [abs(a - b) for row in found for a, b, trained in zip(
        row['behaviour'], row['trainer'], row['is_trained']) if trained]
    assert max(gaps) < run.metrics[step - 1]['gap_max'] + 1e-5
  assert len(run.batches) == 2 and {r['step'] for r in rows} == {1, 2}


def _questions(rows, samples, num) -> list[int]:
  """Those of an iteration, in the order in which they were asked."""
  numbers = list(dict.fromkeys(row['question'] for row in rows))
  assert len(numbers) == -(-num // samples)
  return numbers


def _check_row(row, batch, r):
  length = len(row['tokens'])
  assert row['tokens'][1:] == batch.rows.targets[r, :length - 1].tolist()
  assert row['tokens'][0] == batch.rows.tokens[r, 0]
  assert not batch.rows.is_sampled[r, length - 1:].any()
  same = lambda name, x: np.testing.assert_array_equal(
      np.array(row[name][1:], x.dtype), x[r, :length - 1])
  same('is_trained', batch.is_trained)
  same('episode', batch.rows.episode)
  drawn = batch.rows.is_sampled
  same('behaviour', np.where(drawn, batch.rows.behaviour, 0))
  same('advantages', np.where(drawn, batch.advantages, 0))
  if batch.old_values is None:
    assert row['values'] is None
  else:
    same('values', np.where(drawn, batch.old_values, 0))
  columns = ('behaviour', 'trainer', 'entropy', 'advantages', 'kl', 'episode')
  assert {len(row[name]) for name in columns} == {length}


def test_the_trainer_says_what_it_says_in_its_loss(tmp_path):
  """Entropy and KL of all rows give the means that are logged."""
  run, rows = _keep(tmp_path, number=1, num_kept_rollouts=16)
  columns = {
      name: np.array([
          x for row in rows for x, trained in zip(row[name], row['is_trained'])
          if trained], np.float64) for name in ('entropy', 'kl')}
  metrics, = run.metrics
  assert columns['entropy'].mean() == pytest.approx(
      metrics['entropy'], rel=1e-5)
  assert columns['kl'].mean() == pytest.approx(metrics['kl_k1'], abs=1e-6)
  assert len(columns['kl']) == metrics['trained_tokens']
  success = [row['rewards'][-1] for row in rows]
  assert np.mean(success) == pytest.approx(metrics['success'])


def test_rows_behind_a_checkpoint_go(tmp_path):
  _, rows = _keep(tmp_path, number=3, num_kept_rollouts=2)
  path = tmp_path / kept.NAME
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"step": 4, "torn')
  kept.Store(tmp_path, 2).close()
  left = kept.read(path)
  assert left == [row for row in rows if row['step'] <= 2]
  assert whole.startswith(path.read_bytes())
  kept.Store(tmp_path, 0).close()
  assert path.read_bytes() == b''
  path.write_bytes(b'{"step": 1}\n')
  with pytest.raises(config_lib.UserError, match="jsonl:1: not a row .*'quest"):
    kept.read(path)


def test_a_setting_says_how_many(tmp_path):
  assert 'keep' not in small_rl.Run(num_kept_rollouts=0).programs.parts
  run, rows = _keep(tmp_path, number=1, num_kept_rollouts=1000)
  assert 'keep' in run.programs.parts
  assert len(rows) == 16
  with pytest.raises(config_lib.ConfigError, match='num_kept_rollouts'):
    small_rl.settings(num_kept_rollouts=-1)


# Fields of ATIF v1.7, by object.
_ALLOWED = {
    'trajectory': {
        'schema_version', 'session_id', 'trajectory_id', 'agent', 'steps',
        'notes', 'final_metrics', 'continued_trajectory_ref', 'extra',
        'subagent_trajectories'},
    'step': {
        'step_id', 'timestamp', 'source', 'model_name', 'reasoning_effort',
        'message', 'reasoning_content', 'tool_calls', 'observation', 'metrics',
        'llm_call_count', 'is_copied_context', 'extra'},
    'metrics': {
        'prompt_tokens', 'completion_tokens', 'cached_tokens', 'cost_usd',
        'prompt_token_ids', 'completion_token_ids', 'logprobs', 'extra'},
    'final': {
        'total_prompt_tokens', 'total_completion_tokens',
        'total_cached_tokens', 'total_cost_usd', 'total_steps', 'extra'}}


@pytest.mark.parametrize('way', ['whole', 'a window'])
def test_trajectories_for_others(tmp_path, way):
  _, rows = _keep(tmp_path, number=1, **_WAYS[way])
  decode = small_rl.tokenizer().decode
  by_sample = {}
  for row in rows:
    by_sample.setdefault((row['question'], row['sample']), []).append(row)
  for group in by_sample.values():
    made = atif.trajectory(group, decode, model='rl/erl2/seed0')
    assert json.loads(json.dumps(made)) == made
    assert made['schema_version'] == 'ATIF-v1.7'
    assert made.keys() <= _ALLOWED['trajectory']
    assert made['final_metrics'].keys() <= _ALLOWED['final']
    user, *agent = made['steps']
    assert user['source'] == 'user' and group[0]['text'] in user['message']
    assert [s['step_id'] for s in made['steps']] == list(
        range(1, len(made['steps']) + 1)) and len(agent) == 3
    for step in made['steps']:
      assert step.keys() <= _ALLOWED['step']
    assert [s['extra']['reward'] for s in agent] == group[0]['rewards']
    for step in agent:
      metrics = step['metrics']
      assert metrics.keys() <= _ALLOWED['metrics']
      assert len(metrics['logprobs']) == metrics['completion_tokens'] == len(
          metrics['completion_token_ids'])
    if way == 'whole':  # nothing is lost: the texts are the row again
      pieces = [user['message']] + [
          s['message'] + ''.join(
              r['content'] for r in s.get(
                  'observation', dict(results=[]))['results']) for s in agent]
      assert ''.join(pieces) == decode(group[0]['tokens'])
      last = agent[-1]['metrics']
      assert last['prompt_token_ids'] + last['completion_token_ids'] == (
          group[0]['tokens'])
