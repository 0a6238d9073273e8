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

ESTIMATORS = {
    'k1': lambda d: d, 'k2': lambda d: jnp.square(d) / 2,
    'k3': lambda d: jnp.expm1(-d) + d}
IN_REWARD = ('k1',)
IN_LOSS = ('k2', 'k3')
MAX_LOG_RATIO = 20.0  # nats of one token
_MAX_ERROR = 0.2  # of the adaptive coefficient


def estimate(
    log_probs: jax.Array, reference_log_probs: jax.Array, estimator: str
) -> jax.Array:
  """Estimates the divergence at every token, float32, of any shape.

  Args:
    log_probs: of the sampled tokens under the policy.
    reference_log_probs: of the same tokens under the reference.
    estimator: one of `ESTIMATORS`.
  """
  return ESTIMATORS[estimator](jnp.clip(
      log_probs.astype(jnp.float32) - reference_log_probs.astype(jnp.float32),
      -MAX_LOG_RATIO, MAX_LOG_RATIO))


def penalty(
    log_probs_RxL: jax.Array, reference_RxL: jax.Array,
    is_sampled_RxL: jax.Array, estimator: str,
) -> jax.Array:
  """Charges sampled tokens, nats [R, L] float32; 0 at others.

  Weighed by beta it is subtracted from the reward (arXiv 2501.04682, Eq. 15)
  with an estimator of `IN_REWARD`, or added to the loss (GRPO, arXiv
  2402.03300, Eq. 4) with one of `IN_LOSS`. The gradient flows through the
  policy's log-probabilities only.
  """
  # Masked before the estimate: gradients of forced tokens stay finite.
  is_sampled_RxL = is_sampled_RxL.astype(bool)
  return estimate(
      jnp.where(is_sampled_RxL, log_probs_RxL, 0.0),
      jax.lax.stop_gradient(jnp.where(is_sampled_RxL, reference_RxL, 0.0)),
      estimator)


def adapt(
    coefficient: jax.Array | float, kl: jax.Array | float, *, target: float,
    horizon: int, num: int,
) -> jax.Array:
  """Computes the coefficient of the next iteration, [] float32.

  Proportional control of log beta (Ziegler et al., arXiv 1909.08593, sec.
  2.2): beta (1 + e num / horizon), e = (KL - target) / target within +-0.2.

  Args:
    coefficient: beta of this iteration.
    kl: measured KL, nats, in the unit of `target`.
    target: KL to be held, above 0.
    horizon: samples over which beta changes by about a fifth at most.
    num: samples that `kl` was measured on, at most `horizon`.
  """
  error = jnp.clip(
      jnp.asarray(kl, jnp.float32) / target - 1, -_MAX_ERROR, _MAX_ERROR)
  return jnp.asarray(coefficient, jnp.float32) * (1 + error * (num / horizon))
