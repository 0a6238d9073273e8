# SPDX-License-Identifier: Apache-2.0
"""What episodes are worth, and the laws of E-RL^2."""

import functools

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.objectives import advantages
from meta_cot.objectives import erl2
from meta_cot.objectives import policy_gradient
from meta_cot.rl import family
from meta_cot.rl import objective
from tests import small_rl
from tests import tabular_episodes

_Q, _G, _K = 3, 4, 3
_N = _Q * _G
_VERDICTS = hnp.arrays(
    np.float32, (_N, _K),
    elements=st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0]))
_ESTIMATORS = (
    'reinforce', 'rloo', 'step_rloo', 'grpo', 'dr_grpo', 'vineppo', 'gae')


def _objective(name: str) -> objective.Objective:
  return small_rl.settings(score_hold=0.5).objective(name)


def test_weights():
  for name, early in (('erl2', 0), ('rl2', 1)):
    weights = _objective(name).weights(3, 0.7)
    np.testing.assert_array_equal(weights, [early, early, 1])
    assert weights.dtype == jnp.float32
  score = [
      float(_objective('score').weights(3, p)[0])
      for p in (0.0, 0.3, 0.5, 0.75, 1.0)]
  assert score == [0, 0, 0, 0.5, 1]


def test_progress_may_be_traced():
  weights = jax.jit(lambda p: _objective('score').weights(2, p))
  np.testing.assert_allclose(weights(0.9), [0.8, 1.0], rtol=1e-6)


@pytest.mark.parametrize('name', family.OBJECTIVES)
@pytest.mark.parametrize('progress', [0.0, 0.7, 1.0])
def test_all_are_the_same_with_one_episode(name, progress):
  want = 0.0 if name == 'qstar' else 1.0  # there no verdict counts
  np.testing.assert_array_equal(_objective(name).weights(1, progress), [want])


def test_standard_rl_has_one_episode():
  for name in family.OBJECTIVES:
    assert _objective(name).num_episodes(3) == (1 if name == 'single' else 3)


@hypothesis.given(
    _VERDICTS, st.sampled_from(['erl2', 'rl2', 'score']), st.floats(0, 1))
def test_returns_to_go_against_a_loop(rewards, name, progress):
  weights = _objective(name).weights(_K, progress)
  got = erl2.returns_to_go(jnp.asarray(rewards), weights)
  want = [
      [sum(float(weights[j]) * float(rewards[n, j]) for j in range(k, _K))
       for k in range(_K)] for n in range(_N)]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
  if name == 'erl2':
    np.testing.assert_array_equal(got, np.repeat(rewards[:, 2:], _K, axis=1))


def test_discount_against_a_loop():
  rewards = np.array([[1, 0.5], [1, 1], [0, 1]], np.float32)
  before = np.array([[0, 7], [0, 100], [0, 3]], np.int32)
  gamma = np.array([0.99, 0.995, 1.0], np.float32)
  want = [[gamma[n] ** before[n, k] * rewards[n, k] for k in range(2)]
          for n in range(3)]
  got = erl2.discount(*map(jnp.asarray, (rewards, before, gamma)))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_array_equal(got[2], rewards[2])


def test_values_of_tokens():
  values = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
  episode = jnp.asarray([[-1, 0, 0, 1, -1], [-1, 1, 1, 2, 0]])
  np.testing.assert_array_equal(
      erl2.of_tokens(values, episode), [[0, 1, 1, 2, 0], [0, 4, 4, 0, 3]])


