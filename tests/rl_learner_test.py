# SPDX-License-Identifier: Apache-2.0
"""Whole iterations of a small random model, under all rules."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.objectives import kl
from meta_cot.rollouts import player as player_lib
from tests import small_rl


@functools.cache
def _run(objective='erl2', number=1, **changes) -> small_rl.Run:
  """After some iterations on one device."""
  run = small_rl.Run(objective, **changes)
  run.end = run.memory()
  run.after, run.rows = run.iterate(number, memory=run.end)
  return run


def _rollouts(run, call=0):
  return jax.device_get(run.calls[call][4])


def _assert_same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def _difference(a, b) -> float:
  return max(
      float(np.abs(np.asarray(x) - np.asarray(y)).max())
      for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


_KINDS = {
    'clipped values': dict(advantage='gae', value_clip=0.1, whiten=True),
    'all episodes forgotten': dict(window=0),
    'a window': dict(window=1, num_accumulation=2),
    'a budget': dict(max_tokens=7),
    'penalty in the reward': dict(
        kl_in='reward', kl_estimator='k1', kl_coefficient=0.5),
    'no penalty': dict(kl_in='none'),
    'sequences': dict(ratio_level='sequence', token_weights='sequence'),
    'epochs': dict(num_epochs=2, num_minibatches=2, token_weights='constant'),
}


@pytest.mark.parametrize('name', [
    'a window', *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(_KINDS.keys() - {'a window'}))])
def test_an_iteration_moves_the_policy(name):
  run = _run(**_KINDS[name])
  assert all(np.isfinite(v) for v in run.rows[0].values()), run.rows[0]
  assert run.rows[0]['grad_norm'] > 1e-4
  assert _difference(run.after.params, run.setup.start) > 1e-5
  assert int(run.after.step) == run.settings.updates.per_iteration
  assert len(run.batches) == run.settings.updates.per_iteration
  assert ('value_error' in run.rows[0]) == (
      run.settings.credit.advantage == 'gae')
  assert run.rows[0]['trained_tokens'] > 0
  assert 0 < run.rows[0]['occupancy'] <= 1
  assert all(run.rows[0][f'time/{part}'] >= 0 for part in (
      'rollout', 'judge', 'prepare', 'update'))


def test_rules_through_the_learner():
  row = _run().rows[0]
  assert row['gave_up'] > 0 and row['ended_by_stop'] > 0
  assert row['episodes_missing'] == 0
  np.testing.assert_allclose(
      row['gave_up'] + row['ended_by_stop'] + row['truncated'], 1)
  budget = _run(max_tokens=7)
  assert budget.rows[0]['episodes_missing'] > 0
  assert budget.rows[0]['tokens_per_trajectory'] <= 7
  for name, per_row in (('window', 3), ('max_tokens', 1)):
    run = _run(**{name: dict(window=1, max_tokens=7)[name]} | (
        dict(num_accumulation=2) if name == 'window' else {}))
    rows, rollouts = jax.device_get(run.batches[0].rows), _rollouts(run)
    assert len(rows.tokens) == 16 * per_row
    assert rows.is_sampled.sum() == np.maximum(
        rollouts.ends - rollouts.starts, 0).sum()


def test_in_a_window_every_row_begins_with_its_question():
  run = _run(window=1, num_accumulation=2)
  _, _, prompts, lengths, *_ = jax.device_get(run.calls[0])
  rows = jax.device_get(run.batches[0].rows)
  for r, n in enumerate(rows.trajectory):
    q = n // 4
    np.testing.assert_array_equal(
        rows.tokens[r, :lengths[q]], prompts[q, :lengths[q]])
    assert set(rows.episode[r].tolist()) <= {-1, r % 3}


@dataclasses.dataclass(frozen=True)
class _Say:
  """As many 7s as the attempt had tokens, up to two."""

  length = 2

  def hidden(self, problem):
    del problem
    return {}

  def __call__(self, hidden, tokens_SxT, lengths_S):
    del hidden
    said = jnp.full((len(tokens_SxT), 2), _SEVEN, jnp.int32)
    return said, jnp.minimum(lengths_S, 2), jnp.zeros(len(tokens_SxT))


(_SEVEN,) = small_rl.tokenizer().encode('7')


def test_feedback_is_read_and_not_trained():
  run = small_rl.Run()
  learner = run.learner
  rules = dataclasses.replace(
      learner.player.rules, feedback=_Say())
  config = run.settings.questions
  player = player_lib.Player(
      run.model, small_rl.tokenizer(), run.devices,
      rules=rules, style='compact', width=run.programs.question_width,
      num_questions=4, num_samples=4, num_slots=config.num_slots)
  run.learner = dataclasses.replace(learner, player=player)
  _, (row,) = run.iterate()
  assert np.isfinite(row['loss']) and row['gap_max'] < 1e-4
  rollouts = _rollouts(run)
  for n in range(16):
    for e in range(2):
      said = rollouts.tokens[n][rollouts.ends[n, e]:rollouts.starts[n, e + 1]]
      number = min(rollouts.ends[n, e] - rollouts.starts[n, e], 2)
      assert said.tolist() == [_SEVEN] * number + list(rules.reset_ids)
      assert not rollouts.is_sampled[n][
          rollouts.ends[n, e]:rollouts.starts[n, e + 1]].any()


def test_iterations_draw_anew_and_again_the_same():
  run = small_rl.Run()
  drawn = []
  for first in (0, 1, 0):
    run.iterate(first=first)  # the same questions, the same parameters
    drawn.append(_rollouts(run, -1).tokens)
  questions = [np.asarray(call[2]) for call in run.calls]
  _assert_same(questions[0], questions[1])
  np.testing.assert_array_equal(drawn[0], drawn[2])
  assert ((drawn[0] == drawn[1]).all(axis=1)).mean() < 0.5
  # Nor do the samples of a question, or those of another seed.
  assert len({row.tobytes() for row in drawn[0][:4]}) > 1
  other = small_rl.Run(seed=1)
  other.iterate()
  assert (_rollouts(other).tokens != drawn[0]).any()


@pytest.mark.parametrize('changes', [
    dict(rest=1, kl_target=0.01, kl_horizon=16, num_epochs=2),
    pytest.param(
        dict(advantage='vineppo', discounts=(1.0, 0.9),
             discount_prompts=('', '@')), marks=pytest.mark.slow)])
def test_a_restarted_run_goes_on_as_the_unbroken_one(changes):
  whole = _run(number=3, **changes)
  first = small_rl.Run(**changes)
  memory = first.memory()
  state, _ = first.iterate(1, memory=memory)
  saved = json.loads(json.dumps(memory.get_state()))
  state = jax.device_get(state.replace(rng=jax.random.key_data(state.rng)))
  second = small_rl.Run(**changes)
  memory = second.memory()
  memory.set_state(saved)
  fresh = second.state()
  state = jax.tree.map(
      lambda x, like: jax.device_put(x, like.sharding), state,
      fresh.replace(rng=jax.random.key_data(fresh.rng)))
  after, rows = second.iterate(
      2, state.replace(rng=jax.random.wrap_key_data(state.rng)), memory,
      first=1)
  _assert_same(after.params, whole.after.params)
  for i in range(2):
    _assert_same(_rollouts(second, i), _rollouts(whole, i + 1))
    untimed = lambda row: {
        k: v for k, v in row.items() if not k.startswith('time/')}
    assert untimed(rows[i]) == untimed(whole.rows[i + 1])
  assert memory.get_state() == whole.end.get_state()


def test_the_coefficient_adapts():
  run = _run(number=3, rest=1, kl_target=0.01, kl_horizon=16, num_epochs=2)
  coefficient = run.settings.loss.kl_coefficient
  seen = set()
  for row in run.rows:
    assert row['kl_coefficient'] == coefficient
    coefficient = float(kl.adapt(
        coefficient, row['kl_k1'], target=0.01, horizon=16, num=16))
    seen.add(coefficient)
  assert run.end.kl_coefficient == coefficient and len(seen) == 3


def test_a_discount_comes_with_its_prompt():
  run = _run(
      number=3, advantage='vineppo', discounts=(1.0, 0.9),
      discount_prompts=('', '@'))
  (opening,) = small_rl.tokenizer().encode('@')
  seen = set()
  for call in jax.device_get(run.calls):
    for q in range(4):
      discount = float(call[5].discounts[4 * q])
      assert (call[2][q, 0] == opening) == (discount < 1)
      assert (call[5].discounts[4 * q:4 * q + 4] == call[5].discounts[4 * q]
              ).all()
      seen.add(round(discount, 3))
  assert seen == {1.0, 0.9}


def test_a_penalty_in_the_reward_changes_advantages():
  """Once the policy has left the reference."""
  run = _run(number=2, kl_in='reward', kl_estimator='k1', kl_coefficient=0.5)
  args = list(run.calls[1])
  args[0] = run.after.params
  batch, _ = run.prepare(*args)
  args[-2] = jnp.float32(0.0)
  free, _ = run.prepare(*args)
  assert np.abs(batch.advantages - free.advantages).max() > 1e-3
  # At the start it is the reference, and nothing is paid.
  args[0], args[-2] = run.setup.start, jnp.float32(1.0)
  np.testing.assert_allclose(
      run.prepare(*args)[0].advantages, free.advantages, atol=1e-4)


@dataclasses.dataclass(frozen=True)
class _Hesitant:
  """Cannot decide some first and some last episodes."""

  judge: small_rl.Parity

  def __call__(self, problems, rollouts):
    judged = self.judge(problems, rollouts)
    undecided = np.zeros_like(judged.is_taken)
    undecided[1:7:2, -1] = undecided[2, 0] = True
    undecided[12:, -1] = True
    return dataclasses.replace(
        judged, is_undecided=undecided,
        rewards=np.where(undecided, 0.0, judged.rewards).astype(np.float32))


@pytest.mark.parametrize('objective, out', [
    pytest.param('erl2', [1, 3, 5, 12, 13, 14, 15], marks=pytest.mark.slow),
    ('rl2', [1, 2, 3, 5, 12, 13, 14, 15])])
def test_what_nobody_could_decide_is_not_trained(objective, out):
  run = small_rl.Run(objective, rest=1)
  run.learner = dataclasses.replace(
      run.learner, judge=_Hesitant(run.learner.judge))
  memory = run.memory()
  _, (row,) = run.iterate(memory=memory)
  assert row['undecided'] == 8
  batch = jax.device_get(run.batches[0])
  is_out = np.isin(np.arange(16), out)
  assert not batch.is_trained[is_out].any()
  assert not batch.advantages[is_out].any()
  np.testing.assert_array_equal(
      batch.is_trained[~is_out], batch.rows.is_sampled[~is_out])
  assert row['trained_tokens'] == batch.is_trained.sum() < row['tokens']
  # A question without any verdict is not put to rest as never solved.
  asked = run.memory().questions.take(4)
  resting = dict(memory.questions.get_state()['back'])
  assert asked[3] not in resting


def test_questions_rest_by_their_success():
  run = _run(rest=2, min_success=0.25, max_success=0.75)
  verdicts = jax.device_get(run.calls[0][5])
  share = verdicts.rewards[:, -1].reshape(4, 4).mean(axis=1)
  asked = run.memory().questions.take(4)
  resting = {q for q, s in zip(asked, share) if not 0.25 < s < 0.75}
  back = dict(run.end.questions.get_state()['back'])
  assert set(back) == resting and resting
  assert run.rows[0]['questions_resting'] == len(resting)


def test_score_turns_to_all_episodes():
  """Early rewards count in its second half only."""
  run = _run('score')
  *before, verdicts, _, beta, values = run.calls[0]
  rewards = np.zeros((16, 3), np.float32)
  rewards[::2, 0] = 1.0
  size = [
      float(np.abs(run.prepare(
          *before, verdicts.replace(rewards=rewards), jnp.float32(progress),
          beta, values)[0].advantages).max())
      for progress in (0.0, 0.5, 0.75, 1.0)]
  assert size[0] == size[1] == 0 < size[2] < size[3]


def test_what_is_not_finite_ends_the_run():
  run = small_rl.Run()
  state = run.state()
  state = state.replace(params=jax.tree.map(
      lambda x: jnp.full_like(x, jnp.nan), state.params))
  with pytest.raises(
      FloatingPointError, match='erl2, seed 0: loss is nan at update 1; no'):
    run.iterate(state=state)
