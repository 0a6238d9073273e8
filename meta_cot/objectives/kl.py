# SPDX-License-Identifier: Apache-2.0
"""Divergence from a frozen reference, estimated at the sampled tokens.

With d = log pi - log pi_ref of the token that was sampled from pi, each of

  k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d

estimates KL(pi || pi_ref) of the token's distribution (J. Schulman,
"Approximating KL divergence", 2020); k1 and k3 without bias, k3 never below 0.
What each of them does to the *gradient* depends on where it stands:

  in the reward  the score function multiplies the estimate. With k1 that is
                 the gradient of the KL. With k2 and k3 a part is missing, and
                 near the reference next to nothing is left.
  in the loss    the estimate itself is differentiated. E[grad k1] = 0: it
                 does nothing but add noise. E[grad k2] is the gradient of
                 KL(pi || pi_ref), E[grad k3] that of KL(pi_ref || pi).

Log-probabilities are those of the whole distributions (temperature 1, nothing
cut off): under a truncated one the divergence is infinite. Still d is held
within `MAX_LOG_RATIO`, so a token that one side rules out stays finite.

Axes: R rows, L tokens.
"""

import jax
import jax.numpy as jnp

ESTIMATORS = ('k1', 'k2', 'k3')
IN_REWARD = ('k1',)
IN_LOSS = ('k2', 'k3')
MAX_LOG_RATIO = 20.0  # nats of one token
_MAX_ERROR = 0.2  # of the adaptive coefficient


def estimate(
    log_probs: jax.Array, reference_log_probs: jax.Array, estimator: str
) -> jax.Array:
  """k1, k2 or k3 (see above) of every token, float32.

  Args:
    log_probs: of the sampled tokens under the policy, any shape.
    reference_log_probs: of the same tokens under the reference, same shape.
    estimator: one of `ESTIMATORS`.

  Raises:
    ValueError: unknown estimator.
  """
  if estimator not in ESTIMATORS:
    raise ValueError(
        f"estimator: got '{estimator}'; must be one of {ESTIMATORS}.")
  log_ratio = jnp.clip(
      log_probs.astype(jnp.float32) - reference_log_probs.astype(jnp.float32),
      -MAX_LOG_RATIO, MAX_LOG_RATIO)
  if estimator == 'k1':
    return log_ratio
  if estimator == 'k2':
    return jnp.square(log_ratio) / 2
  return jnp.expm1(-log_ratio) + log_ratio


def in_reward(
    rewards_RxL: jax.Array,
    log_probs_RxL: jax.Array,
    reference_RxL: jax.Array,
    is_sampled_RxL: jax.Array,
    *,
    coefficient: jax.Array | float,
    estimator: str = 'k1',
) -> jax.Array:
  """Rewards less beta * k1 at the sampled tokens, [R, L] float32.

  The regularised return of arXiv 2501.04682, Eq. 15; returns and advantages
  are made of the result. No gradient flows through it.

  Args:
    rewards_RxL: float32, per token.
    log_probs_RxL: of the policy that sampled.
    reference_RxL: of the reference.
    is_sampled_RxL: bool; other tokens keep their reward.
    coefficient: beta, per nat.
    estimator: 'k1'.

  Raises:
    ValueError: another estimator, whose gradient would be wrong here.
  """
  if estimator not in IN_REWARD:
    raise ValueError(
        f"estimator: got '{estimator}'; in the reward it must be 'k1', the "
        'score function of others is not the gradient of the KL; set '
        f"estimator='k1' or put it in the loss {IN_LOSS}.")
  penalty_RxL = jnp.where(
      is_sampled_RxL, estimate(log_probs_RxL, reference_RxL, estimator), 0.0)
  return jax.lax.stop_gradient(
      rewards_RxL.astype(jnp.float32) - coefficient * penalty_RxL)


def in_loss(
    log_probs_RxL: jax.Array,
    reference_RxL: jax.Array,
    is_sampled_RxL: jax.Array,
    estimator: str,
) -> jax.Array:
  """Per-token penalties to weigh by beta and add to the loss, [R, L] float32.

  k3 as in GRPO (arXiv 2402.03300, Eq. 4) or k2; the gradient flows through
  `log_probs_RxL` only. 0 at forced tokens.

  Args:
    log_probs_RxL: of the policy in training.
    reference_RxL: of the reference.
    is_sampled_RxL: bool.
    estimator: 'k2' or 'k3'.

  Raises:
    ValueError: 'k1', whose expected gradient is zero, or an unknown one.
  """
  if estimator not in IN_LOSS:
    raise ValueError(
        f"estimator: got '{estimator}'; in the loss it must be one of "
        f"{IN_LOSS}: the expected gradient of 'k1' is zero there, put 'k1' in "
        'the reward.')
  # The inner choice keeps gradients of forced tokens finite.
  is_sampled_RxL = is_sampled_RxL.astype(bool)
  log_probs_RxL = jnp.where(is_sampled_RxL, log_probs_RxL, 0.0)
  reference_RxL = jax.lax.stop_gradient(
      jnp.where(is_sampled_RxL, reference_RxL, 0.0))
  return estimate(log_probs_RxL, reference_RxL, estimator)


def adapt(
    coefficient: jax.Array | float,
    kl: jax.Array | float,
    *,
    target: float,
    horizon: int,
    num: int,
) -> jax.Array:
  """The coefficient of the next iteration, [] float32.

  Proportional control of log beta (Ziegler et al., arXiv 1909.08593, sec.
  2.2): beta (1 + e num / horizon), e = (KL - target) / target within +-0.2.

  Args:
    coefficient: beta of this iteration.
    kl: measured KL, nats, in the unit of `target`.
    target: KL to be held, above 0.
    horizon: samples over which beta changes by about a fifth at most.
    num: samples that `kl` was measured on.

  Raises:
    ValueError: `target` is not above 0, or `num` not in [1, horizon].
  """
  if not target > 0:
    raise ValueError(f'target: got {target}; must be above 0 nats.')
  if not 1 <= num <= horizon:
    raise ValueError(
        f'horizon: got {horizon}; must be at least the {num} samples of an '
        'iteration, and these at least 1.')
  error = jnp.clip(
      jnp.asarray(kl, jnp.float32) / target - 1, -_MAX_ERROR, _MAX_ERROR)
  return jnp.asarray(coefficient, jnp.float32) * (1 + error * (num / horizon))
