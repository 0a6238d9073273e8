# SPDX-License-Identifier: Apache-2.0
"""Clipped policy gradient: token and sequence level, and weights of tokens.

The loss of a batch is the plain sum of `token_weights` times the per-token
losses. Weights are made once from the whole batch, so micro-batches add up to
exactly the gradient of the whole.

Axes: R rows, L tokens, V vocabulary. Sampled tokens are those that the policy
drew, the end of an episode included; nothing else is in the loss.
"""

import jax
import jax.numpy as jnp

LEVELS = ('token', 'sequence')
WEIGHTINGS = ('token', 'sequence', 'constant')
MAX_LOG_RATIO = 20.0  # nats; a ratio beyond it has no gradient
_RULED_OUT = -1e8  # nats; below it the distribution cannot draw the token


def ratios(
    log_probs_RxL: jax.Array, behaviour_RxL: jax.Array,
    is_sampled_RxL: jax.Array, *, level: str,
) -> jax.Array:
  """Computes importance ratios of sampled tokens, [R, L] float32; 1 elsewhere.

  'token': pi(t) / mu(t) (PPO, arXiv 1707.06347, sec. 3). 'sequence': the
  geometric mean s of these over the row's n sampled tokens (GSPO, arXiv
  2507.18071, Eq. 7), in the form s_t = sg[s] pi(t) / sg[pi(t)] (Eq. 14 there):
  every token has the value s, and the gradient s * grad log pi(t). Where the
  advantages of a row are all equal this is the gradient of s itself; where
  they differ, as between episodes, each token keeps its own credit.

  A token that the current distribution rules out has ratio 0 and no gradient;
  at the sequence level its whole row has.

  Args:
    log_probs_RxL: of the policy in training, at the sampler's temperature and
      truncation; anything where not sampled.
    behaviour_RxL: of the policy that sampled, the same kind.
    is_sampled_RxL: bool.
    level: one of `LEVELS`.
  """
  is_sampled_RxL = is_sampled_RxL.astype(bool)
  is_possible_RxL = is_sampled_RxL & (log_probs_RxL > _RULED_OUT)
  log_ratio_RxL = jnp.where(
      is_possible_RxL,
      log_probs_RxL.astype(jnp.float32) - behaviour_RxL.astype(jnp.float32),
      0.0)
  if level == 'sequence':
    num_Rx1 = jnp.sum(is_sampled_RxL, axis=1, keepdims=True)
    mean_Rx1 = jnp.sum(log_ratio_RxL, axis=1, keepdims=True) / jnp.maximum(
        num_Rx1, 1)
    log_ratio_RxL = jax.lax.stop_gradient(mean_Rx1) + (
        log_ratio_RxL - jax.lax.stop_gradient(log_ratio_RxL))
    is_possible_RxL &= jnp.all(
        is_possible_RxL | ~is_sampled_RxL, axis=1, keepdims=True)
  ratio_RxL = jnp.exp(jnp.minimum(log_ratio_RxL, MAX_LOG_RATIO))
  ratio_RxL = jnp.where(is_possible_RxL, ratio_RxL, 0.0)
  return jnp.where(is_sampled_RxL, ratio_RxL, 1.0)


