# SPDX-License-Identifier: Apache-2.0
"""The loss and the update of real rollouts of a small transformer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_cot.rl import family
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import settings as settings_lib
from meta_cot.rl import update as update_lib
from tests import small_rl

_AXES = ((8, 1, 1), (2, 2, 2))
_CHANGED = dict(entropy_bonus=0.01, kl_coefficient=0.1)
_RATE = 1.0


@functools.cache
def _run(objective='erl2', **changes) -> small_rl.Run:
  """After one iteration on one device."""
  run = small_rl.Run(objective, **_CHANGED | changes)
  run.after, run.rows = run.iterate()
  return run


def _batch(run) -> objective_lib.Batch:
  return jax.device_get(run.batches[0])


def _plain_sgd(settings):
  """(params, batch, minibatch) -> gradient and metrics of the real update."""
  step = jax.jit(update_lib.make(
      _run().model, settings, settings.objective('erl2'),
      optax.sgd(_RATE), lambda step: _RATE))

  def gradient(params, batch, minibatch=0):
    batch = batch.replace(weights=update_lib.weigh(
        jnp.asarray(batch.is_trained), settings, 20.0))
    state = _run().state().replace(
        params=params, opt_state=optax.sgd(_RATE).init(params))
    new, metrics = step(state, batch, minibatch, jnp.float32(0.1), {})
    return jax.tree.map(
        lambda old, new: (old - new) / _RATE, params, new.params), metrics

  return gradient


@functools.cache
def _moved():
  """Parameters some way from those that sampled: ratios are not 1."""
  noise = np.random.default_rng(4)
  return jax.tree.map(
      lambda x: x + 0.03 * noise.standard_normal(x.shape).astype(x.dtype),
      _run().setup.start)


@functools.cache
def _plain(**changes):
  """Gradient and metrics of the whole batch at once."""
  settings = small_rl.changed(_run().settings, **changes)
  return _plain_sgd(settings)(_moved(), _batch(_run()))


def _assert_close(a, b, tolerance=1e-6):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def _size(tree) -> float:
  return float(optax.tree.norm(tree))


def test_the_batch_is_worth_testing():
  run, batch = _run(), _batch(_run())
  rules = run.programs.rules
  targets = batch.rows.targets[batch.is_trained]
  assert np.isin(targets, rules.stop_ids).sum() > 0
  assert (targets == rules.give_up_id).sum() > 0
  assert set(batch.rows.episode[batch.is_trained].tolist()) == {0, 1, 2}
  assert (batch.advantages[batch.is_trained] != 0).mean() > 0.3
  metrics = _plain()[1]
  assert _size(_plain()[0]) > 1e-3
  assert abs(metrics['ratio'] - 1) > 1e-5 and metrics['kl_k3'] > 1e-5


@pytest.mark.parametrize('weights, level', [
    pytest.param('token', 'token', marks=pytest.mark.slow),
    ('sequence', 'sequence'),
    pytest.param('constant', 'token', marks=pytest.mark.slow)])
def test_accumulation_changes_nothing(weights, level):
  changes = dict(token_weights=weights, ratio_level=level)
  settings = small_rl.changed(
      _run().settings, num_accumulation=4, **changes)
  gradient, metrics = _plain_sgd(settings)(_moved(), _batch(_run()))
  _assert_close(gradient, _plain(**changes)[0])
  _assert_close(metrics, _plain(**changes)[1], 1e-5)


def test_minibatches_are_the_batch_of_their_rows():
  """Rows m, m + M, ...; each trained as if there were no others."""
  settings = small_rl.changed(_run().settings, num_minibatches=2)
  step = _plain_sgd(settings)
  seen = []
  batch = _batch(_run())
  for number in range(2):
    rows = jax.tree.map(
        lambda x: x[number::2], batch.replace(prompts=None)).replace(
            prompts=batch.prompts)
    gradient, metrics = step(_moved(), _batch(_run()), jnp.int32(number))
    expected = _half()(_moved(), rows)
    _assert_close(gradient, expected[0])
    _assert_close(metrics, expected[1], 1e-5)
    seen.append(gradient)
  assert _size(jax.tree.map(jnp.subtract, *seen)) > 1e-3


@functools.cache
def _half():
  return _plain_sgd(_run().settings)


def test_loss_chunks_change_nothing():
  """Rows are a little longer, so that the pieces are equal."""
  settings = small_rl.changed(
      _run().settings, num_loss_chunks=5, num_accumulation=2)
  batch = _batch(_run())
  missing = -batch.is_trained.shape[1] % 5
  longer = lambda x, fill=0: np.pad(
      x, ((0, 0), (0, missing)), constant_values=fill)
  rows = batch.rows
  padded_rows = jax.tree.map(
      longer, rows.replace(trajectory=None, episode=None)).replace(
          trajectory=rows.trajectory, episode=longer(rows.episode, -1))
  padded = jax.tree.map(
      longer, batch.replace(rows=None, prompts=None, entropy_bonus=None)
  ).replace(rows=padded_rows, entropy_bonus=batch.entropy_bonus)
  gradient, metrics = _plain_sgd(settings)(_moved(), padded)
  _assert_close(gradient, _plain()[0])
  _assert_close(metrics, _plain()[1], 1e-5)


def test_chunks_make_rows_that_divide():
  run = _run(num_loss_chunks=5)
  assert run.batches[0].is_trained.shape[1] % 5 == 0
  np.testing.assert_allclose(
      run.rows[0]['loss'], _run().rows[0]['loss'], atol=1e-6)
  _assert_close(run.after.params, _run().after.params, 1e-5)


@functools.cache
def _gradient_of_loss():
  run = _run()

  @jax.jit
  def gradient(params, batch):
    number = len(batch.weights)
    return jax.value_and_grad(
        lambda params: update_lib.loss(
            run.model, run.settings, run.learner.objective,
            params, batch, jnp.arange(number), jnp.float32(0.1),
            num_rows=number)[0])(params)

  return gradient


def _with_mask(mask):
  """Loss and gradient where only these tokens are trained."""
  return _gradient_of_loss()(
      _moved(), _batch(_run()).replace(is_trained=mask))


@pytest.mark.parametrize('name', ['stop_ids', 'give_up_id'])
def test_the_token_that_ends_an_episode_is_trained(name):
  batch = _batch(_run())
  is_end = np.isin(
      batch.rows.targets, getattr(_run().programs.rules, name))
  whole = _with_mask(batch.is_trained)
  alone = _with_mask(batch.is_trained & is_end)
  without = _with_mask(batch.is_trained & ~is_end)
  assert _size(alone[1]) > 1e-3
  assert _size(jax.tree.map(jnp.subtract, whole[1], without[1])) > 1e-3
  _assert_close(whole, jax.tree.map(jnp.add, alone, without), 1e-5)


def test_tokens_that_were_not_drawn_have_no_gradient():
  """Prompt, resets and padding as targets: anything, even not a number."""
  batch = _batch(_run())
  rows, mask = batch.rows, batch.is_trained
  behind = np.cumsum(mask, axis=1) > 0
  before = np.cumsum(mask[:, ::-1], axis=1)[:, ::-1] > 0
  (reset,) = small_rl.tokenizer().encode(small_rl.RESET)
  assert (rows.targets[behind & before & ~mask] == reset).all()
  assert (behind & before & ~mask).sum() > 20
  noise = np.random.default_rng(0)
  other = batch.replace(
      advantages=np.where(mask, batch.advantages, np.nan),
      reference=np.where(mask, batch.reference, np.nan),
      rows=rows.replace(
          targets=np.where(
              mask, rows.targets, noise.integers(0, 40, mask.shape)),
          behaviour=np.where(mask, rows.behaviour, np.nan)))
  one = _gradient_of_loss()(_moved(), batch)
  changed = _gradient_of_loss()(_moved(), other)
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(changed)):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('changes', [
    {}, dict(top_p=0.7, top_k=None, temperature=0.6),
    pytest.param(
        dict(window=1, temperature=1.3, top_k=5), marks=pytest.mark.slow)])
def test_the_first_ratio_is_one(changes):
  """The trainer knows of temperature and truncation what the sampler knew."""
  row = _run(**changes).rows[0]
  np.testing.assert_allclose(row['ratio'], 1, atol=1e-5)
  assert 0 < row['gap_max'] < 1e-4 and row['gap_mean'] <= row['gap_max']
  assert row['ruled_out'] == row['clipped_low'] == row['clipped_high'] == 0
  assert abs(row['kl_k1']) < 1e-5 and row['kl_k3'] < 1e-6


@pytest.mark.parametrize('accumulation', [
    pytest.param(1, marks=pytest.mark.slow),
    pytest.param(2, marks=pytest.mark.slow), 4])
def test_the_largest_gap_is_a_maximum(accumulation):
  batch = _batch(_run())
  r, x = np.argwhere(batch.is_trained)[7]
  behaviour = batch.rows.behaviour.copy()
  behaviour[r, x] -= 0.5
  behaviour[~batch.is_trained] = 9.0
  settings = small_rl.changed(
      _run().settings, num_accumulation=accumulation)
  metrics = _plain_sgd(settings)(
      _run().setup.start,
      batch.replace(rows=batch.rows.replace(behaviour=behaviour)))[1]
  np.testing.assert_allclose(metrics['gap_max'], 0.5, atol=1e-4)
  assert metrics['gap_mean'] < 0.1


@pytest.mark.parametrize('advantage', (
    'rloo', 'gae', *(
        pytest.param(name, marks=pytest.mark.slow) for name in (
            'mrt', 'reinforce', 'step_rloo', 'grpo', 'grpo_no_std',
            'vineppo'))))
def test_only_the_last_reward_counts_in_batch_loss_and_gradient(advantage):
  run = _run(advantage=advantage)
  assert all(np.isfinite(v) for v in run.rows[0].values()), run.rows[0]
  assert run.rows[0]['grad_norm'] > 1e-4
  assert ('value_error' in run.rows[0]) == (advantage == 'gae')
  *before, verdicts, progress, beta, values = run.calls[0]
  taken = np.asarray(verdicts.is_taken)
  noise = np.random.default_rng(5)

  def result(rewards):
    batch, is_flat = run.prepare(
        *before, verdicts.replace(rewards=rewards), progress, beta, values)
    return jax.device_get((
        batch, is_flat, _of_values(advantage)(_moved(), batch)))

  rewards = np.asarray(verdicts.rewards)
  others = noise.uniform(size=rewards.shape).astype(np.float32) * taken
  others[:, -1] = rewards[:, -1]
  assert (others != rewards).any()
  one, two = result(rewards), result(others)
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_array_equal(x, y)
  final = rewards.copy()
  final[:, -1] = taken[:, -1] * (1 - final[:, -1]) * 0.5
  assert (result(final)[0].advantages != one[0].advantages).any()


@functools.cache
def _of_values(advantage):
  """As `_gradient_of_loss`, with the value loss where there is one."""
  if advantage != 'gae':
    return _gradient_of_loss()
  run = _run(advantage='gae')
  return jax.jit(lambda params, batch: jax.value_and_grad(
      lambda params: update_lib.loss(
          run.model, run.settings, run.learner.objective,
          params, batch, jnp.arange(len(batch.weights)), jnp.float32(0.1),
          num_rows=len(batch.weights))[0])(params))


@pytest.mark.parametrize('name', [
    'erl2', *(pytest.param(name, marks=pytest.mark.slow) for name in (
        'rl2', 'score'))])
def test_with_one_episode_all_objectives_train_the_same(name):
  expected = _run('single').after.params
  run = _run(name, num_episodes=1)
  for x, y in zip(
      jax.tree.leaves(expected), jax.tree.leaves(run.after.params)):
    np.testing.assert_array_equal(x, y)
  assert set(family.OBJECTIVES) == {
      'single', 'erl2', 'rl2', 'score', 'weighted', 'myopic', 'star',
      'apa', 'qstar'}


@pytest.mark.parametrize('axes', [
    pytest.param(_AXES[0], marks=pytest.mark.slow), _AXES[1]])
def test_eight_devices_do_what_one_does(axes):
  """A whole iteration: the same tokens, and parameters up to rounding."""
  changes = _CHANGED | dict(
      num_questions=8, num_slots=16, num_minibatches=2, num_accumulation=2)
  one = _run(**changes)
  many = small_rl.Run(axes=axes, **changes)
  after, rows = many.iterate()
  here, there = jax.device_get((one.calls[0][4], many.calls[0][4]))
  for name in ('tokens', 'episode', 'lengths', 'starts', 'ends'):
    np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
  _assert_close(
      jax.device_get(after.params), jax.device_get(one.after.params), 1e-5)
  moved = jax.tree.map(jnp.subtract, one.after.params, one.setup.start)
  assert _size(moved) > 1e-3
  for key, value in one.rows[0].items():
    if not key.startswith(('time/', 'gap', 'occupancy')):
      np.testing.assert_allclose(rows[0][key], value, atol=1e-4, err_msg=key)


@pytest.mark.parametrize('changes, words', [
    (dict(kl_in='loss', kl_estimator='k1'),
     "kl_estimator: got 'k1' in the loss, where its expected gradient is zero"),
    (dict(kl_in='reward', kl_estimator='k3'), "got 'k3' in the reward"),
    (dict(kl_in='reward', kl_estimator='k1', advantage='gae'), 'kl_in: got'),
    (dict(num_samples=1), 'num_samples: got 1; advantage .rloo. compares'),
    (dict(discounts=(0.9, 1.0)), 'discount_prompts: got 1 prompts for 2'),
    (dict(discounts=(), discount_prompts=()), 'discounts: got none'),
    (dict(kl_target=0.1, kl_horizon=3), 'kl_horizon: got 3'),
    (dict(num_minibatches=3), 'num_minibatches: got 3'),
    (dict(score_hold=1.0), 'score_hold: got 1.0; must be less than'),
    (dict(advantage='vineppo', max_tokens=9), 'max_tokens: got 9'),
    (dict(advantage='vineppo', window=1), 'window: got 1'),
    (dict(min_success=0.6, max_success=0.5), 'min_success: got 0.6')])
def test_settings_that_do_not_go_together(changes, words):
  with pytest.raises(settings_lib.config_lib.ConfigError, match=words):
    small_rl.settings(**changes)
