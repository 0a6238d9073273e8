# SPDX-License-Identifier: Apache-2.0
"""The programs of `rl.programs` with the shapes that they are called with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from meta_cot import program as program_lib
from meta_cot.program import Program
from meta_cot.rl import credit
from meta_cot.rl import playing
from meta_cot.rl import qstar
from meta_cot.rl.programs import Programs
from meta_cot.rollouts import branching
from meta_cot.rollouts import queue
from meta_cot.training import flops


def _explore(of: Programs, name: str) -> Program:
  """All searches of an iteration."""
  return playing.explore(
      name, of.search, of.mesh, params=of.params, width=of.question_width,
      num_questions=of.settings.questions.num_questions)


def _rollout(of: Programs, name: str) -> Program:
  return of.play(name, of.settings.questions.num_samples)


def _leave(of: Programs, name: str) -> Program:
  """Where branches leave; by entropy trajectories are read once."""
  played = _rollout(of, name)
  params, prompts, lengths, *_, rng = played.arguments
  return Program(
      name, of.branches.leave,
      (params, prompts, lengths, _given(of, played), rng), {}, 0.0, 0)


def _branch(of: Programs, name: str) -> Program:
  """What branches draw."""
  contexts, _ = _given(of, _leave(of, name))
  params, *_, rng = _rollout(of, name).arguments
  number = len(contexts.lengths) * of.rules.num_tokens
  return Program(
      name, of.branches.go_on,
      (params, contexts.texts, contexts.lengths, contexts.beginning, rng), {},
      number * of.model.flops_per_token(of.width + of.rules.row_length), number)


def _prepare(of: Programs, name: str) -> Program:
  """The batch; which part of the work depends on what the objective needs."""
  played, shape = _rollout(of, name), jax.ShapeDtypeStruct
  params, prompts, lengths, *_ = played.arguments
  grid = num, num_episodes = (
      of.settings.questions.num_trajectories, of.rules.num_episodes)
  verdicts = credit.Verdicts(
      rewards=shape(grid, jnp.float32), discounts=shape((num,), jnp.float32),
      is_taken=shape(grid, bool), is_judged=shape((num,), bool),
      tokens_before=shape(grid, jnp.int32))
  values = of.steps and shape(
      (num, num_episodes * of.steps.number), jnp.float32)
  scalar = shape((), jnp.float32)
  drawn = _given(of, played)
  if of.branches:
    drawn = program_lib.split(jax.eval_shape(
        branching.join, drawn, _given(of, _branch(of, name)),
        _given(of, _leave(of, name))[1]), of.mesh)
  if of.num_given:
    drawn = program_lib.split(qstar.Solved(
        drawn, shape((num,), jnp.int32), shape((num, of.num_given), jnp.int32),
        shape((num,), jnp.int32)), of.mesh)
  arguments = (params, of.start, prompts, lengths, drawn) + (
      program_lib.split((verdicts, scalar, scalar, values), of.mesh))
  jitted = of.prepare()
  rows, width = jax.eval_shape(jitted, *arguments)[0].rows.tokens.shape
  passes = len(of.objective.needs & {'reference', 'values', 'log_probs'})
  return Program(
      name, jitted, arguments, {},
      passes * rows * width * of.model.flops_per_token(width / 2), rows * width)


def _keep(of: Programs, name: str) -> Program:
  batch, _ = _given(of, _prepare(of, name))
  rows, width = of.num_kept_rows, batch.rows.tokens.shape[1]
  return Program(
      name, of.keep(), (of.params, batch), {},
      rows * width * of.model.flops_per_token(width / 2), rows * width)


def _update(of: Programs, name: str) -> Program:
  batch, _ = _given(of, _prepare(of, name))
  rows, width = batch.rows.tokens.shape
  tokens = rows * width // of.settings.updates.num_minibatches
  trained = of.settings.trained
  scalar = lambda dtype: program_lib.placed(
      jax.ShapeDtypeStruct((), dtype), of.mesh)
  return Program(
      name, of.update(),
      (of.state, batch, scalar(jnp.int32), scalar(jnp.float32),
       trained.base(of.start)), {}, tokens * flops.training_flops_per_token(
           of.model, width, trained.num_passes), tokens)


def _values(of: Programs, name: str) -> Program:
  """Trajectories from the questions, for the values of first steps."""
  _, prompts, lengths, *_ = _rollout(of, name).arguments
  return _continued(
      of, name, prompts, queue.Beginning(lengths, lengths),
      len(prompts) * of.rules.num_tokens)


def _contexts(of: Programs, name: str) -> Program:
  """Nothing is computed: tokens are looked up."""
  played = _rollout(of, name)
  _, prompts, lengths, *_ = played.arguments
  return Program(
      name, of.contexts(), (prompts, lengths, _given(of, played)), {}, 0.0, 0)


def _continue(of: Programs, name: str) -> Program:
  """From everything before the later steps of all trajectories."""
  contexts, rules = _given(of, _contexts(of, name)), of.rules
  # Of a step only its episode's beginning is known: at most so many are left.
  left = sum(
      e * rules.episode_length + (e - 1) * rules.num_between
      for e in range(1, rules.num_episodes + 1)) * of.steps.number
  left -= rules.num_tokens  # the first step is not among them
  return _continued(
      of, name, contexts.texts, contexts.beginning,
      of.settings.questions.num_trajectories * left)


def _continued(
    of: Programs, name: str, texts: jax.ShapeDtypeStruct,
    beginning: queue.Beginning, tokens: int,
) -> Program:
  """`num_rollouts` trajectories from each context; at most so many tokens."""
  params, *_, rng = _rollout(of, name).arguments
  tokens *= of.settings.credit.num_rollouts
  work = flops.prefill_flops(of.model, *texts.shape, num_readouts=0)
  work += tokens * of.model.flops_per_token(of.width + of.rules.row_length / 2)
  return Program(
      name, of.continue_(), (params, texts, beginning.episode, beginning, rng),
      {}, work, tokens)


def _given(of: Programs, program: Program):
  """Shapes of what a program gives, split by rows."""
  return program_lib.split(
      jax.eval_shape(program.jitted, *program.arguments), of.mesh)


PARTS: dict[str, Callable[[Programs, str], Program]] = {
    'explore': _explore,
    'rollout': _rollout,
    'leave': _leave,
    'branch': _branch,
    'prepare': _prepare,
    'keep': _keep,
    'update': _update,
    'evaluate': lambda of, name: of.play(name, of.settings.num_eval_samples),
    'values': _values,
    'contexts': _contexts,
    'continue': _continue,
}
