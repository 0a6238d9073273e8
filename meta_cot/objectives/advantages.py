# SPDX-License-Identifier: Apache-2.0
"""Advantages: how much better a sample did than its baseline.

Axes: Q questions, G samples per question, K episodes, N = Q * G trajectories,
J steps (boundaries) of a trajectory, L tokens. `reinforce`, `rloo` and `grpo`
take whole returns [Q, G] (`erl2.returns_to_go(...)[:, 0]`); any further axes
are separate problems. `step_rloo` takes the returns to go [Q, G, K].

A group whose returns are all equal gets advantages of exactly 0, whatever the
rounding of its mean: groups that carry no gradient can be counted.
"""

import jax
import jax.numpy as jnp

from meta_cot import masked


def reinforce(returns_QxG: jax.Array) -> jax.Array:
  """Computes R - mean of the whole batch; float32, the shape of the returns.

  Williams (1992) with the mean return as its baseline. A sample is part of
  its own baseline, which shrinks the expected gradient by (N - 1) / N, N
  samples in the batch, and leaves its direction.
  """
  return _centre(returns_QxG, axis=(0, 1))


def rloo(returns_QxG: jax.Array) -> jax.Array:
  """Computes R_g - mean of the group's other samples (leave one out).

  REINFORCE leave-one-out, arXiv 2402.14740; equal to G / (G - 1) times the
  difference to the mean of the group. Unbiased: the baseline does not
  depend on the sample. Float32, the shape of the returns.
  """
  num = returns_QxG.shape[1]
  return _centre(returns_QxG, axis=1) * (num / (num - 1))


def subtree_rloo(
    returns_QxTxL: jax.Array, is_judged_QxTxL: jax.Array,
    leaves_QxTxXxL: jax.Array,
) -> jax.Array:
  """Compares the samples that share a token with those that do not.

  The samples of a question are the L leaves of T trees. The advantage of a
  token is the mean return of the leaves that it is a part of, less the mean of
  the question's others: of a token of one leaf alone that is `rloo`. The others
  do not depend on the token given what stands before it, so that the baseline
  is unbiased.

  Args:
    returns_QxTxL: float32.
    is_judged_QxTxL: bool; other leaves are left out.
    leaves_QxTxXxL: bool, the leaves of its tree that token x is a part of.

  Returns:
    Advantages [Q, T, X] float32; 0 where there are none, or no others.
  """
  counts_QxTxL = is_judged_QxTxL.astype(jnp.float32)
  returns_QxTxL = jnp.where(
      is_judged_QxTxL, returns_QxTxL.astype(jnp.float32), 0.0)
  below = lambda x_QxTxL: jnp.einsum(
      'qtxl,qtl->qtx', leaves_QxTxXxL.astype(jnp.float32), x_QxTxL)
  others = lambda x_QxTxL: jnp.sum(
      x_QxTxL, axis=(1, 2), keepdims=True) - below(x_QxTxL)
  mean = lambda of: of(returns_QxTxL) / jnp.maximum(of(counts_QxTxL), 1.0)
  ends = dict(axis=(1, 2), keepdims=True, where=is_judged_QxTxL)
  is_flat_Qx1x1 = jnp.max(returns_QxTxL, initial=-jnp.inf, **ends) <= jnp.min(
      returns_QxTxL, initial=jnp.inf, **ends)
  is_compared_QxTxX = (below(counts_QxTxL) > 0) & (others(counts_QxTxL) > 0)
  return jnp.where(
      is_compared_QxTxX & ~is_flat_Qx1x1, mean(below) - mean(others), 0.0)


def step_rloo(returns_QxGxK: jax.Array, is_used_QxGxK: jax.Array) -> jax.Array:
  """Leaves one out at every step, on the returns to go of the step's peers.

  Step-level RLOO (arXiv 2501.04682, sec. 6): the baseline of episode k is the
  mean return to go of the other samples of the group in which episode k took
  place, 0 where there is none. Unbiased as `rloo` is.

  Args:
    returns_QxGxK: float32, returns to go (`erl2.returns_to_go`).
    is_used_QxGxK: bool, the episode took place.

  Returns:
    Advantages [Q, G, K] float32; 0 where the episode did not take place.
  """
  returns_QxGxK = jnp.where(
      is_used_QxGxK, returns_QxGxK.astype(jnp.float32), 0.0)
  used_QxGxK = is_used_QxGxK.astype(jnp.float32)
  others_QxGxK = jnp.sum(used_QxGxK, axis=1, keepdims=True) - used_QxGxK
  sum_QxGxK = jnp.sum(returns_QxGxK, axis=1, keepdims=True) - returns_QxGxK
  baseline_QxGxK = sum_QxGxK / jnp.maximum(others_QxGxK, 1.0)
  used = dict(axis=1, keepdims=True, where=is_used_QxGxK)
  low_Qx1xK = jnp.min(returns_QxGxK, initial=jnp.inf, **used)
  high_Qx1xK = jnp.max(returns_QxGxK, initial=-jnp.inf, **used)
  is_flat_QxGxK = (low_Qx1xK == high_Qx1xK) & (others_QxGxK > 0)
  return jnp.where(
      is_used_QxGxK & ~is_flat_QxGxK, returns_QxGxK - baseline_QxGxK, 0.0)


