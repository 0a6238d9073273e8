# SPDX-License-Identifier: Apache-2.0
"""From verdicts to the advantage of every token.

Axes: Q questions, G samples, N = Q * G trajectories, E episodes, R rows, X
positions.
"""

import functools

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.objectives import advantages
from meta_cot.objectives import erl2
from meta_cot.objectives import kl
from meta_cot.objectives import value as value_lib
from meta_cot.rl import settings as settings_lib
from meta_cot.rollouts import rows as rows_lib


@struct.dataclass
class Verdicts:
  """What the episodes of an iteration were worth."""

  rewards: jax.Array  # [N, E] float32; 0 where there was no episode
  is_taken: jax.Array  # [N, E] bool
  # [N] bool; False: the verifier could not say of an episode that counts.
  is_judged: jax.Array
  tokens_before: jax.Array  # [N, E] int32, drawn in earlier episodes
  discounts: jax.Array  # [N] float32


@struct.dataclass
class Credit:
  """What the tokens of an iteration are worth."""

  advantages: jax.Array  # [R, X] float32; 0 where nothing was drawn
  targets: jax.Array | None  # [R, X] float32, of the value head
  is_flat: jax.Array  # [N] bool, no token of the trajectory has an advantage


def assign(
    config: settings_lib.RlConfig, objective: str, rows: rows_lib.Rows,
    verdicts: Verdicts, *,
    progress: jax.Array | float,
    penalty_NxE: jax.Array | None = None,
    values_RxX: jax.Array | None = None,
    values_NxJ: jax.Array | None = None,
    steps_RxX: jax.Array | None = None,
) -> Credit:
  """Advantages of all tokens.

  Args:
    config: `advantage`, `whiten`, `score_hold`, `gae_*`, `num_samples`.
    objective: one of `erl2.OBJECTIVES`.
    rows: of N trajectories.
    verdicts: of their episodes.
    progress: share of the run that is done.
    penalty_NxE: subtracted from the worth of every episode, whatever the
      objective says of it (a KL penalty); or None.
    values_RxX: of the value head, for 'gae'.
    values_NxJ: Monte-Carlo values before every step, for 'vineppo'; J is a
      multiple of E, and step j is one of episode j // (J / E).
    steps_RxX: int32, the step of every token, -1 for none; for 'vineppo'.
  """
  num_episodes = verdicts.rewards.shape[1]
  weights_E = erl2.reward_weights(
      objective, num_episodes, progress=progress, hold=config.score_hold)
  rewards_NxE = erl2.discount(
      verdicts.rewards, verdicts.tokens_before, verdicts.discounts)
  if config.advantage == 'gae':
    return _of_values(
        config, rows, verdicts, rewards_NxE * weights_E[None], weights_E,
        values_RxX)
  of_RxX, is_used_NxE = rows.episode, verdicts.is_taken
  if config.advantage == 'vineppo':
    # What was an episode is a step from here on.
    of_RxX = steps_RxX
    gains_NxE, is_used_NxE = _of_steps(
        rewards_NxE * weights_E[None], values_NxJ, steps_RxX)
  else:
    returns_NxE = erl2.returns_to_go(rewards_NxE, weights_E)
    if penalty_NxE is not None:
      returns_NxE -= erl2.returns_to_go(penalty_NxE, jnp.ones_like(weights_E))
    gains_NxE = _of_groups(config, returns_NxE, verdicts)
  gains_NxE = jnp.where(verdicts.is_judged[:, None], gains_NxE, 0.0)
  advantages_RxX = erl2.of_tokens(
      gains_NxE[rows.trajectory], of_RxX)
  if config.whiten:
    advantages_RxX = advantages.whiten(
        advantages_RxX, trained(rows, verdicts))
  return Credit(
      advantages=advantages_RxX, targets=None,
      is_flat=jnp.all((gains_NxE == 0) | ~is_used_NxE, axis=1))


def trained(rows: rows_lib.Rows, verdicts: Verdicts) -> jax.Array:
  """Tokens that were drawn in trajectories that were judged, [R, X] bool."""
  return rows.is_sampled & verdicts.is_judged[rows.trajectory][:, None]


