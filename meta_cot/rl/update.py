# SPDX-License-Identifier: Apache-2.0
"""One optimiser update on a share of an iteration's rows.

Axes: R rows, X positions.
"""

from collections.abc import Callable

from flax import struct
import jax
import jax.numpy as jnp
import optax

from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.objectives import kl
from meta_cot.objectives import policy_gradient
from meta_cot.objectives import value as value_lib
from meta_cot.rl import scoring
from meta_cot.rl import settings as settings_lib
from meta_cot.rollouts import rows as rows_lib
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib


@struct.dataclass
class Batch:
  """All rows of an iteration, with what was computed once for them."""

  rows: rows_lib.Rows
  advantages: jax.Array  # [R, X] float32
  is_trained: jax.Array  # [R, X] bool, drawn, and of a judged trajectory
  reference: jax.Array  # [R, X] float32, log-probs at temperature 1
  targets: jax.Array | None  # [R, X] float32, of the value head
  old_values: jax.Array | None  # [R, X] float32
  # Of all rows; of every micro-batch too, which has equally many of each.
  prompts: scoring.Prompts | None = None


@struct.dataclass
class Sums:
  """Totals of a micro-batch; all add up."""

  policy: policy_gradient.Sums
  value: value_lib.Sums | None
  loss: jax.Array  # [] float32
  k1: jax.Array  # [] float32, nats, over the trained tokens; so are those below
  k3: jax.Array  # [] float32
  entropy: jax.Array  # [] float32
  gap: jax.Array  # [] float32, |trainer's - sampler's| log-probs
  largest_gap: jax.Array  # [R] float32, of all rows; others than its own: 0


def loss(
    config: model_config.ModelConfig, settings: settings_lib.RlConfig,
    params: types.Params, batch: Batch, weights_RxX: jax.Array,
    numbers_R: jax.Array, kl_coefficient: jax.Array, *, num_rows: int,
) -> tuple[jax.Array, Sums]:
  """The loss of a micro-batch: a plain sum over its tokens.

  Clipped policy gradient, plus beta * KL to the reference (with `kl_in`
  'loss'), minus the entropy bonus, plus the value loss (with targets).

  Args:
    config: of the model.
    settings: of the loss.
    params: unboxed.
    batch: a micro-batch.
    weights_RxX: of its tokens, made on the whole minibatch.
    numbers_R: int32, of its rows in the minibatch.
    kl_coefficient: beta.
    num_rows: of the minibatch.

  Returns:
    The loss [] float32, and totals.
  """
  rows, mask = batch.rows, batch.is_trained
  scores = scoring.score(
      config, params, rows.tokens, rows.targets, sampling=settings.sampling(),
      num_chunks=settings.num_loss_chunks, prompts=batch.prompts)
  losses_RxX, policy = policy_gradient.clipped(
      scores.sampled, rows.behaviour, batch.advantages, mask,
      level=settings.ratio_level, clip_low=settings.clip_low,
      clip_high=settings.clip_high)
  if settings.kl_in == 'loss':
    losses_RxX += kl_coefficient * kl.in_loss(
        scores.plain, batch.reference, mask, settings.kl_estimator)
  if settings.entropy_bonus:
    losses_RxX -= settings.entropy_bonus * jnp.where(mask, scores.entropy, 0.0)
  value = None
  if batch.targets is not None:
    old_RxX = None if settings.value_clip is None else batch.old_values
    errors_RxX, value = value_lib.squared_error(
        scores.values, batch.targets, mask, old_values_RxL=old_RxX,
        clip=settings.value_clip)
    losses_RxX += settings.value_coefficient * errors_RxX
  total = jnp.sum(jnp.where(mask, losses_RxX * weights_RxX, 0.0))
  gap_RxX = jnp.where(mask, jnp.abs(scores.sampled - rows.behaviour), 0.0)
  add = lambda x: jnp.sum(jnp.where(mask, x, 0.0))
  divergence = lambda k: add(kl.estimate(scores.plain, batch.reference, k))
  return total, Sums(
      policy=policy, value=value, loss=total, k1=divergence('k1'),
      k3=divergence('k3'), entropy=add(scores.entropy), gap=add(gap_RxX),
      largest_gap=jnp.zeros(num_rows).at[numbers_R].set(
          jnp.max(gap_RxX, axis=1)))


def shares_prompts(
    config: model_config.ModelConfig, settings: settings_lib.RlConfig,
    rows: tuple[int, int], prompts: tuple[int, int],
) -> bool:
  """Whether a prompt is read once for all of its rows in a micro-batch.

  Args:
    config: of the model.
    settings: of the loss.
    rows: R and X, of all rows.
    prompts: Q and P.
  """
  (num_rows, length), (num_questions, width) = rows, prompts
  shares = settings.num_minibatches * settings.num_accumulation
  return (
      settings.num_loss_chunks == 1 and length > width
      and num_rows // num_questions % shares == 0
      and scoring.can_share(config, num_rows // shares, length))


def make(
    config: model_config.ModelConfig, settings: settings_lib.RlConfig,
    optimizer: optax.GradientTransformation, schedule: optax.Schedule, *,
    row_constant: float,
) -> Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]:
  """The pure update (state, batch, minibatch, beta) -> (state, metrics).

  `minibatch` says which share of the rows is used; rows are dealt out like
  cards, so each has samples of most questions.

  Args:
    config: of the model.
    settings: of the loss.
    optimizer: optax transformation.
    schedule: learning rate by step, reported in the metrics.
    row_constant: tokens of the longest row, for `token_weights` 'constant'.
  """
  constant = row_constant if settings.token_weights == 'constant' else None

  def update(state, batch, minibatch, kl_coefficient):
    prompts, batch = batch.prompts, batch.replace(prompts=None)
    if settings.num_minibatches > 1:
      batch = jax.tree.map(
          lambda x: jax.lax.dynamic_index_in_dim(
              step_lib.split_rows(x, settings.num_minibatches), minibatch, 0,
              keepdims=False), batch)
    weights_RxX = policy_gradient.token_weights(
        batch.is_trained, settings.token_weights, constant=constant)
    num_rows = weights_RxX.shape[0]
    grad_fn = jax.grad(
        lambda params, batch, *rest: loss(
            config, settings, params, batch.replace(prompts=prompts), *rest,
            kl_coefficient, num_rows=num_rows), has_aux=True)
    grads, sums = step_lib.accumulate(
        lambda micro: grad_fn(state.params, *micro),
        (batch, weights_RxX, jnp.arange(num_rows)), settings.num_accumulation)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = _metrics(sums) | dict(
        gap_max=jnp.max(sums.largest_gap), grad_norm=optax.tree.norm(grads),
        learning_rate=jnp.asarray(schedule(state.step), jnp.float32))
    return state.replace(
        step=state.step + 1, opt_state=opt_state,
        params=optax.apply_updates(state.params, updates)), metrics

  return update


def _metrics(sums: Sums) -> dict[str, jax.Array]:
  policy = sums.policy
  mean = lambda x: x / jnp.maximum(policy.tokens, 1.0)
  metrics = dict(
      loss=sums.loss, kl_k1=mean(sums.k1), kl_k3=mean(sums.k3),
      entropy=mean(sums.entropy), ratio=mean(policy.ratio),
      clipped_low=mean(policy.clipped_low),
      clipped_high=mean(policy.clipped_high),
      ruled_out=mean(policy.ruled_out), trained_tokens=policy.tokens,
      gap_mean=mean(sums.gap))
  if sums.value is not None:
    metrics['value_error'] = mean(sums.value.squared_error)
  return metrics