def grpo(returns_QxG: jax.Array, *, use_std: bool) -> jax.Array:
  """Computes (R_g - mean of the group) / (std of the group + 1e-6).

  GRPO, arXiv 2402.03300, sec. 4.1.2. The std divides by G - 1, as the public
  trainers have it. `use_std=False` leaves the division out: Dr. GRPO, arXiv
  2503.20783, since it weighs questions up that are almost always or almost
  never solved. A sample is part of its own mean: the expected gradient is
  (G - 1) / G of the true one where nothing is divided. Float32, the shape of
  the returns.
  """
  num = returns_QxG.shape[1]
  centred_QxG = _centre(returns_QxG, axis=1)
  if not use_std:
    return centred_QxG
  variance_Qx1 = jnp.sum(
      jnp.square(centred_QxG), axis=1, keepdims=True) / (num - 1)
  return centred_QxG / (jnp.sqrt(variance_Qx1) + 1e-6)


def vineppo(
    values_NxJ: jax.Array, rewards_NxJ: jax.Array, is_used_NxJ: jax.Array
) -> jax.Array:
  """Makes step advantages of Monte-Carlo values: r_j + V_{j+1} - V_j.

  VinePPO, arXiv 2410.01679: V comes from fresh rollouts of the policy from
  the boundary and has no bias; there is no discount.

  Args:
    values_NxJ: float32, V_j of the state before step j: the mean weighted
      return to go of its rollouts.
    rewards_NxJ: float32, weighted rewards that step j ended with.
    is_used_NxJ: bool, the steps that took place, in order; the others are
      skipped. Behind the last one V is 0.

  Returns:
    Advantages [N, J] float32; 0 for steps that did not take place.
  """
  values_NxJ = jnp.where(is_used_NxJ, values_NxJ.astype(jnp.float32), 0.0)
  order_NxJ = jnp.argsort(~is_used_NxJ, axis=1, stable=True)
  after_NxJ = jnp.pad(
      jnp.take_along_axis(values_NxJ, order_NxJ, axis=1)[:, 1:],
      ((0, 0), (0, 1)))
  after_NxJ = jnp.take_along_axis(
      after_NxJ, jnp.argsort(order_NxJ, axis=1), axis=1)
  gain_NxJ = rewards_NxJ.astype(jnp.float32) + after_NxJ - values_NxJ
  return jnp.where(is_used_NxJ, gain_NxJ, 0.0)


def gae(
    rewards_NxL: jax.Array, values_NxL: jax.Array, is_sampled_NxL: jax.Array,
    *, gamma: float, lam: float,
) -> tuple[jax.Array, jax.Array]:
  """Estimates generalised advantages over the sampled tokens of each row.

  arXiv 1506.02438, Eq. 16: delta_t = r_t + gamma V_{t'} - V_t and
  A_t = delta_t + gamma lam A_{t'}, t' the next *sampled* token of the row and
  both zero behind the last one. Forced tokens are no actions: prompts, resets
  and padding are skipped as if they were not there, and whatever stands at
  them is ignored.

  Args:
    rewards_NxL: float32, at the token that earned them (an episode's reward
      at its last sampled token, a KL penalty at each).
    values_NxL: float32, V of the context before the token was drawn.
    is_sampled_NxL: bool.
    gamma: discount per sampled token.
    lam: 1 is Monte Carlo, 0 one step ahead.

  Returns:
    Advantages and value targets A + V, both [N, L] float32, 0 at forced
    tokens.
  """

  def back(carry, token):
    advantage_N, value_N = carry
    reward_N, here_N, is_sampled_N = token
    delta_N = reward_N + gamma * value_N - here_N
    new_N = delta_N + gamma * lam * advantage_N
    carry = (jnp.where(is_sampled_N, new_N, advantage_N),
             jnp.where(is_sampled_N, here_N, value_N))
    return carry, jnp.where(is_sampled_N, new_N, 0.0)

  rewards_LxN = rewards_NxL.astype(jnp.float32).T
  values_LxN = values_NxL.astype(jnp.float32).T
  zero_N = jnp.zeros(rewards_LxN.shape[1:], jnp.float32)
  advantages_LxN = jax.lax.scan(
      back, (zero_N, zero_N), (rewards_LxN, values_LxN, is_sampled_NxL.T),
      reverse=True)[1]
  targets_LxN = jnp.where(
      is_sampled_NxL.T, advantages_LxN + values_LxN, 0.0)
  return advantages_LxN.T, targets_LxN.T


def whiten(advantages_NxL: jax.Array, mask_NxL: jax.Array) -> jax.Array:
  """Makes mean 0 and std 1 over the mask, [N, L] float32; 0 outside of it.

  The mask is bool or float32 weights; NaNs under 0 do not leak. 1e-8 is added
  to the variance, which divides by the sum of the mask.
  """
  total = jnp.maximum(jnp.sum(mask_NxL.astype(jnp.float32)), 1e-9)
  mean = masked.masked_sum(advantages_NxL, mask_NxL) / total
  centred_NxL = jnp.where(
      mask_NxL > 0, advantages_NxL.astype(jnp.float32) - mean, 0.0)
  variance = masked.masked_sum(jnp.square(centred_NxL), mask_NxL) / total
  return centred_NxL * jax.lax.rsqrt(variance + 1e-8)


def _centre(x: jax.Array, axis) -> jax.Array:
  """x - mean, exactly 0 where all are equal."""
  x = x.astype(jnp.float32)
  low = jnp.min(x, axis=axis, keepdims=True)
  high = jnp.max(x, axis=axis, keepdims=True)
  centred = x - jnp.mean(x, axis=axis, keepdims=True)
  return jnp.where(low == high, 0.0, centred)
