# SPDX-License-Identifier: Apache-2.0
"""What the runs of the stage `rl` share: problems, the start, how to play."""

from collections.abc import Sequence
import dataclasses
import functools

from etils import epath
import jax
import optax

from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import types
from meta_cot.problem import Problem
from meta_cot.rl import learner as learner_lib
from meta_cot.rl import settings as rl_settings
from meta_cot.rollouts import continuations
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import revising
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import problems as problems_lib
from meta_cot.stages import rl_exploration
from meta_cot.stages import sft
from meta_cot.tasks import base
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Material:
  """What the runs of an experiment share."""

  experiment: experiment_lib.Experiment
  mesh: jax.sharding.Mesh
  tokenizer: tokenizers.Tokenizer
  task: base.Task
  train: Sequence[Problem]
  validation: Sequence[Problem]  # policies are chosen by them
  test: Sequence[Problem]  # only reported
  start: types.Params
  width: int  # of prompts

  @classmethod
  def of(cls, experiment, workdir, mesh) -> 'Material':
    """Reads it.

    Raises:
      ConfigError: the start was not trained, or settings do not go together.
    """
    config = experiment.rl
    check(experiment)
    tokenizer = tokenizers.load(workdir / 'tokenizer')
    task = tasks.make(experiment.task.kind)
    train = problems_lib.read(workdir, base.TRAIN)
    validation, test = (
        problems_lib.read(workdir, split, config.num_eval_problems)
        for split in (base.VALIDATION, tasks.test_splits(task)[0]))
    _, start = sft.restore(experiment, workdir / 'sft' / config.start, mesh)
    return cls(
        experiment, mesh, tokenizer, task, train, validation, test, start,
        player_lib.prompt_width(
            tokenizer, [*train, *validation, *test], experiment.data.style,
            config.discount_prompts))

  @property
  def judge(self) -> judge_lib.Judge:
    return judge_lib.Judge(
        self.task, self.tokenizer, self.experiment.data.style)

  def player(self, objective: str, num_samples: int):
    """Plays as an objective is trained.

    Raises:
      ConfigError: a trajectory does not fit the model.
    """
    config, model = self.experiment.rl, self.experiment.model
    rules = make_rules(self.experiment, objective, self.tokenizer)
    check_room(
        self.experiment, rules, self.width + rl_exploration.num_behind(
            self.experiment, objective, rules.reset_ids))
    up = lambda number: sharding.up_to_parts(number, self.mesh)
    return player_lib.Player(
        model, self.tokenizer, self.mesh, rules=rules,
        style=self.experiment.data.style, width=self.width,
        num_questions=up(config.num_questions), num_samples=num_samples,
        num_slots=up(config.num_slots))

  def explore(self, objective: str):
    """See `exploration.jit_explore`; None where no search explores."""
    return self._explore if self.experiment.rl.searches(objective) else None

  @functools.cached_property
  def _explore(self):
    # One for all objectives and evaluations: compiled once.
    return rl_exploration.jit_explore(
        self.experiment, self.task, rl_exploration.vocabulary(
            self.experiment, self.tokenizer),
        tuple(self.tokenizer.encode(self.experiment.rl.reset)))


class Evaluation:
  """Success on problems of a split, episode by episode."""

  def __init__(
      self, material: Material, objective: str, problems: Sequence[Problem],
      num_samples: int | None = None,
  ):
    """Compiles nothing; `num_eval_samples` trajectories a problem by default.
    """
    self._material = material
    self._problems = problems
    self._player = material.player(
        objective, num_samples or material.experiment.rl.num_eval_samples)
    self._explore = material.explore(objective)
    self._rng = jax.random.fold_in(
        jax.random.key(material.experiment.seed), 2**31 - 1)

  def play(self, params: types.Params) -> judge_lib.Judged:
    """Verdicts on all problems, G trajectories of each in turn."""
    return revising.play(
        self._player, self._material.judge, params, self._problems, self._rng,
        explore=self._explore)[0]

  def __call__(self, params: types.Params) -> dict[str, float]:
    """Returns metrics of a policy on validation problems."""
    judged = self.play(params)
    rewards = judged.rewards
    return {
        f'validation/episode_{e + 1}': float(rewards[:, e].mean())
        for e in range(rewards.shape[1])} | {
            'validation/success': float(rewards[:, -1].mean()),
            'validation/tokens': float(judged.tokens_spent.sum(axis=1).mean())}


def check(experiment: experiment_lib.Experiment) -> None:
  """Raises a ConfigError where settings do not go together."""
  config = experiment.rl
  if config.start not in experiment.arms:
    raise config_lib.ConfigError(
        f'config.rl.start: got {config.start!r}; must be one of config.arms, '
        f'{", ".join(experiment.arms)}.')
  if config.advantage == 'gae' and experiment.model.value_head == 'none':
    raise config_lib.ConfigError(
        "config.rl.advantage: got 'gae'; the model has no value head: set "
        "config.model.value_head to 'shared'.")
  rl_exploration.check(experiment)


