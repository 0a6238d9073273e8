# SPDX-License-Identifier: Apache-2.0
"""The batch of an iteration, and one optimiser update on a share of it.

Axes: R rows, X positions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from meta_cot import decode
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.objectives import kl
from meta_cot.objectives import policy_gradient
from meta_cot.rl import credit
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import qstar
from meta_cot.rl import scoring
from meta_cot.rl import settings as settings_lib
from meta_cot.rollouts import continuations
from meta_cot.rollouts import rows as rows_lib
from meta_cot.rollouts import trees as trees_lib
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib


def loss(
    config: model_config.ModelConfig, settings: settings_lib.RlConfig,
    objective: objective_lib.Objective, params: types.Params,
    batch: objective_lib.Batch, numbers_R: jax.Array,
    kl_coefficient: jax.Array, *, num_rows: int,
) -> tuple[jax.Array, dict[str, Any]]:
  """Computes the loss of a micro-batch: a sum over its tokens, by weights.

  Its rows have the numbers [R] int32 among the `num_rows` rows of a minibatch.

  Returns:
    The loss [] float32, and totals that add up: `loss`; `trained_tokens`;
    `drawn_tokens` of these; `largest_gap` [R] of |trainer's - sampler's|
    log-probs, of all rows, 0 of others than its own; `means`, what is logged
    per drawn token.
  """
  rows, mask = batch.rows, batch.is_trained
  scores = scoring.score(
      config, params, rows.tokens, rows.targets,
      sampling=settings.episodes.sampling(),
      num_chunks=settings.updates.num_loss_chunks, prompts=batch.prompts,
      places=rows.places)
  losses_RxX, sums = objective.loss(scores, batch, kl_coefficient)
  total = jnp.sum(jnp.where(mask, losses_RxX * batch.weights, 0.0))
  drawn = mask & rows.is_sampled
  gap_RxX = jnp.where(drawn, jnp.abs(scores.sampled - rows.behaviour), 0.0)
  add = lambda x: jnp.sum(jnp.where(drawn, x, 0.0))
  means = sums | dict(entropy=add(scores.entropy), gap_mean=add(gap_RxX))
  if batch.reference is not None:
    means |= {
        f'kl_{k}': add(kl.estimate(scores.plain, batch.reference, k))
        for k in ('k1', 'k3')}
  return total, dict(
      loss=total, trained_tokens=jnp.sum(mask.astype(jnp.float32)),
      drawn_tokens=jnp.sum(drawn.astype(jnp.float32)), means=means,
      largest_gap=jnp.zeros(num_rows).at[numbers_R].set(
          jnp.max(gap_RxX, axis=1)))


def weigh(
    is_trained: jax.Array, settings: settings_lib.RlConfig,
    row_constant: float,
) -> jax.Array:
  """Weighs tokens by `loss.token_weights`, every minibatch on its own.

  Args:
    is_trained: [R, X] bool; or [R, X, L] where rows are trees, see
      `policy_gradient.tree_weights`.
    settings: of the run.
    row_constant: that of `policy_gradient.token_weights`.

  Returns:
    [R, X] float32.
  """
  weights_of = policy_gradient.token_weights if is_trained.ndim == 2 else (
      policy_gradient.tree_weights)
  weights = jax.vmap(lambda mask: weights_of(
      mask, settings.loss.token_weights, constant=row_constant))(
          step_lib.split_rows(is_trained, settings.updates.num_minibatches))
  return jnp.swapaxes(weights, 0, 1).reshape(is_trained.shape[:2])


def make_batch(
    model: model_config.ModelConfig, settings: settings_lib.RlConfig,
    objective: objective_lib.Objective, pad_id: int,
    steps: continuations.Steps | None, row_constant: float,
) -> Callable[..., tuple[objective_lib.Batch, jax.Array]]:
  """Makes the pure function of an iteration's batch; once for all updates.

  Called with (params, reference, prompts, lengths, drawn, verdicts,
  progress, kl_coefficient, values_NxJ or None), all parameters of both; drawn
  are rollouts, trees, or what is solved. `steps` are those of the values;
  `row_constant` is that of `weigh`. It gives the batch and `Credit.is_flat`.
  """
  updates, needs = settings.updates, objective.needs

  def prepare(params, reference, prompts_QxP, lengths_Q, drawn, verdicts,
              progress, kl_coefficient, values_NxJ):
    rows, leaves = _assemble(
        prompts_QxP, lengths_Q, drawn, pad_id, updates.num_loss_chunks)
    prompts = _shared(model, updates, rows, prompts_QxP, lengths_Q)
    score = lambda params: scoring.score(
        model, params, rows.tokens, rows.targets,
        sampling=decode.Sampling(temperature=1.0),
        num_chunks=updates.num_loss_chunks, prompts=prompts,
        places=rows.places)
    before = score(params) if needs & {'values', 'log_probs'} else None
    evidence = credit.Evidence(
        rows=rows, verdicts=verdicts, progress=progress,
        kl_coefficient=kl_coefficient, leaves=leaves,
        reference=score(reference).plain if 'reference' in needs else None,
        log_probs=before.plain if 'log_probs' in needs else None,
        values=before.values if 'values' in needs else None,
        step_values=values_NxJ, num_samples=settings.questions.num_samples,
        steps=None if steps is None else steps.of_tokens(
            rows, verdicts.rewards.shape[1]))
    given = objective.credit(evidence)
    counted = credit.trained(rows, verdicts) if leaves is None else (
        credit.judged_leaves(leaves, verdicts))
    if rows.is_given is not None:
      counted |= rows.is_given
    batch = objective_lib.Batch(
        rows=rows, advantages=given.advantages,
        is_trained=counted if leaves is None else jnp.any(counted, axis=2),
        weights=weigh(counted, settings, row_constant),
        reference=evidence.reference, targets=given.targets,
        rewards=given.rewards,
        old_values=evidence.values, prompts=prompts,
        entropy_bonus=jnp.full(
            len(rows.tokens), settings.loss.bonus(progress), jnp.float32)
        if settings.loss.has_entropy else None)
    return jax.tree.map(
        lambda x: sharding.constrain(x, 'act_batch', *[None] * (x.ndim - 1)),
        (batch, given.is_flat))

  return prepare


def _assemble(prompts_QxP, lengths_Q, drawn, pad_id, multiple):
  """The rows of what was drawn, and the leaves of their tokens if trees."""
  if isinstance(drawn, qstar.Solved):
    return qstar.assemble(
        prompts_QxP, lengths_Q, drawn, pad_id=pad_id, multiple=multiple), None
  if not isinstance(drawn, trees_lib.Trees):
    return rows_lib.assemble(
        prompts_QxP, lengths_Q, drawn, pad_id=pad_id, multiple=multiple), None
  num_rows, num_leaves, num_new = drawn.tokens.shape
  each = lambda x_Q: jnp.repeat(x_Q, num_rows // len(lengths_Q), axis=0)
  width = prompts_QxP.shape[1] - 1 + num_leaves * num_new
  made = trees_lib.assemble(
      each(prompts_QxP), each(lengths_Q), drawn, pad_id=pad_id,
      width=-(-width // multiple) * multiple)
  return made.rows, made.leaves


def _shared(model, updates, rows, prompts_QxP, lengths_Q):
  """The prompts, where rows are scored faster with them; else None."""
  (num_rows, length), (num_questions, width) = (
      rows.tokens.shape, prompts_QxP.shape)
  shares = updates.num_minibatches * updates.num_accumulation
  if rows.places is None and updates.num_loss_chunks == 1 and (
      length > width and num_rows // num_questions % shares == 0) and (
          scoring.can_share(model, num_rows // shares, length)):
    return scoring.Prompts(prompts_QxP, lengths_Q)
  return None


def make(
    config: model_config.ModelConfig, settings: settings_lib.RlConfig,
    objective: objective_lib.Objective,
    optimizer: optax.GradientTransformation, schedule: optax.Schedule,
) -> Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]:
  """Makes the pure update.

  It is (state, batch, minibatch, beta, base) -> (state, metrics); the state has
  the part `settings.trained`, `base` the rest. `minibatch` says which share of
  the rows is used; rows are dealt out like cards, so each has samples of most
  questions. The metrics have the learning rate, by `schedule`.
  """
  updates, whole = settings.updates, settings.trained.whole

  def update(state, batch, minibatch, kl_coefficient, base):
    prompts, batch = batch.prompts, batch.replace(prompts=None)
    if updates.num_minibatches > 1:
      batch = jax.tree.map(
          lambda x: jax.lax.dynamic_index_in_dim(
              step_lib.split_rows(x, updates.num_minibatches), minibatch, 0,
              keepdims=False), batch)
    num_rows = len(batch.is_trained)
    grad_fn = jax.grad(
        lambda params, batch, *rest: loss(
            config, settings, objective, whole(base, params),
            batch.replace(prompts=prompts), *rest, kl_coefficient,
            num_rows=num_rows), has_aux=True)
    grads, totals = step_lib.accumulate(
        lambda micro: grad_fn(state.params, *micro),
        (batch, jnp.arange(num_rows)), updates.num_accumulation)
    changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
    number = jnp.maximum(totals['drawn_tokens'], 1.0)
    metrics = {
        name: total / number for name, total in totals['means'].items()} | dict(
            loss=totals['loss'], trained_tokens=totals['trained_tokens'],
            gap_max=jnp.max(totals['largest_gap']),
            grad_norm=optax.tree.norm(grads),
            learning_rate=jnp.asarray(schedule(state.step), jnp.float32))
    return state.replace(
        step=state.step + 1, opt_state=opt_state,
        params=optax.apply_updates(state.params, changes)), metrics

  return update
