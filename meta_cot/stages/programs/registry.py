# SPDX-License-Identifier: Apache-2.0
"""Every jitted program of an experiment, with the shapes it is called with.

The programs come from the same builders that the stages run. A new program
adds one line to PROGRAMS.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot import program as program_lib
from meta_cot import sharding
from meta_cot import types
from meta_cot.program import Program
from meta_cot.settings import config as config_lib
from meta_cot.solvers import sampling as sampling_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import sft
from meta_cot.stages.programs import rl
from meta_cot.stages.programs import search
from meta_cot.stages.programs import shared
from meta_cot.training import flops
from meta_cot.training import state as state_lib

_MAX_PROMPT = 128  # tokens; the prompts of the tasks are shorter
_PAD_ID, _EOS_ID = 0, 2  # any ids do: they are constants of the program

_STAGES = (search, rl)  # with programs of their own

Builder = Callable[[experiment_lib.Experiment, jax.sharding.Mesh], Program]


def for_accelerator(
    experiment: experiment_lib.Experiment
) -> experiment_lib.Experiment:
  """The experiment as an accelerator runs it: 'auto' is bfloat16 there."""
  if experiment.model.compute_dtype != 'auto':
    return experiment
  return dataclasses.replace(experiment, model=dataclasses.replace(
      experiment.model, compute_dtype='bfloat16'))


def names(experiment: experiment_lib.Experiment) -> tuple[str, ...]:
  """All programs of its stages.

  Raises:
    ConfigError: a stage cannot run with these settings.
  """
  return (*PROGRAMS, *(
      name for stage in _STAGES for name in stage.names(experiment)))


def check(experiment: experiment_lib.Experiment, name: str) -> None:
  """Raises a ConfigError where the experiment has no program of this name."""
  known = names(experiment)
  if name in known:
    return
  hint = config_lib.nearest(name, known)
  for stage in _STAGES:
    if stage.is_known(name):
      hint = f'it belongs to experiments with {stage.NEEDS}; here it {hint}'
  raise config_lib.ConfigError(f'--programs: got {name!r}; {hint}.')


def build(
    experiment: experiment_lib.Experiment, mesh: jax.sharding.Mesh, name: str
) -> Program:
  """The program `name` of `names`; call it and `lower` under `use_mesh`.

  Raises:
    ConfigError: the batch does not divide over the mesh, or the settings of a
      stage do not go together.
    ValueError: a parameter axis does not divide over the mesh.
  """
  experiment_lib.rows_per_device(experiment, mesh)
  if name in PROGRAMS:
    return PROGRAMS[name](experiment, mesh)
  stage = next(stage for stage in _STAGES if stage.is_known(name))
  return stage.build(experiment, mesh, name)


def _init(experiment, mesh) -> Program:
  initialise = state_lib.jit_create(
      sft.init_fn(experiment), shared.update(experiment), mesh)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  return Program(
      'init', initialise, (program_lib.placed(rng, mesh),), {}, 0.0, 0)


def _train_step(experiment, mesh) -> Program:
  step = sft.jit_train_step(experiment, mesh, shared.num_steps(experiment))
  state, _ = state_lib.shardings(
      sft.init_fn(experiment), shared.update(experiment), mesh)
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
      (shared.params(experiment, mesh), batch), {},
      per_token * batch.tokens.size, batch.tokens.size)


def _prefill(experiment, mesh) -> Program:
  """The first part of `generate` by itself, to see what it takes."""
  model = experiment.model

  @jax.jit
  def prefill(params, prompts_BxP, lengths_B):
    return decode.prefill(model, params, prompts_BxP, lengths_B)

  prompts, lengths, _ = _prompts(experiment, mesh)
  return Program(
      'prefill', prefill,
      (shared.params(experiment, mesh), prompts, lengths), {},
      _prefill_flops(model, prompts), prompts.size)


def _generate(experiment, mesh) -> Program:
  model, evaluation = experiment.model, experiment.evaluation
  prompts, lengths, row_ids = _prompts(experiment, mesh)
  num_new = evaluation.max_new_tokens
  generate = sampling_lib.jit_generate(
      model, mesh, max_new_tokens=num_new, eos_ids=(_EOS_ID,), pad_id=_PAD_ID,
      sampling=decode.Sampling(
          temperature=evaluation.temperature, top_k=evaluation.top_k,
          top_p=evaluation.top_p))
  rng = jax.eval_shape(lambda: jax.random.key(0))
  rows, width = prompts.shape
  work = rows * (num_new - 1) * model.flops_per_token(width + num_new / 2)
  return Program(
      'generate', generate,
      (shared.params(experiment, mesh), prompts, lengths,
       program_lib.placed(rng, mesh)),
      dict(row_ids_B=row_ids), _prefill_flops(model, prompts) + work,
      rows * num_new)


PROGRAMS: dict[str, Builder] = {
    'init': _init,
    'train_step': _train_step,
    'eval_loss': _eval_loss,
    'prefill': _prefill,
    'generate': _generate,
}


def _batch(experiment, mesh) -> types.Batch:
  shape = (experiment.train.batch_size, experiment.data.sequence_length)
  ints = program_lib.rows(shape, jnp.int32, mesh)
  return types.Batch(
      tokens=ints, targets=ints, positions=ints, segment_ids=ints,
      loss_mask=program_lib.rows(shape, jnp.float32, mesh))


def _prompts(experiment, mesh):
  """Prompts, their lengths and row ids of one batch of the evaluation."""
  rows = sharding.up_to_parts(experiment.evaluation.batch_size, mesh)
  room = experiment.model.max_length - experiment.evaluation.max_new_tokens
  width = max(1, min(_MAX_PROMPT, room))
  one = program_lib.rows((rows,), jnp.int32, mesh)
  return program_lib.rows((rows, width), jnp.int32, mesh), one, one


def _prefill_flops(model, prompts) -> float:
  rows, width = prompts.shape
  return flops.prefill_flops(model, rows, width, num_readouts=rows)