def check_room(
    experiment: experiment_lib.Experiment, rules: episodes.Episodes, width: int
) -> None:
  """Raises a ConfigError where a trajectory does not fit the model.

  Args:
    experiment: its settings.
    rules: of the trajectory.
    width: of its prompt.
  """
  num_tokens, largest = rules.row_length, experiment.model.max_length
  # Continuations come behind a whole row.
  num_times = 1 + (
      experiment.rl.advantage == 'vineppo'
      and rules.num_episodes * experiment.rl.num_steps > 1)
  if width + num_times * num_tokens > largest:
    times = 'twice ' if num_times > 1 else ''
    raise config_lib.ConfigError(
        f'config.rl.episode_length: got {rules.episode_length}; {times}'
        f'{num_tokens} tokens of a trajectory after prompts of {width} must be '
        f'at most config.model.max_length, {largest}.')


def check_split(
    experiment: experiment_lib.Experiment, rules: episodes.Episodes,
    mesh: jax.sharding.Mesh,
) -> None:
  """Raises a ConfigError where an iteration does not divide over the devices.

  Args:
    experiment: its settings.
    rules: of the trajectories.
    mesh: devices.
  """
  config, parts = experiment.rl, sharding.data_parallelism(mesh)
  if config.num_questions % parts:
    raise config_lib.ConfigError(
        f'config.rl.num_questions: got {config.num_questions}; must be a '
        f'multiple of {parts}, the data-parallel devices.')
  rows = num_rows(config, rules)
  pieces = config.num_minibatches * config.num_accumulation * parts
  if rows % pieces:
    raise config_lib.ConfigError(
        f'config.rl.num_accumulation: got {config.num_accumulation}; '
        f'{rows} rows of an iteration must be divisible by {pieces} = '
        f'{config.num_minibatches} minibatches x {config.num_accumulation} '
        f'accumulation x {parts} data-parallel devices.')


def num_rows(config: rl_settings.RlConfig, rules: episodes.Episodes) -> int:
  """Training rows of an iteration."""
  return config.num_questions * config.num_samples * rules.rows_per_trajectory


def make_rules(
    experiment: experiment_lib.Experiment, objective: str,
    tokenizer: tokenizers.Tokenizer,
) -> episodes.Episodes:
  """Of the trajectories that an objective is trained on.

  Raises:
    ConfigError: no trajectory can follow the settings.
  """
  try:
    return learner_lib.rules(experiment.rl, objective, tokenizer)
  except ValueError as e:
    raise config_lib.ConfigError(f'config.rl: {e}') from e


def jit_update(experiment, rules: episodes.Episodes, mesh: jax.sharding.Mesh):
  """See `learner.jit_update`."""
  _, placed = state_lib.shardings(
      sft.init_fn(experiment), update(experiment.rl), mesh)
  return learner_lib.jit_update(
      experiment.model, experiment.rl, rules.row_length, placed, mesh)


def make_steps(
    experiment: experiment_lib.Experiment, tokenizer: tokenizers.Tokenizer
) -> continuations.Steps | None:
  """See `learner.steps`.

  Raises:
    ConfigError: no token ends a step.
  """
  try:
    return learner_lib.steps(experiment.rl, tokenizer)
  except ValueError as e:
    raise config_lib.ConfigError(f'config.rl.step_end: {e}') from e


def make_vine(
    material: Material, player: player_lib.Player,
    steps: continuations.Steps | None,
) -> continuations.Vine | None:
  """Values of what `player` plays, before every step; None without steps."""
  if steps is None:
    return None
  return continuations.Vine(
      steps=steps, player=player, judge=material.judge,
      num_rollouts=material.experiment.rl.num_rollouts,
      find=continuations.jit_contexts(steps, player.rules.episode_length),
      go_on=jit_continue(material.experiment, player.rules, material.mesh))


def jit_continue(
    experiment, rules: episodes.Episodes, mesh: jax.sharding.Mesh):
  """See `vine.jit_continue`."""
  return continuations.jit_continue(
      experiment.model, rules=rules, num_rollouts=experiment.rl.num_rollouts,
      num_slots=sharding.up_to_parts(experiment.rl.num_slots, mesh))


def num_start_samples(experiment) -> int:
  """First attempts of the start, to compare with as many tokens as any.

  A search has no more steps than its tree has nodes, and an attempt has at
  least one step.
  """
  config = experiment.rl
  count = config.num_eval_samples * config.num_episodes
  if config.exploration == 'policy':
    return count
  return max(count, rl_exploration.strategy(experiment).num_nodes)


def folder(workdir: epath.Path, objective: str, seed: int) -> epath.Path:
  """Where a run leaves its files."""
  return workdir / 'rl' / objective / f'seed{seed}'


def update(config: rl_settings.RlConfig) -> optax.GradientTransformation:
  """The optimiser of a run."""
  return optimizer.make(
      config.optimizer, config.num_iterations * config.updates_per_iteration())


def abstract(experiment, mesh) -> state_lib.TrainState:
  """Shapes and shardings of a run's state."""
  return state_lib.shardings(
      sft.init_fn(experiment), update(experiment.rl), mesh)[0]
