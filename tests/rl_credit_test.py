# SPDX-License-Identifier: Apache-2.0
"""From verdicts to advantages of tokens, against plain Python."""

import dataclasses
import functools
import statistics

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.rl import credit
from meta_cot.rollouts import rows as rows_lib
from tests import small_rl

_Q, _G, _E, _X, _S = 3, 3, 3, 14, 2
_N = _Q * _G
_COMPARED = ('reinforce', 'rloo', 'step_rloo', 'grpo', 'grpo_no_std')
# Progress 0.75 of `score` that holds until 0.5.
_WEIGHTS = dict(erl2=(0, 0, 1), rl2=(1, 1, 1), score=(0.5, 0.5, 1))
_SEEDS = st.integers(0, 10_000)
_PROGRESS = 0.7  # the share of it in mrt


@dataclasses.dataclass(frozen=True)
class _World:
  """Rows and verdicts of random trajectories, NumPy."""

  rows: rows_lib.Rows
  verdicts: credit.Verdicts
  penalty: np.ndarray  # [N, E]
  values: np.ndarray  # [N, J]
  steps: np.ndarray  # [R, X] int32, -1: none
  values_of_tokens: np.ndarray  # [R, X]


def _cut(episode_RxX, rng):
  """Steps that begin at random, the first one with its episode."""
  steps = np.full(episode_RxX.shape, -1, np.int32)
  for r, row in enumerate(episode_RxX):
    for e in set(row.tolist()) - {-1}:
      places = np.flatnonzero(row == e)
      later = np.cumsum(rng.integers(0, 2, len(places) - 1))
      steps[r, places] = e * _S + np.minimum([0, *later], _S - 1)
  return steps


def _world(seed, *, is_windowed=False, is_flat=False) -> _World:
  rng = np.random.default_rng(seed)
  num_taken = rng.integers(1, _E + 1, _N)
  is_taken = np.arange(_E) < num_taken[:, None]
  num_tokens = rng.integers(1, 4, (_N, _E)) * is_taken
  discounts = rng.choice([1.0, 0.9], _N).astype(np.float32)
  if is_flat:
    num_tokens, discounts = 2 * is_taken, np.full(_N, 0.9, np.float32)
    is_taken[:] = is_taken[:1]
    num_tokens[:] = 2 * is_taken
  rewards = rng.integers(0, 2, (_N, _E)) * is_taken
  if is_flat:
    rewards[:] = is_taken
  per_row = _E if is_windowed else 1
  episode = np.full((_N * per_row, _X), -1, np.int32)
  for n in range(_N):
    at = 2
    for e in range(_E):
      row = n * per_row + (e if is_windowed else 0)
      at = 2 if is_windowed else at
      episode[row, at:at + num_tokens[n, e]] = e
      at += num_tokens[n, e] + 1
  zeros = np.zeros(episode.shape, np.int32)
  before = np.cumsum(num_tokens, axis=1) - num_tokens
  return _World(
      rows=rows_lib.Rows(
          tokens=zeros, targets=zeros, is_sampled=episode >= 0,
          behaviour=zeros.astype(np.float32), episode=episode,
          trajectory=np.repeat(np.arange(_N, dtype=np.int32), per_row)),
      verdicts=credit.Verdicts(
          rewards=rewards.astype(np.float32), is_taken=is_taken,
          is_judged=rng.uniform(size=_N) < 0.7,
          tokens_before=before.astype(np.int32), discounts=discounts),
      penalty=rng.normal(size=(_N, _E)).astype(np.float32),
      values=rng.uniform(size=(_N, _E * _S)).astype(np.float32),
      steps=_cut(episode, rng),
      values_of_tokens=rng.uniform(size=episode.shape).astype(np.float32))


