# SPDX-License-Identifier: Apache-2.0
"""APA: its gradient against enumeration, and what its iterations do."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.settings import config as config_lib
from tests import small_rl
from tests import tabular_episodes

_WORLD = tabular_episodes.make()
_LAMBDA = 0.7


def _objective():
  return small_rl.settings(
      objectives=('apa',), apa_lambda=_LAMBDA, kl_in='none').objective('apa')


def _loss(theta, start, advantages_NxL):
  """Expected loss of a trajectory that the policy draws, by enumeration."""
  log_probs = _WORLD.log_probs(theta)
  batch = types.SimpleNamespace(
      is_trained=_WORLD.is_sampled, advantages=advantages_NxL,
      reference=_WORLD.log_probs(start), entropy_bonus=None, targets=None)
  losses, _ = _objective().loss(
      types.SimpleNamespace(plain=log_probs), batch, jnp.float32(0))
  probs = jax.lax.stop_gradient(_WORLD.probs(theta))
  return jnp.sum(probs * jnp.sum(losses, axis=1))


_gradient = jax.jit(jax.grad(_loss))


def _softmax(row):
  weights = np.exp(row - row.max())
  return weights / weights.sum()


def _by_loops(theta, start, advantages_NxL):
  """The gradient in NumPy, trajectory by trajectory and token by token."""
  theta, start = np.asarray(theta, np.float64), np.asarray(start, np.float64)
  gradient = np.zeros_like(theta)
  for n in range(len(_WORLD.tokens)):
    probability, steps = 1.0, []
    for x in np.flatnonzero(_WORLD.is_sampled[n]):
      context, token = _WORLD.context[n, x], _WORLD.tokens[n, x]
      policy = _softmax(theta[context])
      error = (
          np.log(policy[token]) - np.log(_softmax(start[context])[token])
          - advantages_NxL[n, x] / _LAMBDA)
      steps.append((context, 2 * error * (np.eye(3)[token] - policy)))
      probability *= policy[token]
    for context, change in steps:
      gradient[context] += probability * change
  return gradient


def _advantages(start):
  """Exact ones of E-RL^2: what a token adds to the value before it, [N, L]."""
  rewards = np.broadcast_to(_WORLD.rewards[:, 1:], _WORLD.tokens.shape)
  values = _WORLD.values(start, rewards)
  after = np.zeros_like(values)
  for n in range(len(values)):
    drawn = np.flatnonzero(_WORLD.is_sampled[n])
    after[n, drawn] = [*values[n, drawn[1:]], rewards[n, 0]]
  return np.where(_WORLD.is_sampled, after - values, 0).astype(np.float32)


def test_the_gradient_against_enumeration():
  theta, start = _WORLD.theta(), _WORLD.theta(1)
  advantages = _advantages(start)
  got = _gradient(theta, start, advantages)
  want = _by_loops(theta, start, advantages)
  assert np.abs(want).max() > 0.1
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_at_the_start_it_is_a_policy_gradient():
  """There errors are advantages over lambda: 2 / lambda of the gradient."""
  start = _WORLD.theta(1)
  got = _gradient(start, start, _advantages(start))
  rewards = jnp.asarray(_WORLD.rewards[:, 1])
  want = jax.grad(lambda theta: jnp.sum(_WORLD.probs(theta) * rewards))(start)
  np.testing.assert_allclose(got, -2 / _LAMBDA * want, atol=1e-5)


def test_it_is_drawn_to_the_start_times_the_exponential_of_advantages():
  """Where that is a policy it has no gradient: log-probs are as they should."""
  start, goal = _WORLD.theta(1), _WORLD.theta()
  advantages = _LAMBDA * (_WORLD.log_probs(goal) - _WORLD.log_probs(start))
  assert np.abs(_gradient(goal, start, advantages)).max() < 1e-5
  assert np.abs(_gradient(start, start, advantages)).max() > 0.1


def test_what_was_not_drawn_has_no_gradient():
  advantages = np.where(_WORLD.is_sampled, _advantages(_WORLD.theta(1)), np.nan)
  got = _gradient(_WORLD.theta(), _WORLD.theta(1), advantages)
  assert np.isfinite(got).all()


def test_it_learns():
  run = small_rl.Run(
      'apa', objectives=('apa',), kl_in='none', apa_lambda=_LAMBDA)
  assert run.learner.objective.needs == {'reference'}
  assert not run.learner.objective.is_by_advantage
  _, rows = run.iterate(2)
  batch = jax.device_get(run.batches[0])
  # Before its first update the policy is the start.
  mean = np.square(batch.advantages[batch.is_trained] / _LAMBDA).mean()
  np.testing.assert_allclose(rows[0]['apa_error'], mean, rtol=1e-3)
  assert rows[0]['grad_norm'] > 1e-4
  assert {'kl_k1', 'kl_k3', 'loss'} <= rows[0].keys()
  assert 'clipped_low' not in rows[0]


def test_what_else_is_in_the_loss_is_that_of_policy_gradients():
  values = dict(objectives=('apa',), apa_lambda=_LAMBDA)
  plain, with_kl = (
      small_rl.settings(**values, kl_in=kl_in, kl_coefficient=0.1)
      for kl_in in ('none', 'loss'))
  theta, start = _WORLD.theta(), _WORLD.theta(1)
  batch = types.SimpleNamespace(
      is_trained=_WORLD.is_sampled, advantages=_advantages(start),
      reference=_WORLD.log_probs(start), entropy_bonus=None, targets=None)
  scores = types.SimpleNamespace(
      plain=_WORLD.log_probs(theta), sampled=_WORLD.log_probs(theta))
  of = lambda settings, name: settings.objective(name).loss(
      scores, batch, jnp.float32(0.1))[0]
  batch.rows = types.SimpleNamespace(behaviour=_WORLD.log_probs(theta))
  np.testing.assert_allclose(
      of(with_kl, 'apa') - of(plain, 'apa'),
      of(with_kl, 'erl2') - of(plain, 'erl2'), atol=1e-5)


def test_lambda_is_above_zero():
  with pytest.raises(config_lib.ConfigError, match='apa_lambda: got 0.0'):
    small_rl.settings(apa_lambda=0.0)