def penalty(
    rows: rows_lib.Rows, log_probs_RxX: jax.Array, reference_RxX: jax.Array, *,
    num_trajectories: int, num_episodes: int, coefficient: jax.Array | float,
) -> jax.Array:
  """beta * the sum of k1 over the tokens of every episode, [N, E] float32."""
  k1_RxX = -kl.in_reward(
      jnp.zeros_like(log_probs_RxX), log_probs_RxX, reference_RxX,
      rows.is_sampled, coefficient=coefficient)
  is_of_RxXxE = rows.episode[..., None] == jnp.arange(num_episodes)[None, None]
  of_rows_RxE = jnp.sum(k1_RxX[..., None] * is_of_RxXxE, axis=1)
  return jax.ops.segment_sum(
      of_rows_RxE, rows.trajectory, num_segments=num_trajectories)


def _of_steps(
    rewards_NxE: jax.Array, values_NxJ: jax.Array, steps_NxX: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Advantages of steps, and which took place, [N, J] each."""
  num, num_columns = values_NxJ.shape
  is_used_NxJ = jnp.any(
      steps_NxX[..., None] == jnp.arange(num_columns)[None, None], axis=1)
  is_used_NxExS = is_used_NxJ.reshape(*rewards_NxE.shape, -1)
  # The steps of an episode are its first ones; the last of them earned it.
  is_last_NxExS = is_used_NxExS & ~jnp.pad(
      is_used_NxExS[..., 1:], ((0, 0), (0, 0), (0, 1)))
  rewards_NxJ = jnp.where(
      is_last_NxExS, rewards_NxE[..., None], 0.0).reshape(num, num_columns)
  return (
      advantages.vineppo(values_NxJ, rewards_NxJ, is_used_NxJ), is_used_NxJ)


def _of_groups(config, returns_NxE, verdicts) -> jax.Array:
  """Advantages by comparison with other trajectories, [N, E]."""
  num, num_episodes = returns_NxE.shape
  grouped = lambda x: x.reshape(-1, config.num_samples, *x.shape[1:])
  returns, judged = grouped(returns_NxE), grouped(verdicts.is_judged)[..., None]
  if config.advantage == 'step_rloo':
    gains = advantages.step_rloo(returns, grouped(verdicts.is_taken) & judged)
    return gains.reshape(num, num_episodes)
  # One that nobody can judge stands where it moves no baseline.
  returns = jnp.where(judged, returns, _middle(
      returns, judged, axis=(0, 1) if config.advantage == 'reinforce' else 1))
  function = {
      'reinforce': advantages.reinforce,
      'rloo': advantages.rloo,
      'grpo': functools.partial(advantages.grpo, use_std=True),
      'grpo_no_std': functools.partial(advantages.grpo, use_std=False),
  }[config.advantage]
  gains_N = function(returns[..., 0]).reshape(num)
  return jnp.broadcast_to(gains_N[:, None], returns_NxE.shape)


def _middle(values, mask, axis) -> jax.Array:
  """Means where `mask`, exact where the values are equal; 0 for none."""
  some = lambda function, initial: function(
      values, axis=axis, keepdims=True, where=mask, initial=initial)
  number = jnp.sum(mask, axis=axis, keepdims=True)
  mean = some(jnp.sum, 0.0) / jnp.maximum(number, 1)
  return jnp.where(number > 0, jnp.clip(
      mean, some(jnp.min, jnp.inf), some(jnp.max, -jnp.inf)), 0.0)


def _of_values(
    config, rows, verdicts, rewards_NxE, weights_E, values_RxX) -> Credit:
  """Generalised advantages of the value head; rewards are weighted."""
  worth_NxE = value_lib.to_unit(rewards_NxE, weights_E)
  of_episode_RxX = erl2.of_tokens(worth_NxE[rows.trajectory], rows.episode)
  next_RxX = jnp.pad(
      rows.episode[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
  is_last_RxX = rows.is_sampled & (next_RxX != rows.episode)
  gains_RxX, targets_RxX = advantages.gae(
      jnp.where(is_last_RxX, of_episode_RxX, 0.0), values_RxX, rows.is_sampled,
      gamma=config.gae_gamma, lam=config.gae_lambda)
  is_trained_RxX = trained(rows, verdicts)
  gains_RxX = jnp.where(is_trained_RxX, gains_RxX, 0.0)
  if config.whiten:
    gains_RxX = advantages.whiten(gains_RxX, is_trained_RxX)
  is_flat_R = jnp.all(gains_RxX == 0, axis=1)
  return Credit(
      advantages=gains_RxX, targets=targets_RxX,
      is_flat=jnp.zeros(rewards_NxE.shape[0], bool).at[rows.trajectory].set(
          is_flat_R))
