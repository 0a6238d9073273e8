# SPDX-License-Identifier: Apache-2.0
"""What supervised training compiles."""

import functools

import jax
import jax.numpy as jnp

from meta_cot import program
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.stages import artifacts
from meta_cot.stages import base
from meta_cot.stages.train import settings as settings_lib
from meta_cot.stages.train.settings import Settings
from meta_cot.training import flops
from meta_cot.training import objective as objective_lib
from meta_cot.training import optimizer
from meta_cot.training import policy as policy_lib
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib


def jit_train_step(
    model: model_config.ModelConfig, settings: Settings,
    mesh: jax.sharding.Mesh, num_steps: int):
  """Jits the update of a run of `num_steps` steps with its shardings."""
  update = optimizer.make(settings.optimizer, num_steps)
  _, placed = state_lib.shardings(
      functools.partial(transformer.init, model), update, mesh)
  step = step_lib.make_train_step(
      _loss(model, settings), update,
      optimizer.schedule(settings.optimizer, num_steps),
      settings.num_accumulation)
  return jax.jit(
      step, in_shardings=(placed, sharding.batch(mesh)),
      out_shardings=(placed, sharding.replicated(mesh)),
      donate_argnames=('state',))


def jit_loss_sums(
    model: model_config.ModelConfig, settings: Settings,
    mesh: jax.sharding.Mesh):
  """Jits (params, batch) -> totals of the objective with its shardings."""
  placed = jax.tree.map(
      lambda x: x.sharding, policy_lib.abstract(model, mesh))
  return jax.jit(
      _loss(model, settings), in_shardings=(placed, sharding.batch(mesh)),
      out_shardings=sharding.replicated(mesh))


def _loss(model, settings):
  return functools.partial(
      objective_lib.OBJECTIVES[settings.objective].loss, model,
      num_chunks=settings.num_loss_chunks)


def programs(context: base.Context, settings: Settings) -> base.Programs:
  """Lists what training compiles."""
  return {
      'init': lambda: _init(context, settings),
      'train_step': lambda: _train_step(context, settings),
      'eval_loss': lambda: _eval_loss(context, settings),
  }


def _num_steps(settings: Settings) -> int:
  """Steps of a run with full rows; a constant of the learning rate."""
  tokens = settings.batch_size * settings.data.sequence_length
  return max(1, settings.num_tokens // tokens)


def _model(context, settings) -> model_config.ModelConfig:
  if settings.start is None:
    return context.shared.model
  return artifacts.planned(context, settings.start).model


def _init(context, settings) -> program.Program:
  model = _model(context, settings)
  initialise = state_lib.jit_create(
      functools.partial(transformer.init, model),
      optimizer.make(settings.optimizer, _num_steps(settings)), context.mesh)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  return program.Program(
      'init', initialise, (program.placed(rng, context.mesh),), {}, 0.0, 0)


def _train_step(context, settings) -> program.Program:
  model, mesh = _model(context, settings), context.mesh
  settings_lib.check_devices(settings, 'train', mesh)
  num_steps = _num_steps(settings)
  state, _ = state_lib.shardings(
      functools.partial(transformer.init, model),
      optimizer.make(settings.optimizer, num_steps), mesh)
  batch = _batch(settings, mesh)
  per_token = flops.training_flops_per_token(
      model, settings.data.sequence_length)
  return program.Program(
      'train_step', jit_train_step(model, settings, mesh, num_steps),
      (state, batch), {}, per_token * batch.tokens.size, batch.tokens.size)


def _eval_loss(context, settings) -> program.Program:
  model, mesh = _model(context, settings), context.mesh
  batch = _batch(settings, mesh)
  per_token = model.flops_per_token(settings.data.sequence_length / 2)
  return program.Program(
      'eval_loss', jit_loss_sums(model, settings, mesh),
      (policy_lib.abstract(model, mesh), batch), {},
      per_token * batch.tokens.size, batch.tokens.size)


def _batch(settings, mesh) -> types.Batch:
  shape = (settings.batch_size, settings.data.sequence_length)
  ints = program.rows(shape, jnp.int32, mesh)
  return types.Batch(
      tokens=ints, targets=ints, positions=ints, segment_ids=ints,
      loss_mask=program.rows(shape, jnp.float32, mesh))
