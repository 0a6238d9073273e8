# SPDX-License-Identifier: Apache-2.0
"""What lies between E-RL^2 and RL^2, episodes by themselves, and entropy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_cot.objectives import erl2
from meta_cot.rl import update as update_lib
from meta_cot.settings import config as config_lib
from tests import small_rl


@functools.cache
def _run(objective, **changes):
  run = small_rl.Run(objective, objectives=(objective,), **changes)
  run.after, run.rows = run.iterate()
  return run


def _advantages(run, rewards, progress=0.0):
  """Of the tokens [R, X], were these the rewards; and their episodes."""
  *before, verdicts, _, beta, values = run.calls[0]
  batch, _ = run.prepare(
      *before, verdicts.replace(
          rewards=np.asarray(rewards, np.float32),
          is_taken=np.ones_like(rewards, bool)), jnp.float32(progress), beta,
      values)
  return jax.device_get((batch.advantages, batch.rows.episode))


def _rewards(seed=0):
  return np.random.default_rng(seed).integers(0, 2, (16, 3))


def _by_rloo(returns_N):
  """Minus the mean of the question's three others, plainly."""
  groups = returns_N.reshape(4, 4).astype(float)
  others = (groups.sum(axis=1, keepdims=True) - groups) / 3
  return (groups - others).reshape(-1)


@pytest.mark.parametrize('objective, weight', [
    ('erl2', 0.0), ('weighted', 0.25),
    pytest.param('weighted', 0.0, marks=pytest.mark.slow), ('rl2', 1.0)])
def test_earlier_episodes_count_as_much_as_is_set(objective, weight):
  changes = dict(earlier_weight=weight) if objective == 'weighted' else {}
  run, rewards = _run(objective, **changes), _rewards()
  got, episode = _advantages(run, rewards)
  want = _by_rloo(rewards @ np.array([weight, weight, 1.0]))
  for n in range(16):
    np.testing.assert_allclose(
        got[n], np.where(episode[n] >= 0, want[n], 0.0), atol=1e-6)


def test_under_erl2_earlier_rewards_change_no_bit():
  run, rewards = _run('erl2'), _rewards()
  got, _ = _advantages(run, rewards)
  changed = rewards.copy()
  changed[:, :2] = 1 - changed[:, :2]
  np.testing.assert_array_equal(got, _advantages(run, changed)[0])
  changed[0, 2] = 1 - changed[0, 2]
  assert (got != _advantages(run, changed)[0]).any()
  # Under the others they do.
  for objective in ('rl2', 'weighted', 'myopic'):
    run, changed = _run(objective), rewards.copy()
    changed[0, 0] = 1 - changed[0, 0]
    assert (_advantages(run, rewards)[0] != _advantages(run, changed)[0]).any()


@pytest.mark.parametrize('advantage', [
    'rloo', pytest.param('step_rloo', marks=pytest.mark.slow), 'grpo_no_std'])
def test_a_myopic_episode_earns_its_own_reward_alone(advantage):
  run, rewards = _run('myopic', advantage=advantage), _rewards()
  got, episode = _advantages(run, rewards)
  factor = 0.75 if advantage == 'grpo_no_std' else 1.0  # itself in the mean
  for e in range(3):
    want = factor * _by_rloo(rewards[:, e])
    for n in range(16):
      np.testing.assert_allclose(got[n][episode[n] == e], want[n], atol=1e-6)


def test_later_rewards_are_discounted_by_the_episode():
  run, rewards = _run('rl2', episode_discount=0.5), _rewards()
  got, episode = _advantages(run, rewards)
  to_go = rewards @ np.array([[1, 0, 0], [0.5, 1, 0], [0.25, 0.5, 1]])
  for e in range(3):
    want = _by_rloo(to_go[:, e])
    for n in range(16):
      np.testing.assert_allclose(got[n][episode[n] == e], want[n], atol=1e-6)


@pytest.mark.parametrize('discount', [0.0, 0.5, 1.0])
def test_returns_to_go(discount):
  rewards = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
  got = erl2.returns_to_go(
      jnp.asarray(rewards), jnp.asarray([0.5, 0.5, 1.0]), discount)
  want = [[
      sum(discount ** (j - k) * w * r for j, (w, r) in enumerate(
          zip((0.5, 0.5, 1.0), row)) if j >= k) for k in range(3)]
          for row in rewards]
  np.testing.assert_allclose(got, want)


@pytest.mark.parametrize('changes, words', [
    (dict(episode_discount=0.5, advantage='vineppo'), 'episode_discount: got'),
    (dict(objectives=('myopic',), advantage='gae'), "objectives: got 'myopic'"),
    (dict(earlier_weight=1.5), 'earlier_weight: got 1.5'),
    (dict(feedback='task'), "this task gives none"),
    (dict(feedback='task', advantage='vineppo'), 'are not answered'),
    (dict(feedback='task', exploration='beam'), 'nobody answers')])
def test_what_does_not_go_together(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    setup = small_rl.setup(small_rl.experiment(**changes), (1, 1, 1))
    assert setup.programs.rules
  assert '\n' not in str(error.value)


def test_the_bonus_goes_linearly_from_one_value_to_the_other():
  run = _run('erl2', entropy_bonus=0.2, entropy_bonus_end=0.0)
  *before, _, beta, values = run.calls[0]
  for progress, want in ((0.0, 0.2), (0.25, 0.15), (1.0, 0.0)):
    batch, _ = run.prepare(*before, jnp.float32(progress), beta, values)
    np.testing.assert_allclose(batch.entropy_bonus, want, atol=1e-7)
  fixed = _run('erl2', entropy_bonus=0.2)
  assert set(np.asarray(fixed.batches[0].entropy_bonus)) == {np.float32(0.2)}
  assert _run('erl2').batches[0].entropy_bonus is None


def test_the_gradient_of_the_bonus_is_that_of_the_mean_entropy():
  """Along a random direction, by differences."""
  run, bonus = _run('erl2', kl_in='none'), 0.5
  batch = jax.device_get(run.batches[0])
  batch = dataclasses.replace(
      batch, advantages=np.zeros_like(batch.advantages))
  step = jax.jit(update_lib.make(
      run.model, run.settings, run.settings.objective('erl2'), optax.sgd(1.0),
      lambda step: 1.0))

  def update(params, number):
    state = run.state().replace(
        params=params, opt_state=optax.sgd(1.0).init(params))
    return step(state, batch.replace(entropy_bonus=np.full(
        len(batch.advantages), number, np.float32)), 0, jnp.float32(0), {})

  start = run.setup.start
  new, _ = update(start, bonus)
  noise = np.random.default_rng(0)
  direction = jax.tree.map(
      lambda x: noise.standard_normal(x.shape).astype(x.dtype), start)
  moved = lambda size: update(jax.tree.map(
      lambda x, d: x + size * d, start, direction), 0.0)[1]['entropy']
  size = 1e-3
  slope = (moved(size) - moved(-size)) / (2 * size)
  rise = sum(
      float(np.sum((np.asarray(a) - np.asarray(b)) * d)) for a, b, d in zip(
          *map(jax.tree.leaves, (new.params, start, direction)), strict=True))
  assert abs(slope) > 1e-3
  np.testing.assert_allclose(rise, bonus * float(slope), rtol=2e-2)
