# SPDX-License-Identifier: Apache-2.0
"""Every jitted program of an experiment, with the shapes it is called with.

The programs come from the same builders that the stages run. A new program
adds one line to PROGRAMS.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot import experiment as experiment_lib
from meta_cot import sharding
from meta_cot import types
from meta_cot.evaluation import decoding
from meta_cot.model import config as model_config
from meta_cot.stages import sft
from meta_cot.training import flops
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib

_MAX_PROMPT = 128  # tokens; the prompts of the tasks are shorter
_PAD_ID, _EOS_ID = 0, 2  # any ids do: they are constants of the program


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function, what it is called with, and its useful work."""

  name: str
  jitted: Callable
  arguments: tuple  # trees of ShapeDtypeStruct with shardings
  keywords: dict[str, Any]
  model_flops: float  # useful, of one call on all devices
  tokens: int  # that one call reads or writes, on all devices; 0: none

  def lower(self) -> jax.stages.Lowered:
    """Traces and lowers it, for the devices of its arguments' shardings."""
    return self.jitted.lower(*self.arguments, **self.keywords)


Builder = Callable[[experiment_lib.Experiment, jax.sharding.Mesh], Program]


def for_accelerator(
    experiment: experiment_lib.Experiment
) -> experiment_lib.Experiment:
  """The experiment as an accelerator runs it: 'auto' is bfloat16 there."""
  if experiment.model.compute_dtype != 'auto':
    return experiment
  return dataclasses.replace(experiment, model=dataclasses.replace(
      experiment.model, compute_dtype='bfloat16'))


def build(
    experiment: experiment_lib.Experiment, mesh: jax.sharding.Mesh, name: str
) -> Program:
  """The program `name` of PROGRAMS; call it and `lower` under `use_mesh`.

  Raises:
    ConfigError: the batch does not divide over the mesh.
    ValueError: a parameter axis does not divide over the mesh.
  """
  experiment_lib.rows_per_device(experiment, mesh)
  return PROGRAMS[name](experiment, mesh)


def _init(experiment, mesh) -> Program:
  initialise = state_lib.jit_create(
      sft.init_fn(experiment), _update(experiment), mesh)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  return Program('init', initialise, (_placed(rng, mesh),), {}, 0.0, 0)


def _train_step(experiment, mesh) -> Program:
  step = sft.jit_train_step(experiment, mesh, _num_steps(experiment))
  state, _ = state_lib.shardings(
      sft.init_fn(experiment), _update(experiment), mesh)
  batch = _batch(experiment, mesh)
  per_token = flops.training_flops_per_token(
      experiment.model, experiment.data.sequence_length)
  return Program(
      'train_step', step, (state, batch), {}, per_token * batch.tokens.size,
      batch.tokens.size)


def _eval_loss(experiment, mesh) -> Program:
  batch = _batch(experiment, mesh)
  per_token = experiment.model.flops_per_token(
      experiment.data.sequence_length / 2)
  return Program(
      'eval_loss', sft.jit_loss_sums(experiment, mesh),
      (_params(experiment, mesh), batch), {}, per_token * batch.tokens.size,
      batch.tokens.size)


def _prefill(experiment, mesh) -> Program:
  """The first part of `generate` by itself, to see what it takes."""
  model = experiment.model

  @jax.jit
  def prefill(params, prompts_BxP, lengths_B):
    return decode.prefill(model, params, prompts_BxP, lengths_B)

  prompts, lengths, _ = _prompts(experiment, mesh)
  return Program(
      'prefill', prefill, (_params(experiment, mesh), prompts, lengths), {},
      _prefill_flops(model, prompts), prompts.size)


def _generate(experiment, mesh) -> Program:
  model, evaluation = experiment.model, experiment.evaluation
  prompts, lengths, row_ids = _prompts(experiment, mesh)
  num_new = evaluation.max_new_tokens
  generate = decoding.jit_generate(
      model, mesh, max_new_tokens=num_new, eos_id=_EOS_ID, pad_id=_PAD_ID,
      sampling=decode.Sampling(
          temperature=evaluation.temperature, top_k=evaluation.top_k,
          top_p=evaluation.top_p))
  rng = jax.eval_shape(lambda: jax.random.key(0))
  rows, width = prompts.shape
  work = rows * (num_new - 1) * model.flops_per_token(width + num_new / 2)
  return Program(
      'generate', generate,
      (_params(experiment, mesh), prompts, lengths, _placed(rng, mesh)),
      dict(row_ids_B=row_ids), _prefill_flops(model, prompts) + work,
      rows * num_new)


PROGRAMS: dict[str, Builder] = {
    'init': _init,
    'train_step': _train_step,
    'eval_loss': _eval_loss,
    'prefill': _prefill,
    'generate': _generate,
}


def _update(experiment):
  return optimizer.make(experiment.optimizer, _num_steps(experiment))


def _num_steps(experiment) -> int:
  """Steps of a run with full rows; a constant of the learning rate."""
  tokens = experiment.train.batch_size * experiment.data.sequence_length
  return max(1, experiment.train.num_tokens // tokens)


def _placed(tree, mesh):
  """Shapes of arrays that every device holds whole."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding.replicated(mesh)), tree)


def _rows(shape, dtype, mesh):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch(mesh))


def _params(experiment, mesh):
  state, _ = state_lib.shardings(
      sft.init_fn(experiment), _update(experiment), mesh)
  return state.params


def _batch(experiment, mesh) -> types.Batch:
  shape = (experiment.train.batch_size, experiment.data.sequence_length)
  ints = _rows(shape, jnp.int32, mesh)
  return types.Batch(
      tokens=ints, targets=ints, positions=ints, segment_ids=ints,
      loss_mask=_rows(shape, jnp.float32, mesh))


def _prompts(experiment, mesh):
  """Prompts, their lengths and row ids of one batch of the evaluation."""
  parts = sharding.data_parallelism(mesh)
  rows = -(-experiment.evaluation.batch_size // parts) * parts
  room = experiment.model.max_length - experiment.evaluation.max_new_tokens
  width = max(1, min(_MAX_PROMPT, room))
  return (
      _rows((rows, width), jnp.int32, mesh), _rows((rows,), jnp.int32, mesh),
      _rows((rows,), jnp.int32, mesh))


def _prefill_flops(model: model_config.ModelConfig, prompts) -> float:
  """Forward work; logits are read at the last token of a row only."""
  rows, width = prompts.shape
  readout = 2.0 * model.vocab_size * model.embed_dim
  return prompts.size * (model.flops_per_token(width / 2) - readout) + (
      rows * readout)