@functools.cache
def _program(objective, advantage, whiten=False, has_penalty=False):
  config = small_rl.settings(
      advantage=advantage, whiten=whiten, num_samples=_G, gae_gamma=0.9,
      gae_lambda=0.8, progress_weight=_PROGRESS)

  @jax.jit
  def assign(world):
    rows, verdicts, penalty, values, values_of_tokens, steps = world
    evidence = credit.Evidence(
        rows=rows, verdicts=verdicts, progress=0.75, kl_coefficient=0.0,
        values=values_of_tokens, step_values=values, steps=steps,
        num_samples=_G, penalty=penalty if has_penalty else None)
    given = credit.ADVANTAGES[advantage].assign(
        config.credit, evidence, config.objective(objective).weights(
            verdicts.rewards.shape[1], evidence.progress))
    return given.advantages, given.targets, given.is_flat

  def on_world(world: _World):
    given = assign(jax.tree.map(jnp.asarray, (
        world.rows, world.verdicts, world.penalty, world.values,
        world.values_of_tokens, world.steps)))
    return [None if x is None else np.asarray(x) for x in given]

  return on_world


def _worth(world, objective):
  """Weighted, discounted rewards, as lists."""
  v = world.verdicts
  return [
      [_WEIGHTS[objective][e] * float(v.rewards[n, e])
       * float(v.discounts[n]) ** int(v.tokens_before[n, e])
       for e in range(_E)] for n in range(_N)]


def _returns(world, objective, has_penalty):
  """What follows the start of every episode."""
  worth = _worth(world, objective)
  return [
      [sum(worth[n][e:]) - has_penalty * float(world.penalty[n, e:].sum())
       for e in range(_E)] for n in range(_N)]


def _others_mean(values):
  return statistics.fmean(values) if values else 0.0


