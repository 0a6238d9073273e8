# SPDX-License-Identifier: Apache-2.0
"""Advantage estimators against plain Python."""

import functools
import statistics

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot.objectives import advantages

_Q, _G, _K, _L = 2, 3, 4, 7
_EIGHTHS = st.integers(-16, 16).map(lambda i: i / 8)
_GROUPS = hnp.arrays(np.float32, (_Q, _G), elements=_EIGHTHS)
_STEPS = hnp.arrays(np.float32, (_Q, _G, _K), elements=_EIGHTHS)
_ROWS = hnp.arrays(np.float32, (_Q, _L), elements=_EIGHTHS)
_USED = hnp.arrays(bool, (_Q, _G, _K))
_SAMPLED = hnp.arrays(bool, (_Q, _L))


def assert_close(got, want):
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@hypothesis.given(_GROUPS)
def test_reinforce(returns):
  mean = sum(float(r) for r in returns.ravel()) / (_Q * _G)
  assert_close(
      advantages.reinforce(jnp.asarray(returns)),
      [[float(r) - mean for r in group] for group in returns])


@hypothesis.given(_GROUPS)
def test_rloo(returns):
  want = [
      [float(group[g]) - statistics.fmean(
          float(group[h]) for h in range(_G) if h != g) for g in range(_G)]
      for group in returns]
  assert_close(advantages.rloo(jnp.asarray(returns)), want)


@hypothesis.given(_GROUPS, st.booleans())
def test_grpo(returns, use_std):
  want = np.zeros((_Q, _G))
  for q, group in enumerate(returns.astype(float)):
    spread = statistics.stdev(group) + 1e-6 if use_std else 1.0
    for g in range(_G):
      want[q, g] = (group[g] - statistics.fmean(group)) / spread
  assert_close(advantages.grpo(jnp.asarray(returns), use_std=use_std), want)


@hypothesis.given(_STEPS, _USED)
def test_step_rloo(returns, is_used):
  want = np.zeros((_Q, _G, _K))
  for q, g, k in np.ndindex(want.shape):
    peers = [float(returns[q, h, k]) for h in range(_G)
             if h != g and is_used[q, h, k]]
    if is_used[q, g, k]:
      baseline = statistics.fmean(peers) if peers else 0.0
      want[q, g, k] = float(returns[q, g, k]) - baseline
  got = advantages.step_rloo(jnp.asarray(returns), jnp.asarray(is_used))
  assert_close(got, want)


@hypothesis.given(_STEPS)
def test_further_axes_are_separate_problems(returns):
  for estimator in (
      advantages.reinforce, advantages.rloo,
      functools.partial(advantages.grpo, use_std=True)):
    whole = estimator(jnp.asarray(returns))
    for k in range(_K):
      assert_close(whole[..., k], estimator(jnp.asarray(returns[..., k])))
  used = jnp.ones((_Q, _G, _K), bool)
  assert_close(
      advantages.step_rloo(jnp.asarray(returns), used),
      advantages.rloo(jnp.asarray(returns)))


@hypothesis.given(
    st.floats(-10, 10, width=32), st.sampled_from([2, 7]), st.booleans())
def test_a_group_without_a_difference_has_no_gradient(value, num, use_std):
  """Exactly, although 0.7290001 is not the rounded mean of its copies."""
  returns = jnp.full((2, num), value, jnp.float32)
  used = jnp.ones((2, num, 1), bool).at[0, 0].set(num < 3)
  for got in (
      advantages.reinforce(returns), advantages.rloo(returns),
      advantages.grpo(returns, use_std=use_std),
      advantages.step_rloo(returns[..., None], used)):
    assert not np.any(np.asarray(got))


@hypothesis.given(_ROWS, _ROWS, _SAMPLED)
def test_vineppo(values, rewards, is_used):
  want, total = np.zeros((_Q, _L)), np.zeros(_Q)
  for n in range(_Q):
    used = np.flatnonzero(is_used[n]).tolist()
    for j, following in zip(used, [*used[1:], None]):
      after = 0.0 if following is None else float(values[n, following])
      want[n, j] = float(rewards[n, j]) + after - float(values[n, j])
    if used:  # the steps of a row add up to R - V_0
      total[n] = rewards[n, used].sum() - values[n, used[0]]
  values = np.where(is_used, values, np.nan)
  got = advantages.vineppo(*map(jnp.asarray, (values, rewards, is_used)))
  assert_close(got, want)
  assert_close(got.sum(axis=1), total)


def _gae_of_a_list(rewards, values, gamma, lam):
  """Over the tokens of one row, forced ones removed beforehand."""
  result, after = [0.0] * len(rewards), 0.0
  for t in reversed(range(len(rewards))):
    is_last = t + 1 == len(rewards)
    delta = rewards[t] + (0.0 if is_last else gamma * values[t + 1]) - values[t]
    after = result[t] = delta + gamma * lam * after
  return result


@hypothesis.given(
    _ROWS, _ROWS, _SAMPLED, st.sampled_from([1.0, 0.9]),
    st.sampled_from([0.0, 0.95, 1.0]))
def test_gae(rewards, values, is_sampled, gamma, lam):
  want, targets = np.zeros((_Q, _L)), np.zeros((_Q, _L))
  for n in range(_Q):
    here = np.flatnonzero(is_sampled[n])
    want[n, here] = _gae_of_a_list(
        rewards[n, here].tolist(), values[n, here].tolist(), gamma, lam)
    targets[n, here] = want[n, here] + values[n, here]
  rewards = np.where(is_sampled, rewards, np.nan)  # ignored at forced tokens
  values = np.where(is_sampled, values, np.nan)
  got = _gae(gamma, lam)(rewards, values, is_sampled)
  assert_close(got[0], want)
  assert_close(got[1], targets)


@functools.cache
def _gae(gamma, lam):
  return jax.jit(functools.partial(advantages.gae, gamma=gamma, lam=lam))


def test_forced_tokens_are_as_if_not_there():
  """Padding and resets put anywhere change no advantage."""
  noise = np.random.default_rng(0)
  rewards, values = noise.normal(size=(2, 1, 5)).astype(np.float32)
  where = [1, 2, 5, 6, 8]
  spread = lambda x: jnp.full((1, 10), 7.0).at[:, jnp.asarray(where)].set(x)
  is_sampled = jnp.zeros((1, 10), bool).at[:, jnp.asarray(where)].set(True)
  dense = _gae(0.9, 0.8)(rewards, values, jnp.ones((1, 5), bool))
  loose = _gae(0.9, 0.8)(spread(rewards), spread(values), is_sampled)
  for one, other in zip(dense, loose):
    np.testing.assert_array_equal(one[0], np.asarray(other)[0, where])


@hypothesis.given(_ROWS, _SAMPLED)
def test_whiten(values, mask):
  inside = [float(v) for v, m in zip(values.ravel(), mask.ravel()) if m]
  got = np.asarray(advantages.whiten(
      jnp.asarray(np.where(mask, values, np.nan)), jnp.asarray(mask)))
  assert not np.any(got[~mask])
  if inside:
    mean = statistics.fmean(inside)
    spread = (statistics.pvariance(inside) + 1e-8) ** 0.5
    is_flat = len(set(inside)) == 1  # what is left is rounding of the mean
    np.testing.assert_allclose(
        got[mask], [(v - mean) / spread for v in inside],
        rtol=1e-4, atol=5e-3 if is_flat else 1e-4)
