# SPDX-License-Identifier: Apache-2.0
"""What supervised training compiles."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from meta_cot import program
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.stages import base
from meta_cot.stages.train.settings import Settings
from meta_cot.training import flops
from meta_cot.training import objective as objective_lib
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Programs:
  """The jitted functions of a run, and what they are called with."""

  settings: Settings
  model: model_config.ModelConfig
  mesh: jax.sharding.Mesh
  num_steps: int  # of the run; a constant of the learning rate

  @functools.cached_property
  def start(self) -> tuple[
      Callable, optax.GradientTransformation, jax.sharding.Mesh]:
    """What functions of `training.state` want."""
    return (
        functools.partial(transformer.init, self.model),
        optimizer.make(self.settings.optimizer, self.num_steps), self.mesh)

  @functools.cached_property
  def state(self) -> state_lib.TrainState:
    """Shapes and shardings."""
    return state_lib.shardings(*self.start)[0]

  def jit_train_step(self) -> Callable[..., tuple[state_lib.TrainState, dict]]:
    """Jits (state, batch) -> (state, metrics); the state is donated."""
    step = step_lib.make_train_step(
        self._loss(), self.start[1],
        optimizer.schedule(self.settings.optimizer, self.num_steps),
        self.settings.num_accumulation)
    placed = _shardings(self.state)
    return jax.jit(
        step, in_shardings=(placed, sharding.batch(self.mesh)),
        out_shardings=(placed, sharding.replicated(self.mesh)),
        donate_argnames=('state',))

  def jit_loss_sums(self) -> Callable:
    """Jits (params, batch) -> totals of the objective."""
    return jax.jit(
        self._loss(), in_shardings=(
            _shardings(self.state.params), sharding.batch(self.mesh)),
        out_shardings=sharding.replicated(self.mesh))

  def _loss(self) -> Callable:
    return functools.partial(
        objective_lib.OBJECTIVES[self.settings.objective].loss, self.model,
        num_chunks=self.settings.num_loss_chunks)

  # What they are called with.

  def init(self) -> program.Program:
    """The first state."""
    rng = jax.eval_shape(lambda: jax.random.key(0))
    return program.Program(
        'init', state_lib.jit_create(*self.start),
        (program.placed(rng, self.mesh),), {}, 0.0, 0)

  def train_step(self) -> program.Program:
    """One update."""
    return self._program(
        'train_step', self.jit_train_step(), self.state,
        flops.training_flops_per_token(
            self.model, self.settings.data.sequence_length))

  def eval_loss(self) -> program.Program:
    """The loss on a batch of validation."""
    return self._program(
        'eval_loss', self.jit_loss_sums(), self.state.params,
        self.model.flops_per_token(self.settings.data.sequence_length / 2))

  def _program(
      self, name: str, jitted: Callable, first: Any, flops_per_token: float
  ) -> program.Program:
    """One that reads a batch behind its first argument."""
    shape = self.settings.batch_size, self.settings.data.sequence_length
    ints = program.rows(shape, jnp.int32, self.mesh)
    batch = types.Batch(
        tokens=ints, targets=ints, positions=ints, segment_ids=ints,
        loss_mask=program.rows(shape, jnp.float32, self.mesh))
    return program.Program(
        name, jitted, (first, batch), {}, flops_per_token * ints.size,
        ints.size)


def programs(context: base.Context, settings: Settings) -> base.Programs:
  """Lists what a run with full rows compiles."""
  model = context.shared.model
  if settings.start is not None:
    model = context.planned(settings.start).model
  tokens = settings.batch_size * settings.data.sequence_length
  made = Programs(
      settings, model, context.mesh, max(1, settings.num_tokens // tokens))
  return dict(
      init=made.init, train_step=made.train_step, eval_loss=made.eval_loss)


def _shardings(tree: Any) -> Any:
  return jax.tree.map(lambda x: x.sharding, tree)
