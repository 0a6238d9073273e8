# SPDX-License-Identifier: Apache-2.0
"""What the episodes of a trajectory are worth: E-RL^2, RL^2 and between.

Sections 6 and 7.2 of arXiv 2501.04682. A trajectory holds K episodes in one
context, each with a verifier's reward r_k. An objective is a weight per
episode, J = E[sum_k w_k r_k]; under every objective all sampled tokens get
the policy gradient, those of unrewarded exploration too.

Axes: N trajectories, K episodes, L tokens of a row.
"""

import jax
import jax.numpy as jnp


def reward_weights(
    num_episodes: int, early: jax.Array | float) -> jax.Array:
  """Makes weights w_k of episodes' rewards, [K] float32; w_K is always 1.

  Args:
    num_episodes: K.
    early: weight of the episodes before the last; may be traced. 0 for J =
      E[r_K], E-RL^2 (Eq. 14); 1 for J = E[sum_k r_k], RL^2 (Eq. 13).
  """
  is_last_K = jnp.arange(num_episodes) == num_episodes - 1
  return jnp.where(is_last_K, 1.0, early).astype(jnp.float32)


def annealed(
    first: float, last: float, *, progress: jax.Array | float, hold: float
) -> jax.Array:
  """Interpolates from `first` to `last`, linearly behind a share of the run.

  Args:
    first: until `progress` reaches `hold`.
    last: at progress 1.
    progress: share of the run that is done, in [0, 1]; may be traced.
    hold: in [0, 1).
  """
  share = jnp.clip((progress - hold) / (1 - hold), 0.0, 1.0)
  return first + (last - first) * share


def discount(
    rewards_NxK: jax.Array, tokens_before_NxK: jax.Array, gamma_N: jax.Array
) -> jax.Array:
  """Discounts rewards to gamma^|Z| r (Eq. 21), [N, K] float32.

  The conditional version gives each trajectory the gamma whose prompt it was
  sampled with, so that the prompt steers how long the model thinks.

  Args:
    rewards_NxK: float32.
    tokens_before_NxK: |Z| of each episode as an answer: int32, the tokens
      that were sampled in all earlier episodes, and in its own before the mark
      of the answer.
    gamma_N: float32, in (0, 1]; 1 leaves the rewards as they are.
  """
  gamma_Nx1 = gamma_N.astype(jnp.float32)[:, None]
  factor_NxK = gamma_Nx1 ** tokens_before_NxK.astype(jnp.float32)
  return factor_NxK * rewards_NxK.astype(jnp.float32)


def returns_to_go(
    rewards_NxK: jax.Array, weights_K: jax.Array, discount: float = 1.0
) -> jax.Array:
  """Sums what follows the start of each episode: sum_{j >= k} w_j r_j, [N, K].

  Tokens of episode k cannot change earlier rewards, so this is the return
  with the least variance that leaves the gradient of J as it is. Under E-RL^2
  it is r_K in every episode: exploration is reinforced by the final answer.
  Entry 0 is the whole return of the trajectory.

  Args:
    rewards_NxK: float32; those of weight 0 are not looked at, NaNs included.
    weights_K: see `reward_weights`.
    discount: of an episode that is one later, in [0, 1]; 0: every episode for
      itself.
  """
  weights_1xK = weights_K.astype(jnp.float32)[None, :]
  worth_NxK = jnp.where(
      weights_1xK > 0, weights_1xK * rewards_NxK.astype(jnp.float32), 0.0)
  if discount == 1:
    return jnp.cumsum(worth_NxK[:, ::-1], axis=1)[:, ::-1]
  returns = [worth_NxK[:, -1]]
  for k in range(worth_NxK.shape[1] - 2, -1, -1):
    returns.append(worth_NxK[:, k] + discount * returns[-1])
  return jnp.stack(returns[::-1], axis=1)


def of_tokens(values_NxK: jax.Array, episode_NxL: jax.Array) -> jax.Array:
  """Hands each token its episode's value, [N, L]; 0 outside of episodes.

  Args:
    values_NxK: returns or advantages. Where a trajectory has a row per
      episode, one row of values for each of its rows.
    episode_NxL: int32, the 0-based episode of every token; -1 for none.
  """
  num_episodes = values_NxK.shape[1]
  chosen_NxL = jnp.take_along_axis(
      values_NxK, jnp.clip(episode_NxL, 0, num_episodes - 1), axis=1)
  is_inside_NxL = (episode_NxL >= 0) & (episode_NxL < num_episodes)
  return jnp.where(is_inside_NxL, chosen_NxL, 0.0)