def clipped(
    log_probs_RxL: jax.Array, behaviour_RxL: jax.Array,
    advantages_RxL: jax.Array, is_sampled_RxL: jax.Array, *, level: str,
    clip_low: float, clip_high: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Negates the clipped objective of every token.

  -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A): PPO, arXiv 1707.06347,
  Eq. 7, with rho from `ratios`. At the sequence level 'sequence' weights make
  the sum over a row GSPO's objective (arXiv 2507.18071, Eqs. 5 and 13).

  Args:
    log_probs_RxL: see `ratios`; the gradient flows through it only.
    behaviour_RxL: see `ratios`.
    advantages_RxL: float32.
    is_sampled_RxL: bool.
    level: one of `LEVELS`.
    clip_low: in [0, 1]; 1 does not clip below.
    clip_high: at least 0; infinity does not clip above.

  Returns:
    Losses [R, L] float32, 0 at forced tokens, and totals over the others, []
    float32, which add up over micro-batches: the ratios, and how many tokens
    are held at 1 - clip_low or 1 + clip_high (no gradient), or ruled out.
  """
  is_sampled_RxL = is_sampled_RxL.astype(bool)
  advantages_RxL = jax.lax.stop_gradient(
      jnp.where(is_sampled_RxL, advantages_RxL.astype(jnp.float32), 0.0))
  ratio_RxL = ratios(
      log_probs_RxL, jax.lax.stop_gradient(behaviour_RxL), is_sampled_RxL,
      level=level)
  held_RxL = jnp.clip(ratio_RxL, 1 - clip_low, 1 + clip_high)
  loss_RxL = -jnp.minimum(
      ratio_RxL * advantages_RxL, held_RxL * advantages_RxL)

  def count(is_hit_RxL):
    return jnp.sum((is_hit_RxL & is_sampled_RxL).astype(jnp.float32))

  return loss_RxL, dict(
      ratio=jnp.sum(jnp.where(
          is_sampled_RxL, jax.lax.stop_gradient(ratio_RxL), 0.0)),
      clipped_low=count((ratio_RxL < held_RxL) & (advantages_RxL < 0)),
      clipped_high=count((ratio_RxL > held_RxL) & (advantages_RxL > 0)),
      ruled_out=count(log_probs_RxL <= _RULED_OUT))


def token_weights(
    is_sampled_RxL: jax.Array, how: str, *, constant: float = 1.0
) -> jax.Array:
  """Weighs the tokens of a whole batch, [R, L] float32; 0 if not sampled.

    'token'     1 / sampled tokens of the batch: a mean over tokens
    'sequence'  1 / (rows * sampled tokens of the row): a mean over rows of
                means over tokens (GRPO, arXiv 2402.03300, Eq. 3)
    'constant'  1 / (rows * constant): long and short rows weigh their tokens
                alike (Dr. GRPO, arXiv 2503.20783, sec. 3)

  Rows without a sampled token are padding and do not count as rows. 'token'
  and 'sequence' weights sum to 1.

  Args:
    is_sampled_RxL: bool, of the whole batch, not of a micro-batch.
    how: one of `WEIGHTINGS`.
    constant: tokens, such as the longest row's budget; read by 'constant'.
  """
  mask_RxL = is_sampled_RxL.astype(jnp.float32)
  return mask_RxL / _share(
      jnp.sum(mask_RxL, axis=1, keepdims=True), how, constant)


def tree_weights(
    leaves_RxXxF: jax.Array, how: str, *, constant: float = 1.0
) -> jax.Array:
  """Weighs the tokens of trees as those of their leaves one by one, [R, X].

  A token that several leaves share has the sum of what `token_weights` gives it
  in each of them.

  Args:
    leaves_RxXxF: bool, the leaves that the token is a part of and that count.
    how: as of `token_weights`.
    constant: the same.
  """
  mask_RxXxF = leaves_RxXxF.astype(jnp.float32)
  return jnp.sum(mask_RxXxF / _share(
      jnp.sum(mask_RxXxF, axis=1, keepdims=True), how, constant), axis=2)


def _share(num: jax.Array, how: str, constant: float) -> jax.Array:
  """What a token counts one over, in texts of so many sampled tokens."""
  texts = jnp.maximum(jnp.sum((num > 0).astype(jnp.float32)), 1.0)
  if how == 'token':
    return jnp.maximum(jnp.sum(num), 1.0)
  if how == 'sequence':
    return texts * jnp.maximum(num, 1.0)
  return texts * constant


def entropy(logits_RxLxV: jax.Array) -> jax.Array:
  """Computes the entropy of each token's distribution, nats, [R, L] float32.

  Tokens that are ruled out (-1e30 or -infinity) add nothing, neither to the
  value nor to the gradient.
  """
  log_probs_RxLxV = jax.nn.log_softmax(logits_RxLxV.astype(jnp.float32))
  is_possible_RxLxV = log_probs_RxLxV > _RULED_OUT
  log_probs_RxLxV = jnp.where(is_possible_RxLxV, log_probs_RxLxV, 0.0)
  probs_RxLxV = jnp.where(is_possible_RxLxV, jnp.exp(log_probs_RxLxV), 0.0)
  return -jnp.sum(probs_RxLxV * log_probs_RxLxV, axis=-1)
