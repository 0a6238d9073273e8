# SPDX-License-Identifier: Apache-2.0
"""KL estimators on enumerated distributions: values and gradients."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.objectives import advantages
from meta_cot.objectives import kl
from meta_cot.objectives import policy_gradient
from tests import tabular_episodes

_V = 5
_SEEDS = st.integers(0, 1000)


def make_pair(seed, scale=1.0):
  """Logits of a policy and log-probabilities of a reference, [V]."""
  noise = np.random.default_rng(seed)
  logits, other = noise.normal(size=(2, _V)) * scale
  return (jnp.asarray(logits, jnp.float32),
          jax.nn.log_softmax(jnp.asarray(other, jnp.float32)))


def divergence(logits, reference):
  """KL(pi || ref), exactly."""
  log_probs = jax.nn.log_softmax(logits)
  return jnp.sum(jnp.exp(log_probs) * (log_probs - reference))


def reverse(logits, reference):
  """KL(ref || pi), exactly."""
  return jnp.sum(jnp.exp(reference) * (
      reference - jax.nn.log_softmax(logits)))


def expected_in_loss(logits, reference, estimator):
  """The mean over tokens drawn from pi whose drawing is not differentiated."""
  log_probs = jax.nn.log_softmax(logits)
  return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_probs)) * kl.estimate(
      log_probs, reference, estimator))


def expected_in_reward(logits, reference, estimator):
  """The mean whose drawing is differentiated and whose value is not."""
  log_probs = jax.nn.log_softmax(logits)
  return jnp.sum(jnp.exp(log_probs) * jax.lax.stop_gradient(kl.estimate(
      log_probs, reference, estimator)))


@hypothesis.given(_SEEDS)
def test_against_numpy(seed):
  logits, reference = make_pair(seed)
  log_probs = jax.nn.log_softmax(logits)
  d = np.asarray(log_probs, np.float64) - np.asarray(reference, np.float64)
  for estimator, want in (
      ('k1', d), ('k2', d ** 2 / 2), ('k3', np.exp(-d) - 1 + d)):
    np.testing.assert_allclose(
        kl.estimate(log_probs, reference, estimator), want,
        rtol=1e-4, atol=1e-5)
  assert np.all(np.asarray(kl.estimate(log_probs, reference, 'k3')) >= -1e-7)


@hypothesis.given(_SEEDS)
def test_k1_and_k3_are_unbiased(seed):
  logits, reference = make_pair(seed)
  for estimator in ('k1', 'k3'):
    np.testing.assert_allclose(
        expected_in_loss(logits, reference, estimator),
        divergence(logits, reference), atol=1e-5)


def test_k2_is_biased_but_right_when_near():
  far, near = make_pair(0), make_pair(0, scale=0.01)
  ratio = [expected_in_loss(*x, 'k2') / divergence(*x) for x in (far, near)]
  assert abs(ratio[0] - 1) > 0.05 and abs(ratio[1] - 1) < 0.01


@functools.cache
def _gradients(estimator):
  gradient = lambda f: jax.grad(functools.partial(f, estimator=estimator))
  return jax.jit(lambda logits, reference: (
      gradient(expected_in_loss)(logits, reference),
      gradient(expected_in_reward)(logits, reference),
      jax.grad(divergence)(logits, reference),
      jax.grad(reverse)(logits, reference)))


@hypothesis.given(_SEEDS)
def test_gradients_in_the_loss(seed):
  pair = make_pair(seed)
  close = functools.partial(np.testing.assert_allclose, atol=1e-5)
  close(_gradients('k1')(*pair)[0], np.zeros(_V))
  in_loss, _, forward, _ = _gradients('k2')(*pair)
  close(in_loss, forward)
  in_loss, _, _, backward = _gradients('k3')(*pair)
  close(in_loss, backward)


@hypothesis.given(_SEEDS)
def test_gradients_in_the_reward(seed):
  _, in_reward, forward, _ = _gradients('k1')(*make_pair(seed))
  np.testing.assert_allclose(in_reward, forward, atol=1e-5)


@pytest.mark.parametrize('estimator', ['k2', 'k3'])
def test_others_in_the_reward_vanish_near_the_reference(estimator):
  _, in_reward, forward, _ = _gradients(estimator)(*make_pair(1, scale=0.01))
  assert np.abs(in_reward).max() < 0.02 * np.abs(forward).max()


def test_the_regularised_objective():
  """Eq. 15: the penalty and the policy gradient against full autodiff."""
  world = tabular_episodes.make()
  theta, beta = world.theta(), 0.3
  reference = world.log_probs(world.theta(1))
  last = world.last_tokens()
  rewards = np.where(last & (world.episode == 1), world.rewards[:, 1:], 0)

  def objective(theta):
    penalty = jnp.sum(world.log_probs(theta) - reference, axis=1)
    return jnp.sum(world.probs(theta) * (
        rewards.sum(axis=1) - beta * penalty))

  def surrogate(theta):
    log_probs = world.log_probs(theta)
    regularised = jnp.asarray(rewards) - beta * kl.penalty(
        log_probs, reference, world.is_sampled, 'k1')
    returns = advantages.gae(
        regularised, jnp.zeros_like(regularised), world.is_sampled,
        gamma=1.0, lam=1.0)[0]
    losses = policy_gradient.clipped(
        log_probs, jax.lax.stop_gradient(log_probs), returns,
        world.is_sampled, level='token', clip_low=0.2, clip_high=0.2)[0]
    probs = jax.lax.stop_gradient(world.probs(theta))
    return -jnp.sum(probs * jnp.sum(losses, axis=1))

  want = jax.jit(jax.grad(objective))(theta)
  assert np.abs(want).max() > 0.01
  np.testing.assert_allclose(
      jax.jit(jax.grad(surrogate))(theta), want, atol=1e-5)


def test_only_sampled_tokens_are_charged():
  noise = np.random.default_rng(0)
  log_probs, reference = -noise.uniform(size=(2, 2, 4)).astype(np.float32)
  is_sampled = jnp.asarray([[1, 1, 0, 0], [0, 1, 0, 1]], bool)
  log_probs = jnp.where(is_sampled, log_probs, jnp.nan)
  for estimator in kl.ESTIMATORS:
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(
        kl.penalty(x, reference, is_sampled, estimator)))(log_probs)
    want = kl.estimate(log_probs, jnp.asarray(reference), estimator)
    np.testing.assert_allclose(value, want[is_sampled].sum(), rtol=1e-5)
    assert np.all(np.asarray(gradient)[~np.asarray(is_sampled)] == 0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize('estimator', kl.ESTIMATORS)
def test_tokens_ruled_out_stay_finite(estimator):
  log_probs = jnp.asarray([-1e30, -1.0, -1e30])
  reference = jnp.asarray([-1.0, -1e30, -1e30])
  value, gradient = jax.value_and_grad(
      lambda x: jnp.sum(kl.estimate(x, reference, estimator)))(log_probs)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_adaptive_coefficient():
  adapt = functools.partial(kl.adapt, target=2.0, horizon=100, num=10)
  for measured, want in (
      (2.0, 0.5), (2.2, 0.505), (1.8, 0.495), (9.0, 0.51), (0.0, 0.49)):
    np.testing.assert_allclose(adapt(0.5, measured), want, rtol=1e-6)