@functools.cache
def _loss_and_gradient(estimator: str, name: str):
  """Jitted: rewards [N, K] -> loss and gradient of a random policy."""
  noise = np.random.default_rng(3)
  length = 9
  episode = np.tile(np.repeat(np.arange(_K), 3), (_N, 1))
  is_sampled = jnp.asarray(np.tile([True, True, False], (_N, _K)))
  theta = jnp.asarray(noise.normal(size=(_N, length)), jnp.float32)
  behaviour = theta + jnp.asarray(
      noise.normal(size=theta.shape) * 0.1, jnp.float32)
  values = jnp.asarray(noise.uniform(size=(_N, _K)), jnp.float32)
  is_used = jnp.ones((_N, _K), bool)
  is_last = jnp.asarray(np.tile([False, True, False], (_N, _K)))
  weights = _objective(name).weights(_K, 0.0)

  def advantages_of(rewards):
    returns = erl2.returns_to_go(rewards, weights)
    whole, steps = (
        returns[:, 0].reshape(_Q, _G), returns.reshape(_Q, _G, _K))
    alike = lambda x: jnp.repeat(x.reshape(_N, 1), _K, axis=1)
    # What an episode brings: its return to go less that of the next.
    brings = returns - jnp.pad(returns[:, 1:], ((0, 0), (0, 1)))
    match estimator:
      case 'reinforce':
        per_episode = alike(advantages.reinforce(whole))
      case 'rloo':
        per_episode = alike(advantages.rloo(whole))
      case 'step_rloo':
        per_episode = advantages.step_rloo(
            steps, is_used.reshape(_Q, _G, _K)).reshape(_N, _K)
      case 'grpo' | 'dr_grpo':
        per_episode = alike(
            advantages.grpo(whole, use_std=estimator == 'grpo'))
      case 'vineppo':
        per_episode = advantages.vineppo(values, brings, is_used)
      case 'gae':
        return advantages.gae(
            jnp.where(is_last, erl2.of_tokens(brings, episode), 0.0),
            erl2.of_tokens(values, episode), is_sampled, gamma=1.0, lam=0.9)[0]
    return erl2.of_tokens(per_episode, episode)

  def loss(theta, advantages_RxL):
    losses = policy_gradient.clipped(
        theta, behaviour, advantages_RxL, is_sampled, level='token',
        clip_low=0.2, clip_high=0.2)[0]
    return jnp.sum(
        losses * policy_gradient.token_weights(is_sampled, 'token'))

  return jax.jit(
      lambda rewards: jax.value_and_grad(loss)(theta, advantages_of(rewards)))


@pytest.mark.parametrize('estimator', _ESTIMATORS)
@hypothesis.given(_VERDICTS, _VERDICTS)
def test_only_the_final_reward_counts(estimator, rewards, others):
  """Bit for bit, under E-RL^2."""
  step = _loss_and_gradient(estimator, 'erl2')
  others[:, -1] = rewards[:, -1]
  others[0, 0] = np.nan  # not even looked at
  for one, other in zip(step(rewards), step(others)):
    np.testing.assert_array_equal(one, other)
  assert np.isfinite(step(others)[0])


@pytest.mark.parametrize('estimator', _ESTIMATORS)
def test_other_rewards_do_count_elsewhere(estimator):
  rewards = np.random.default_rng(0).uniform(size=(_N, _K)).astype(np.float32)
  final, others = rewards.copy(), rewards.copy()
  final[0, -1] += 1
  others[0, 0] += 1
  for name, changed in (('erl2', final), ('rl2', final), ('rl2', others)):
    step = _loss_and_gradient(estimator, name)
    assert np.any(np.asarray(step(rewards)[1]) != step(changed)[1])


@pytest.mark.parametrize('estimator', _ESTIMATORS)
def test_exploration_gets_the_gradient(estimator):
  rewards = np.zeros((_N, _K), np.float32)
  rewards[::2, -1] = 1.0
  gradient = _loss_and_gradient(estimator, 'erl2')(rewards)[1]
  assert np.abs(np.asarray(gradient)[:, :3]).max() > 1e-3  # the first episode
  assert np.all(np.asarray(gradient)[:, 2::3] == 0)  # resets


def test_the_tabular_world():
  world = tabular_episodes.make()
  assert world.tokens.shape == (43, 6) and world.num_contexts == 3 + 6 * 3
  np.testing.assert_allclose(world.probs(world.theta()).sum(), 1, rtol=1e-6)
  before = [
      [(world.is_sampled[n] & (world.episode[n] < k)).sum() for k in range(2)]
      for n in range(43)]
  np.testing.assert_array_equal(world.tokens_before, before)
