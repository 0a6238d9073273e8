# SPDX-License-Identifier: Apache-2.0
"""Policy gradients: against enumeration and NumPy; weights of tokens."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.objectives import advantages
from meta_cot.objectives import erl2
from meta_cot.objectives import policy_gradient
from tests import tabular_episodes

_R, _L = 4, 6
_WORLD = tabular_episodes.make()


def _worth(objective, gamma):
  """Weights [K], discounted rewards [N, K], and their returns to go."""
  weights = erl2.reward_weights(
      tabular_episodes.NUM_EPISODES, dict(erl2=0.0, rl2=1.0)[objective])
  rewards = erl2.discount(
      jnp.asarray(_WORLD.rewards), jnp.asarray(_WORLD.tokens_before),
      jnp.full(len(_WORLD.tokens), gamma))
  return weights, rewards, erl2.returns_to_go(rewards, weights)


def _exact(theta, objective, gamma):
  """d/dtheta of the sum over all trajectories of p(trajectory) R."""
  worth = _WORLD.rewards.astype(np.float64) * gamma ** _WORLD.tokens_before
  returns = worth[:, 1] if objective == 'erl2' else worth.sum(axis=1)
  gradient = jax.jit(jax.grad(
      lambda theta: jnp.sum(_WORLD.probs(theta) * returns)))(theta)
  assert np.abs(gradient).max() > 0.01
  return gradient


def _surrogate(theta, values_NxL, level='token'):
  """Expected gradient of minus the loss of one trajectory, by enumeration."""

  def loss(theta):
    log_probs = _WORLD.log_probs(theta)
    losses = policy_gradient.clipped(
        log_probs, jax.lax.stop_gradient(log_probs), jnp.asarray(values_NxL),
        _WORLD.is_sampled, level=level, clip_low=0.2, clip_high=0.2)[0]
    probs = jax.lax.stop_gradient(_WORLD.probs(theta))
    return -jnp.sum(probs * jnp.sum(losses, axis=1))

  return jax.jit(jax.grad(loss))(theta)


_CASES = pytest.mark.parametrize('objective, gamma', [
    ('erl2', 1.0), ('rl2', 1.0), ('erl2', 0.8), ('rl2', 0.8)])


@_CASES
@pytest.mark.parametrize('level', policy_gradient.LEVELS)
def test_returns_against_enumeration(objective, gamma, level):
  theta = _WORLD.theta()
  returns = _worth(objective, gamma)[2]
  whole = jnp.repeat(returns[:, :1], 2, axis=1)
  for values in (returns, whole):
    np.testing.assert_allclose(
        _surrogate(theta, erl2.of_tokens(values, _WORLD.episode), level),
        _exact(theta, objective, gamma), atol=1e-5)


def test_exploration_left_out_is_another_gradient():
  """The law above can fail: it does where exploration gets no gradient."""
  values = jnp.asarray(_WORLD.rewards * np.float32([0, 1]))
  wrong = _surrogate(_WORLD.theta(), erl2.of_tokens(values, _WORLD.episode))
  assert np.abs(wrong - _exact(_WORLD.theta(), 'erl2', 1.0)).max() > 0.01


def _of_pairs(estimate, returns):
  """Mean advantage of each trajectory over its fellow, drawn from the policy.

  `estimate` takes groups [1, 2, ...] and gets all N * N pairs; the gradient of
  a pair is the mean of its two samples.
  """
  num = len(_WORLD.tokens)
  first, second = np.divmod(np.arange(num * num), num)
  pairs = jnp.stack([returns[first], returns[second]], axis=1)[:, None]
  got = np.asarray(jax.vmap(estimate)(pairs))[:, 0]
  probs = np.asarray(_WORLD.probs(_WORLD.theta()), np.float64)
  shape = (num, num, *got.shape[2:])
  spread = lambda p, x: np.tensordot(p, x, axes=1)
  mine = got[:, 0].reshape(shape).swapaxes(0, 1)
  return jnp.asarray(
      (spread(probs, mine) + spread(probs, got[:, 1].reshape(shape))) / 2,
      jnp.float32)


@_CASES
@pytest.mark.parametrize('estimate, factor', [
    (advantages.rloo, 1.0), (advantages.reinforce, 0.5),
    (functools.partial(advantages.grpo, use_std=False), 0.5)])
def test_groups_against_enumeration(objective, gamma, estimate, factor):
  """Leave one out has no bias; the others shrink by the share they promise."""
  theta = _WORLD.theta()
  values = _of_pairs(estimate, _worth(objective, gamma)[2][:, 0])
  values = jnp.repeat(values[:, None], 2, axis=1)
  np.testing.assert_allclose(
      _surrogate(theta, erl2.of_tokens(values, _WORLD.episode)),
      factor * _exact(theta, objective, gamma), atol=1e-5)


@_CASES
def test_step_rloo_against_enumeration(objective, gamma):
  """Return to go and its mask side by side: [..., 0] and [..., 1]."""
  theta = _WORLD.theta()
  both = jnp.stack(
      [_worth(objective, gamma)[2], _WORLD.is_used.astype(np.float32)], axis=-1)
  values = _of_pairs(
      lambda x: advantages.step_rloo(x[..., 0], x[..., 1] > 0), both)
  np.testing.assert_allclose(
      _surrogate(theta, erl2.of_tokens(values, _WORLD.episode)),
      _exact(theta, objective, gamma), atol=1e-5)


@_CASES
def test_vineppo_against_enumeration(objective, gamma):
  theta = _WORLD.theta()
  weights, rewards, returns = _worth(objective, gamma)
  values = _WORLD.values(
      theta, np.asarray(erl2.of_tokens(returns, _WORLD.episode)))
  starts = np.stack(  # V where each episode starts
      [values[np.arange(len(values)), np.argmax(_WORLD.episode == k, axis=1)
              + (k > 0)] for k in range(2)], axis=1)
  steps = advantages.vineppo(
      jnp.asarray(starts, jnp.float32), rewards * weights[None, :],
      jnp.asarray(_WORLD.is_used))
  np.testing.assert_allclose(
      _surrogate(theta, erl2.of_tokens(steps, _WORLD.episode)),
      _exact(theta, objective, gamma), atol=1e-5)


@_CASES
@pytest.mark.parametrize('lam', [0.0, 0.7, 1.0])
def test_gae_against_enumeration(objective, gamma, lam):
  """With exact values every lambda has the exact gradient."""
  theta = _WORLD.theta()
  weights, rewards, returns = _worth(objective, gamma)
  values = _WORLD.values(
      theta, np.asarray(erl2.of_tokens(returns, _WORLD.episode)))
  worth = erl2.of_tokens(rewards * weights[None, :], _WORLD.episode)
  got = advantages.gae(
      jnp.where(_WORLD.last_tokens(), worth, 0.0), jnp.asarray(values),
      jnp.asarray(_WORLD.is_sampled), gamma=1.0, lam=lam)[0]
  np.testing.assert_allclose(
      _surrogate(theta, got), _exact(theta, objective, gamma), atol=1e-5)


def make_rows(seed=0):
  """Log-probs of policy and behaviour, advantages, mask with a full row."""
  noise = np.random.default_rng(seed)
  behaviour = -noise.exponential(size=(_R, _L))
  log_probs = behaviour + 0.4 * noise.normal(size=(_R, _L))
  is_sampled = noise.uniform(size=(_R, _L)) < 0.7
  is_sampled[0], is_sampled[:, 0] = True, False
  return (log_probs, behaviour, noise.normal(size=(_R, _L)), is_sampled)


def _run(level, weighting, low=0.2, high=0.3):
  """Jitted: rows -> (loss, (losses, sums)), gradient by log-probs."""

  def loss(log_probs, behaviour, values, is_sampled):
    losses, sums = policy_gradient.clipped(
        log_probs, behaviour, values, is_sampled, level=level, clip_low=low,
        clip_high=high)
    weights = policy_gradient.token_weights(is_sampled, weighting)
    return jnp.sum(losses * weights), (losses, sums)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


_RUN_TOKEN = _run('token', 'token')
_RUN_SEQUENCE = _run('sequence', 'sequence')


def _clip_of_numpy(ratio, values, low=0.2, high=0.3):
  """PPO's objective, and where its gradient by the ratio is `values`."""
  held = np.clip(ratio, 1 - low, 1 + high)
  objective = np.minimum(ratio * values, held * values)
  return objective, ratio * values <= held * values