def _gain(world, advantage, returns, n, e):
  """The advantage of one episode, by the words of its definition."""
  judged = [bool(j) for j in world.verdicts.is_judged]
  if not judged[n]:
    return 0.0
  group = [m for m in range(_N) if m // _G == n // _G and judged[m]]
  if advantage == 'step_rloo':
    taken = world.verdicts.is_taken
    if not taken[n, e]:
      return 0.0
    return returns[n][e] - _others_mean(
        [returns[m][e] for m in group if m != n and taken[m, e]])
  if advantage == 'reinforce':
    group = [m for m in range(_N) if judged[m]]
  gain = returns[n][0] - statistics.fmean(returns[m][0] for m in group)
  if advantage == 'rloo':
    return gain * _G / (_G - 1)
  if advantage == 'grpo':
    mean = statistics.fmean(returns[m][0] for m in group)
    total = sum((returns[m][0] - mean) ** 2 for m in group)
    return gain / ((total / (_G - 1)) ** 0.5 + 1e-6)
  return gain


def _whitened(values, mask):
  inside = [v for v, m in zip(values.ravel(), mask.ravel()) if m]
  if not inside:
    return np.zeros_like(values)
  mean = statistics.fmean(inside)
  spread = (statistics.pvariance(inside) + 1e-8) ** 0.5
  return np.where(mask, (values - mean) / spread, 0.0)


def _trained(world):
  judged = world.verdicts.is_judged[world.rows.trajectory]
  return world.rows.is_sampled & judged[:, None]


def _check_groups(seed, advantage, objective, *, whiten=False,
                  has_penalty=False, is_windowed=False):
  world = _world(seed, is_windowed=is_windowed)
  returns = _returns(world, objective, has_penalty)
  gains = [[_gain(world, advantage, returns, n, e) for e in range(_E)]
           for n in range(_N)]
  want = np.zeros(world.rows.episode.shape)
  for r, x in np.argwhere(world.rows.is_sampled):
    want[r, x] = gains[world.rows.trajectory[r]][world.rows.episode[r, x]]
  if whiten:
    want = _whitened(want, _trained(world))
  got, targets, is_flat = _program(
      objective, advantage, whiten, has_penalty)(world)
  # Of equal ones whitening leaves the rounding of their mean.
  is_even = whiten and not np.abs(want).max() > 1e-3
  np.testing.assert_allclose(
      got, want, rtol=2e-4, atol=5e-2 if is_even else 2e-4)
  assert targets is None
  for n in range(_N):
    live = [abs(gains[n][e]) for e in range(_E)
            if world.verdicts.is_taken[n, e]]
    if max(live) > 1e-5 or max(live) == 0 and has_penalty:
      assert is_flat[n] == (max(live) == 0)


@pytest.mark.parametrize('advantage', _COMPARED)
@pytest.mark.parametrize('objective', _WEIGHTS)
@hypothesis.given(_SEEDS)
def test_groups(advantage, objective, seed):
  _check_groups(seed, advantage, objective)


@pytest.mark.parametrize('advantage', _COMPARED)
@hypothesis.given(_SEEDS)
def test_groups_with_a_row_per_episode(advantage, seed):
  _check_groups(seed, advantage, 'rl2', is_windowed=True)


@pytest.mark.parametrize('advantage', ('rloo', 'step_rloo'))
@hypothesis.given(_SEEDS)
def test_a_penalty_is_paid_whatever_counts(advantage, seed):
  _check_groups(seed, advantage, 'erl2', has_penalty=True)


@pytest.mark.parametrize('advantage', ('rloo', 'step_rloo'))
@hypothesis.given(_SEEDS)
def test_whitened_over_what_is_trained(advantage, seed):
  _check_groups(seed, advantage, 'erl2', whiten=True)


@pytest.mark.parametrize('advantage', (*_COMPARED[:2], *_COMPARED[3:]))
@hypothesis.given(_SEEDS)
def test_equal_returns_are_flat_whoever_is_missing(advantage, seed):
  """Exactly: 0.9^5 is not the rounded mean of two of it."""
  world = _world(seed, is_flat=True)
  got, _, is_flat = _program('rl2', advantage)(world)
  assert not got.any() and is_flat.all()


@pytest.mark.parametrize('advantage', (*_COMPARED, 'vineppo', 'mrt', 'gae'))
@pytest.mark.parametrize('whiten', [False, True])
@hypothesis.given(_SEEDS, st.integers(0, _N - 1))
def test_one_that_nobody_can_judge_changes_nothing(
    advantage, whiten, seed, which):
  world = _world(seed)
  verdicts = world.verdicts
  verdicts.is_judged[which] = False
  assign = _program('rl2', advantage, whiten)
  one = assign(world)
  assert not one[0][which].any()
  verdicts.rewards[which] = 1 - verdicts.rewards[which]
  verdicts.tokens_before[which] += 3
  other = assign(world)
  np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize('objective', _WEIGHTS)
@hypothesis.given(_SEEDS)
def test_vineppo(objective, seed):
  world = _world(seed)
  worth = _worth(world, objective)
  want = np.zeros(world.rows.episode.shape)
  for r, x in np.argwhere(_trained(world)):
    e, j = world.rows.episode[r, x], world.steps[r, x]
    later = [k for k in world.steps[r] if k > j]
    after = float(world.values[r, min(later)]) if later else 0.0
    is_last = not later or min(later) // _S > e
    want[r, x] = (worth[r][e] if is_last else 0.0) + after - float(
        world.values[r, j])
  got, targets, _ = _program(objective, 'vineppo')(world)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert targets is None


@pytest.mark.parametrize('objective', _WEIGHTS)
@hypothesis.given(_SEEDS)
def test_progress_is_added_to_the_outcome(objective, seed):
  world = _world(seed)
  outcome, steps, both = (
      _program(objective, name)(world) for name in ('rloo', 'vineppo', 'mrt'))
  np.testing.assert_allclose(
      both[0], outcome[0] + _PROGRESS * steps[0], atol=1e-5)
  np.testing.assert_array_equal(both[2], outcome[2] & steps[2])
  # Over a trajectory what is added is its return minus its first value.
  for r in np.flatnonzero(world.verdicts.is_judged):
    mine = world.steps[r]
    gained = sum(float(steps[0][r, np.argmax(mine == j)]) for j in {
        *mine.tolist()} - {-1})
    first = float(world.values[r, min(mine[mine >= 0])])
    np.testing.assert_allclose(
        gained, sum(_worth(world, objective)[r]) - first, atol=1e-4)


@pytest.mark.parametrize('objective', _WEIGHTS)
@hypothesis.given(_SEEDS)
def test_gae(objective, seed):
  world = _world(seed)
  gamma, lam, total = 0.9, 0.8, sum(_WEIGHTS[objective])
  worth = _worth(world, objective)
  want, targets = np.zeros((2, *world.rows.episode.shape))
  for r in range(_N):
    advantage = value_after = 0.0
    episode_after = None
    for x in np.flatnonzero(world.rows.is_sampled[r])[::-1]:
      e, value = world.rows.episode[r, x], float(world.values_of_tokens[r, x])
      reward = worth[r][e] / total if e != episode_after else 0.0
      delta = reward + gamma * value_after - value
      advantage = delta + gamma * lam * advantage
      value_after, episode_after = value, e
      targets[r, x] = advantage + value
      want[r, x] = advantage if world.verdicts.is_judged[r] else 0.0
  got = _program(objective, 'gae')(world)
  np.testing.assert_allclose(got[0], want, atol=1e-5)
  np.testing.assert_allclose(got[1], targets, atol=1e-5)
  np.testing.assert_array_equal(got[2], ~world.verdicts.is_judged)


@pytest.mark.parametrize('advantage', (*_COMPARED, 'vineppo', 'mrt', 'gae'))
@hypothesis.given(_SEEDS)
def test_with_one_episode_all_objectives_are_the_same(advantage, seed):
  world = _world(seed)
  first = lambda x: x[:, :1]
  rows, v = world.rows, world.verdicts
  is_first = rows.episode == 0
  world = dataclasses.replace(
      world, values=world.values[:, :_S], penalty=first(world.penalty),
      steps=np.where(is_first, world.steps, -1),
      rows=rows.replace(
          is_sampled=is_first, episode=np.where(is_first, 0, -1)),
      verdicts=v.replace(
          rewards=first(v.rewards), is_taken=first(v.is_taken),
          tokens_before=first(v.tokens_before)))
  expected = _program('single', advantage)(world)
  for objective in _WEIGHTS:
    for one, other in zip(expected, _program(objective, advantage)(world)):
      np.testing.assert_array_equal(one, other)


@hypothesis.given(_SEEDS, st.booleans())
def test_penalties_of_episodes(seed, is_windowed):
  world = _world(seed, is_windowed=is_windowed)
  rng = np.random.default_rng(seed)
  rows = world.rows
  ours, theirs = rng.normal(size=(2, *rows.episode.shape)).astype(np.float32)
  want = np.zeros((_N, _E))
  for r, x in np.argwhere(rows.is_sampled):
    want[rows.trajectory[r], rows.episode[r, x]] += 0.3 * float(
        ours[r, x] - theirs[r, x])
  # What stands where nothing was drawn does not count.
  ours = np.where(rows.is_sampled, ours, 9.0).astype(np.float32)
  got = _penalty(
      *jax.tree.map(jnp.asarray, (rows, world.verdicts)), ours, theirs)
  np.testing.assert_allclose(got, want, atol=1e-4)


@jax.jit
def _penalty(rows, verdicts, ours, theirs):
  return credit.penalty(credit.Evidence(
      rows=rows, verdicts=verdicts, progress=0.0, kl_coefficient=0.3,
      log_probs=ours, reference=theirs))


def test_every_advantage_is_tested():
  assert set(credit.ADVANTAGES) == {*_COMPARED, 'vineppo', 'mrt', 'gae'}
