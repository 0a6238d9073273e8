# SPDX-License-Identifier: Apache-2.0
"""One optimiser update, and one evaluation batch, as pure functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from meta_cot.objectives import sft
from meta_cot.training import state as state_lib

LossFn = Callable[..., sft.Sums]  # of (params, batch, *base)
Metrics = dict[str, jax.Array]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    num_accumulation: int,
) -> Callable[..., tuple[state_lib.TrainState, Metrics]]:
  """Returns the pure update `(state, batch, *base) -> (state, metrics)`.

  `base` is what the loss needs besides and no update changes.

  The batch is cut into `num_accumulation` micro-batches whose gradients add
  up; the loss is the mean over all that is trained in the whole batch, so
  accumulating changes memory and nothing else.

  Args:
    loss_fn: totals of one micro-batch.
    optimizer: of the run.
    schedule: learning rate by step, reported in the metrics.
    num_accumulation: micro-batches; must divide the rows of every device.
  """

  def micro_loss(params, batch, total_weight, base):
    sums = loss_fn(params, batch, *base)
    return sums.loss / total_weight, sums

  def train_step(state, batch, *base):
    total = jnp.maximum(batch.weight, 1e-9)
    grad_fn = jax.grad(micro_loss, has_aux=True)
    grads, sums = accumulate(
        lambda micro: grad_fn(state.params, micro, total, base), batch,
        num_accumulation)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = dict(
        loss=sums.loss / jnp.maximum(sums.weight, 1e-9),
        accuracy=sums.correct / jnp.maximum(sums.weight, 1e-9),
        tokens=sums.tokens,
        trained_tokens=sums.weight,
        grad_norm=optax.tree.norm(grads),
        learning_rate=jnp.asarray(schedule(state.step), jnp.float32))
    state = state.replace(
        step=state.step + 1, opt_state=opt_state,
        params=optax.apply_updates(state.params, updates))
    return state, metrics

  return train_step


def accumulate(
    function: Callable[[Any], Any], batch: Any, num_accumulation: int
) -> Any:
  """Adds up `function` over micro-batches, one at a time.

  Args:
    function: micro-batch -> pytree of arrays that add up.
    batch: pytree of [B, ...].
    num_accumulation: micro-batches; must divide the rows of every device.
  """
  if num_accumulation == 1:
    return function(batch)

  def body(total, micro):
    return jax.tree.map(jnp.add, total, function(micro)), None

  micro = jax.tree.map(lambda x: split_rows(x, num_accumulation), batch)
  shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], micro))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(body, zeros, micro)[0]


def split_rows(x_B: jax.Array, num_accumulation: int) -> jax.Array:
  """[B, ...] -> [accumulation, B / accumulation, ...], device by device.

  Rows are dealt out like cards so that every device cuts its own rows and no
  row moves between devices.
  """
  rows = x_B.shape[0] // num_accumulation
  cut = x_B.reshape(rows, num_accumulation, *x_B.shape[1:])
  return jnp.swapaxes(cut, 0, 1)