@hypothesis.given(st.integers(0, 10_000))
def test_token_level_against_numpy(seed):
  rows = make_rows(seed)
  log_probs, behaviour, values, is_sampled = rows
  ratio = np.exp(log_probs - behaviour)
  objective, is_free = _clip_of_numpy(ratio, values)
  total = is_sampled.sum()
  noisy = np.where(is_sampled, log_probs, np.nan).astype(np.float32)
  (loss, (losses, sums)), gradient = _RUN_TOKEN(
      noisy, *(x.astype(np.float32) for x in rows[1:3]), is_sampled)
  want = np.where(is_sampled, -objective, 0.0)
  np.testing.assert_allclose(losses, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(loss, want.sum() / total, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
      gradient, np.where(is_sampled & is_free, -ratio * values / total, 0.0),
      rtol=1e-4, atol=1e-6)
  assert sums['ruled_out'] == 0
  held = is_sampled & ~is_free
  assert sums['clipped_high'] == (held & (values > 0)).sum()
  assert sums['clipped_low'] == (held & (values < 0)).sum()
  np.testing.assert_allclose(sums['ratio'], ratio[is_sampled].sum(), rtol=1e-5)


@hypothesis.given(st.integers(0, 10_000), st.booleans())
def test_sequence_level_against_numpy(seed, is_alike):
  """GSPO with one advantage a row; its token form with one a token."""
  rows = make_rows(seed)
  log_probs, behaviour, values, is_sampled = rows
  if is_alike:
    values[:] = values[:, :1]
  count = is_sampled.sum(axis=1, keepdims=True)
  some = count > 0
  gap = np.where(is_sampled, log_probs - behaviour, 0).sum(
      axis=1, keepdims=True)
  ratio = np.exp(gap / np.maximum(count, 1))  # [R, 1]
  objective, is_free = _clip_of_numpy(ratio, values)
  (loss, _), gradient = _RUN_SEQUENCE(
      *(x.astype(np.float32) for x in rows[:3]), is_sampled)
  if is_alike:
    np.testing.assert_allclose(
        loss, -objective[:, 0][some[:, 0]].mean(), rtol=1e-4, atol=1e-6)
  share = is_sampled / np.maximum(count, 1) / some.sum()
  np.testing.assert_allclose(loss, -(share * objective).sum(), atol=1e-5)
  np.testing.assert_allclose(
      gradient, -share * is_free * ratio * values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('level', policy_gradient.LEVELS)
@pytest.mark.parametrize('ruled_out', [-1e30, -np.inf])
def test_tokens_that_can_no_longer_be_drawn(level, ruled_out):
  """Through the softmax of a truncated distribution; never a NaN."""
  noise = np.random.default_rng(0)
  logits = jnp.asarray(noise.normal(size=(2, 3, 4)), jnp.float32)
  tokens = jnp.asarray([[0, 1, 2], [3, 0, 1]])
  logits = logits.at[0, 1, 1].set(ruled_out)

  def loss(logits):
    log_probs = jnp.take_along_axis(
        jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    losses, sums = policy_gradient.clipped(
        log_probs, jnp.full((2, 3), -1.3), jnp.full((2, 3), -1.0),
        jnp.ones((2, 3), bool), level=level, clip_low=1.0, clip_high=9.0)
    ratio = policy_gradient.ratios(
        log_probs, jnp.full((2, 3), -1.3), jnp.ones((2, 3), bool), level=level)
    return jnp.sum(losses), (ratio, sums)

  gradient, (ratio, sums) = jax.grad(loss, has_aux=True)(logits)
  assert np.all(np.isfinite(gradient)) and sums['ruled_out'] == 1
  gone = np.zeros((2, 3), bool)
  gone[0, 1] = True
  if level == 'sequence':
    gone[0] = True
  np.testing.assert_array_equal(np.asarray(ratio) == 0, gone)
  np.testing.assert_array_equal(
      np.abs(np.asarray(gradient)).sum(axis=-1) == 0, gone)


@pytest.mark.parametrize('level', policy_gradient.LEVELS)
def test_ratios_of_the_same_policy_are_one(level):
  log_probs, _, _, is_sampled = map(jnp.asarray, make_rows())
  ratio = policy_gradient.ratios(
      log_probs, log_probs, is_sampled, level=level)
  np.testing.assert_array_equal(ratio, np.ones((_R, _L)))


def test_weights():
  is_sampled = make_rows()[3]
  is_sampled[2] = False  # a row of padding
  count = is_sampled.sum(axis=1, keepdims=True)
  weights = functools.partial(
      policy_gradient.token_weights, jnp.asarray(is_sampled))
  for how, want in (
      ('token', is_sampled / count.sum()),
      ('sequence', is_sampled / np.maximum(count, 1) / 3)):
    np.testing.assert_allclose(weights(how), want, rtol=1e-6)
    np.testing.assert_allclose(weights(how).sum(), 1, rtol=1e-6)
  np.testing.assert_allclose(
      weights('constant', constant=8), is_sampled / (3 * 8), rtol=1e-6)
  nothing = jnp.zeros((2, 3), bool)
  for how in ('token', 'sequence'):
    assert not np.any(policy_gradient.token_weights(nothing, how))


@pytest.mark.parametrize('level', policy_gradient.LEVELS)
@pytest.mark.parametrize('how', policy_gradient.WEIGHTINGS)
def test_micro_batches_add_up(level, how):
  rows = [jnp.asarray(x) for x in make_rows()]
  weights = policy_gradient.token_weights(rows[3], how, constant=7.0)

  @jax.jit
  def step(part_weights, *part):
    def loss(log_probs):
      losses, sums = policy_gradient.clipped(
          log_probs, *part[1:], level=level, clip_low=0.2, clip_high=0.2)
      return jnp.sum(losses * part_weights), sums
    return jax.value_and_grad(loss, has_aux=True)(part[0])

  whole, *parts = (
      step(*(x[part] for x in (weights, *rows)))
      for part in (slice(0, 4), slice(0, 1), slice(1, 4)))
  jax.tree.map(
      lambda x, y, z: np.testing.assert_allclose(x, y + z, rtol=1e-6),
      whole[0], *(x[0] for x in parts))
  np.testing.assert_array_equal(
      whole[1], np.concatenate([x[1] for x in parts]))


def test_entropy():
  logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
  logits[0, 1, 2:], logits[1, 0, 1] = -1e30, -np.inf
  probs = np.exp(logits.astype(np.float64))
  probs /= probs.sum(axis=-1, keepdims=True)
  log_probs = np.log(np.maximum(probs, 1e-300))
  want = -np.sum(probs * log_probs, axis=-1)
  got, gradient = jax.value_and_grad(lambda x: jnp.sum(
      policy_gradient.entropy(x)))(jnp.asarray(logits))
  np.testing.assert_allclose(got, want.sum(), rtol=1e-5)
  np.testing.assert_allclose(
      policy_gradient.entropy(jnp.asarray(logits)), want, rtol=1e-5)
  np.testing.assert_allclose(
      gradient, -probs * (log_probs + want[..., None]), atol=1e-6)
