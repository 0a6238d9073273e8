# SPDX-License-Identifier: Apache-2.0
"""The programs of the stage `rl`, by the builders that the stage runs.

  rl_OBJECTIVE_explore    with a search that explores: one for every question
  rl_OBJECTIVE_rollout    the trajectories of an iteration
  rl_OBJECTIVE_prepare    their rows, reference and advantages
  rl_OBJECTIVE_update     one update of the policy, on a minibatch
  rl_OBJECTIVE_evaluate   trajectories of validation problems
  rl_OBJECTIVE_values     with `vineppo`: new trajectories from the questions
  rl_OBJECTIVE_contexts   with `vineppo`: what stands before all later steps
  rl_OBJECTIVE_continue   the same from there
  rl_start, rl_samples    trajectories and first attempts of the start

Without later steps there is nothing to continue, and `single` has no search.
Axes as in `rollouts.rollout`, `rollouts.rows` and
`rollouts.continuations`.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp

from data_pipelines import tokenizers
from meta_cot import program as program_lib
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.objectives import erl2
from meta_cot.program import Program
from meta_cot.rl import credit
from meta_cot.rl import learner
from meta_cot.rollouts import continuations
from meta_cot.rollouts import episodes
from meta_cot.rollouts import player
from meta_cot.rollouts import queue
from meta_cot.solvers import vocabulary
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import rl_exploration
from meta_cot.stages import rl_material
from meta_cot.stages.programs import shared
from meta_cot.stages.programs import stand_in
from meta_cot.training import flops

NEEDS = (
    "'rl' in config.stages and the objective in config.rl.objectives (_values, "
    '_contexts, _continue: and advantage vineppo; _explore: and a search in '
    'config.rl.exploration), see configs/erl2.py')
_PREFIX = 'rl_'
_SHARED = {'rl_start': 'erl2', 'rl_samples': 'single'}  # by whose rules
_DELIMITER_ID = 2


def names(experiment: experiment_lib.Experiment) -> tuple[str, ...]:
  """All of the experiment; none where it has no stage `rl`.

  Raises:
    ConfigError: the stage cannot run with these settings.
  """
  if 'rl' not in experiment.stages:
    return ()
  rl_material.check(experiment)
  config = experiment.rl
  found = [*_SHARED]
  for objective in config.objectives:
    parts = ['explore'] * config.searches(objective)
    parts += ['rollout', 'prepare', 'update', 'evaluate']
    if config.advantage == 'vineppo':
      is_long = config.episodes(objective) * config.num_steps > 1
      parts += ['values'] + ['contexts', 'continue'] * is_long
    found += [f'{_PREFIX}{objective}_{part}' for part in parts]
  return tuple(found)


def is_known(name: str) -> bool:
  """Whether some experiment has an RL program of this name."""
  return name in _SHARED or name in (
      f'{_PREFIX}{objective}_{part}' for objective in erl2.OBJECTIVES
      for part in _PARTS)


def build(
    experiment: experiment_lib.Experiment, mesh: jax.sharding.Mesh, name: str
) -> Program:
  """The program `name` of `names`; call it and `lower` under `use_mesh`.

  Raises:
    ConfigError: trajectories do not fit the model, or do not divide over the
      mesh.
  """
  config = experiment.rl
  if name in _SHARED:
    num_samples = config.num_eval_samples
    if name == 'rl_samples':
      num_samples = rl_material.num_start_samples(experiment)
    run = _Run.of(experiment, mesh, _SHARED[name])
    return _play(run, name, num_samples)
  objective, _, part = name.removeprefix(_PREFIX).rpartition('_')
  return _PARTS[part](_Run.of(experiment, mesh, objective), name)


@dataclasses.dataclass(frozen=True)
class _Run:
  """A run of the stage, before it has a tokenizer and problems."""

  experiment: experiment_lib.Experiment
  mesh: jax.sharding.Mesh
  objective: str
  rules: episodes.Episodes
  steps: continuations.Steps | None
  question_width: int
  width: int  # P: the same, or with the attempts of a search behind

  @classmethod
  def of(cls, experiment, mesh, objective) -> '_Run':
    tokenizer = tokenizers.placeholder(experiment.tokenizer)
    rules = rl_material.make_rules(experiment, objective, tokenizer)
    question_width = player.prompt_width(
        tokenizer, [stand_in.problem(experiment)],
        experiment.data.style, experiment.rl.discount_prompts)
    width = question_width + rl_exploration.num_behind(
        experiment, objective, rules.reset_ids)
    rl_material.check_room(experiment, rules, width)
    rl_material.check_split(experiment, rules, mesh)
    steps = rl_material.make_steps(experiment, tokenizer)
    return cls(
        experiment, mesh, objective, rules, steps, question_width, width)

  @property
  def pad_id(self) -> int:
    return tokenizers.placeholder(self.experiment.tokenizer).pad_id

  @property
  def num_trajectories(self) -> int:
    """N."""
    config = self.experiment.rl
    return config.num_questions * config.num_samples

  @functools.cached_property
  def params(self):
    return shared.params(self.experiment, self.mesh)

  @functools.cached_property
  def rng(self):
    return self.whole(jax.eval_shape(lambda: jax.random.key(0)))

  def whole(self, tree):
    return program_lib.placed(tree, self.mesh)

  def ints(self, *shape: int) -> jax.ShapeDtypeStruct:
    return program_lib.rows(shape, jnp.int32, self.mesh)

  def floats(self, *shape: int) -> jax.ShapeDtypeStruct:
    return program_lib.rows(shape, jnp.float32, self.mesh)

  def flags(self, *shape: int) -> jax.ShapeDtypeStruct:
    return program_lib.rows(shape, bool, self.mesh)


def _play(run: _Run, name: str, num_samples: int) -> Program:
  """Trajectories of one batch of questions."""
  config, model = run.experiment.rl, run.experiment.model
  num = config.num_questions
  jitted = player.jit_rollout(
      model, rules=run.rules, num_samples=num_samples,
      num_slots=sharding.up_to_parts(config.num_slots, run.mesh))
  tokens = num * num_samples * run.rules.num_tokens
  work = shared.prefill_flops(model, num, run.width, num_readouts=0)
  work += tokens * model.flops_per_token(run.width + run.rules.row_length / 2)
  return Program(
      name, jitted, (
          run.params, run.ints(num, run.width), run.ints(num), run.ints(num),
          run.rng), {}, work, tokens)


def _explore(run: _Run, name: str) -> Program:
  """All searches of an iteration; no step ends early."""
  experiment, num = run.experiment, run.experiment.rl.num_questions
  model, length = experiment.model, experiment.search.step_length
  known = vocabulary.Vocabulary(
      pad_id=run.pad_id, eos_ids=run.rules.stop_ids,
      delimiter_ids=(_DELIMITER_ID,), texts=())
  jitted = rl_exploration.jit_explore(
      experiment, tasks.make(experiment.task.kind), known, run.rules.reset_ids)
  asked = player.Asked(
      run.ints(num, run.question_width), run.ints(num), run.ints(num))
  strategy = rl_exploration.strategy(experiment)
  tokens = num * (strategy.num_nodes - 1) * length
  work = shared.prefill_flops(
      model, num, run.question_width, num_readouts=0)
  work += tokens * model.flops_per_token(
      run.question_width + strategy.max_depth * length / 2)
  return Program(name, jitted, (run.params, asked, run.rng), {}, work, tokens)


def _rollout(run: _Run, name: str) -> Program:
  return _play(run, name, run.experiment.rl.num_samples)


def _evaluate(run: _Run, name: str) -> Program:
  return _play(run, name, run.experiment.rl.num_eval_samples)


def _played(run: _Run, name: str) -> tuple[Program, episodes.Rollouts]:
  """The rollout of an iteration, and what comes of it."""
  played = _rollout(run, name)
  return played, program_lib.split(
      jax.eval_shape(played.jitted, *played.arguments), run.mesh)


def _prepare(run: _Run, name: str) -> Program:
  """The batch; which part of the work depends on the advantage and the KL."""
  config, model = run.experiment.rl, run.experiment.model
  played, rollouts = _played(run, name)
  num, num_episodes = run.num_trajectories, run.rules.num_episodes
  verdicts = credit.Verdicts(
      rewards=run.floats(num, num_episodes),
      is_taken=run.flags(num, num_episodes), is_judged=run.flags(num),
      tokens_before=run.ints(num, num_episodes), discounts=run.floats(num))
  values = None
  if run.steps is not None:
    values = run.floats(num, num_episodes * run.steps.number)
  scalar = run.whole(jax.ShapeDtypeStruct((), jnp.float32))
  _, prompts, lengths, _, _ = played.arguments
  jitted = learner.jit_prepare(
      model, config, run.objective, run.pad_id, run.steps)
  arguments = (
      run.params, run.params, prompts, lengths, rollouts, verdicts, scalar,
      scalar, values)
  batch, _ = jax.eval_shape(jitted, *arguments)
  rows, width = batch.rows.tokens.shape
  passes = 1 + (config.advantage == 'gae') + (config.kl_in == 'reward')
  return Program(
      name, jitted, arguments, {},
      passes * rows * width * model.flops_per_token(width / 2), rows * width)


def _update(run: _Run, name: str) -> Program:
  config = run.experiment.rl
  prepared = _prepare(run, name)
  batch, _ = program_lib.split(
      jax.eval_shape(prepared.jitted, *prepared.arguments), run.mesh)
  state = rl_material.abstract(run.experiment, run.mesh)
  scalar = lambda dtype: run.whole(jax.ShapeDtypeStruct((), dtype))
  rows, width = batch.rows.tokens.shape
  tokens = rows * width // config.num_minibatches
  return Program(
      name, rl_material.jit_update(run.experiment, run.rules, run.mesh),
      (state, batch, scalar(jnp.int32), scalar(jnp.float32)), {},
      tokens * flops.training_flops_per_token(run.experiment.model, width),
      tokens)


def _values(run: _Run, name: str) -> Program:
  """Trajectories from the questions, for the values of first steps."""
  num = run.experiment.rl.num_questions
  beginning = queue.Beginning(run.ints(num), run.ints(num))
  return _go_on(
      run, name, run.ints(num, run.width), beginning,
      num * run.rules.num_tokens)


def _contexts(run: _Run, name: str) -> Program:
  """Nothing is computed: tokens are looked up."""
  played, rollouts = _played(run, name)
  _, prompts, lengths, _, _ = played.arguments
  return Program(
      name, continuations.jit_contexts(run.steps, run.rules.episode_length),
      (prompts, lengths, rollouts), {}, 0.0, 0)


def _continue(run: _Run, name: str) -> Program:
  """From everything before the later steps of all trajectories."""
  made = _contexts(run, name)
  found = program_lib.split(
      jax.eval_shape(made.jitted, *made.arguments), run.mesh)
  rules = run.rules
  # Of a step only its episode's beginning is known: at most so many are left.
  left = sum(
      e * rules.episode_length + (e - 1) * rules.num_between
      for e in range(1, rules.num_episodes + 1)) * run.steps.number
  left -= rules.num_tokens  # the first step is not among them
  return _go_on(
      run, name, found.texts, found.beginning, run.num_trajectories * left)


def _go_on(
    run: _Run, name: str, texts: jax.ShapeDtypeStruct,
    beginning: queue.Beginning, tokens: int,
) -> Program:
  """`num_rollouts` trajectories from each context; at most so many tokens."""
  model = run.experiment.model
  tokens *= run.experiment.rl.num_rollouts
  work = shared.prefill_flops(model, *texts.shape, num_readouts=0)
  work += tokens * model.flops_per_token(run.width + run.rules.row_length / 2)
  return Program(
      name, rl_material.jit_continue(run.experiment, run.rules, run.mesh),
      (run.params, texts, run.ints(*beginning.episode.shape), beginning,
       run.rng), {}, work, tokens)


_PARTS: dict[str, Callable[[_Run, str], Program]] = {
    'explore': _explore,
    'rollout': _rollout,
    'prepare': _prepare,
    'update': _update,
    'evaluate': _evaluate,
    'values': _values,
    'contexts': _contexts,
    'continue': _continue,
}
