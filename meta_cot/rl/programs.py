# SPDX-License-Identifier: Apache-2.0
"""The compiled programs of reinforcement learning: what runs, and its shapes.

  explore    with a search that explores: one for every question
  rollout    the trajectories of an iteration
  leave      with branches: where they leave trajectories
  branch     the same: what they draw
  prepare    their rows, reference and advantages
  keep       where rollouts are kept: what the policy says of them
  update     one update of the policy, on a minibatch
  evaluate   trajectories of validation problems
  values     where continuations are needed: new trajectories from the questions
  contexts   the same: what stands before all later steps
  continue   the same: trajectories from there

Without later steps there is nothing to continue. A run calls the jitted
functions of `Programs`; `rl.parts` adds what they are called with. Axes as in
`rollouts.rollout`, `rollouts.rows` and `rollouts.continuations`.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import numpy as np
import optax

from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.program import Program
from meta_cot.rl import exploration
from meta_cot.rl import kept
from meta_cot.rl import lagged
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import playing
from meta_cot.rl import qstar
from meta_cot.rl import scoring
from meta_cot.rl import settings as settings_lib
from meta_cot.rl import update as update_lib
from meta_cot.rollouts import branching
from meta_cot.rollouts import continuations
from meta_cot.rollouts import episodes
from meta_cot.settings import config as config_lib
from meta_cot.solvers import revising
from meta_cot.solvers import strategies
from meta_cot.solvers import vocabulary as vocabulary_lib
from meta_cot.tasks import base
from meta_cot.training import optimizer
from meta_cot.training import policy as policy_lib
from meta_cot.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Programs:
  """The programs that play trajectories, and learn by one objective."""

  task: base.Task
  model: model_config.ModelConfig
  settings: settings_lib.RlConfig
  depth: Callable[[], int]  # levels of a search
  tokenizer: tokenizers.Tokenizer
  make_vocabulary: Callable[[], vocabulary_lib.Vocabulary]  # of a search
  mesh: jax.sharding.Mesh
  style: str  # of prompts and answers
  question_width: int  # of prompts, before a search puts attempts behind them
  num_episodes: int  # attempts of a trajectory, those of a search included
  objective: objective_lib.Objective | None = None  # None: only play

  def of(self, name: str) -> 'Programs':
    """Makes those of the objective `name`."""
    objective = self.settings.objective(name)
    return dataclasses.replace(
        self, objective=objective, num_episodes=objective.num_episodes(
            self.settings.episodes.num_episodes))

  @functools.cached_property
  def search(self) -> exploration.Search | None:
    """The one that writes all attempts but the last; None where none does.

    Raises:
      ConfigError: no search may or can explore.
    """
    config = self.settings.episodes
    if self.num_episodes == 1 or not config.has_search:
      return None
    try:
      exploration.check(self.settings.search, config.exploration, self.model)
      strategy = strategies.make(
          self.settings.search, config.exploration, self.depth())
      vocabulary = self.make_vocabulary()
    except config_lib.ConfigError as e:
      raise config_lib.ConfigError(f'config.rl.{e}') from None
    except ValueError as e:
      raise config_lib.ConfigError(
          f'config.rl.episodes.exploration: {e}') from e
    return exploration.Search(
        self.task, self.model, self.settings.search, strategy, vocabulary,
        num_attempts=self.num_episodes - 1,
        reset_ids=tuple(tokenizers.of_setting(
            self.tokenizer, config.reset)))

  @functools.cached_property
  def rules(self) -> episodes.Episodes:
    """Those of a trajectory: behind a search there is one episode.

    Raises:
      ConfigError: no trajectory can follow the settings.
    """
    try:
      rules = revising.rules(
          self.settings.episodes, self.tokenizer, self.task, self.style)
    except config_lib.ConfigError as e:
      raise config_lib.ConfigError(f'config.rl.{e}') from None
    return dataclasses.replace(
        rules, num_episodes=self.num_episodes if self.search is None else 1)

  @functools.cached_property
  def steps(self) -> continuations.Steps | None:
    """How episodes are cut where continuations are needed.

    Raises:
      ConfigError: no token ends a step.
    """
    if self.objective is None or 'continuations' not in self.objective.needs:
      return None
    return self._steps(self.settings.credit.num_steps)

  def _steps(self, number: int) -> continuations.Steps:
    config = self.settings.credit
    is_end_V = self.tokenizer.containing(config.step_end)
    if not is_end_V.any():
      raise config_lib.ConfigError(
          f'config.rl.credit.step_end: got {config.step_end!r}; must be in a '
          'token of the tokenizer.')
    return continuations.Steps(
        tuple(np.flatnonzero(is_end_V).tolist()), number,
        vocabulary_lib.blank_ids(
            [self.tokenizer.decode([i]) for i in range(len(is_end_V))]))

  @functools.cached_property
  def branches(self) -> branching.Branches | None:
    """What grows branches on trajectories; None where they have none.

    Raises:
      ConfigError: no token ends a step.
    """
    questions = self.settings.questions
    if self.objective is None or not questions.num_branches:
      return None
    entropy = lambda params, rows: scoring.score(
        self.model, params, rows.tokens, rows.targets,
        sampling=self.rules.sampling).entropy
    is_by_steps = questions.branch_at == 'steps'
    return branching.Branches(
        branching.jit_leave(
            questions.num_branches,
            steps=self._steps(self.rules.episode_length) if (
                is_by_steps) else None, entropy=entropy),
        continuations.jit_continue(
            self.model, rules=self.rules, num_slots=self.num_slots,
            num_rollouts=1))

  @property
  def num_given(self) -> int:
    """Tokens of the data behind what was drawn, at most."""
    if self.objective is None or 'solutions' not in self.objective.needs:
      return 0
    return self.settings.questions.solution_length

  @property
  def keeps(self) -> bool:
    """Whether rollouts are kept; those with branches are not."""
    return bool(self.settings.num_kept_rollouts) and self.branches is None

  @property
  def width(self) -> int:
    """P, with the attempts of a search behind the questions."""
    behind = 0 if self.search is None else self.search.num_behind
    return self.question_width + behind

  @property
  def has_later_steps(self) -> bool:
    return self.steps is not None and (
        self.rules.num_episodes * self.steps.number > 1)

  @property
  def num_slots(self) -> int:
    return sharding.up_to_parts(self.settings.questions.num_slots, self.mesh)

  @functools.cached_property
  def init(self) -> Callable:
    """rng -> boxed parameters of what is trained."""
    return functools.partial(self.settings.trained.init, self.model)

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformation:
    return optimizer.make(self.settings.optimizer, self.settings.num_updates)

  @functools.cached_property
  def state(self) -> state_lib.TrainState:
    """Shapes and shardings of a run's state."""
    return state_lib.shardings(self.init, self.optimizer, self.mesh)[0]

  @property
  def saved(self) -> state_lib.TrainState:
    """The same of what a checkpoint has."""
    return lagged.begin(self.state) if self.settings.lag else self.state

  @functools.cached_property
  def start(self) -> types.Params:
    """The same of all parameters that training starts from."""
    return policy_lib.abstract(self.model, self.mesh)

  @functools.cached_property
  def params(self) -> types.Params:
    """The same of all that the policy has in training."""
    trained = self.settings.trained
    return trained.whole(
        trained.base(self.start), self.state.params, is_shape=True)

  @property
  def parts(self) -> tuple[str, ...]:
    """Which of PARTS there are."""
    later = ('contexts', 'continue') * self.has_later_steps
    return (
        *(('explore',) if self.search else ()), 'rollout',
        *(('leave', 'branch') if self.branches else ()), 'prepare',
        *(('keep',) if self.keeps else ()), 'update',
        'evaluate', *(('values', *later) if self.steps else ()))

  def check(self) -> None:
    """Raises a ConfigError where the model cannot do what is asked of it."""
    if self.model.value_head == 'none' and self.objective and (
        'values' in self.objective.needs):
      raise config_lib.ConfigError(
          f'config.rl.credit.advantage: got {self.settings.credit.advantage!r};'
          ' the model has no value head: set config.model.value_head to '
          "'shared'.")
    if self.num_given:
      qstar.check(self.style, self.num_episodes)
    largest, rules = self.model.max_length - self.num_given, self.rules
    number = 2 if self.has_later_steps else 1  # continuations are behind a row
    if self.width + number * rules.row_length > largest:
      times = 'twice ' * (number - 1)
      raise config_lib.ConfigError(
          f'config.rl.episodes.episode_length: got {rules.episode_length}; '
          f'{times}{rules.row_length} tokens of a trajectory after prompts of '
          f'{self.width} must be at most config.model.max_length, {largest}'
          + ' less the longest solution' * bool(self.num_given) + '.')

  def check_split(self) -> None:
    """Raises a ConfigError where an iteration does not divide over devices."""
    questions, updates = self.settings.questions, self.settings.updates
    parts = sharding.data_parallelism(self.mesh)
    if questions.num_questions % parts:
      raise config_lib.ConfigError(
          f'config.rl.questions.num_questions: got {questions.num_questions}; '
          f'must be a multiple of {parts}, the data-parallel devices.')
    rows = questions.num_trunks * self.rules.rows_per_trajectory
    pieces = updates.num_minibatches * updates.num_accumulation * parts
    if rows % pieces:
      raise config_lib.ConfigError(
          'config.rl.updates.num_accumulation: got '
          f'{updates.num_accumulation}; {rows} rows of an iteration must be '
          f'divisible by {pieces} = {updates.num_minibatches} minibatches x '
          f'{updates.num_accumulation} accumulation x {parts} data-parallel '
          'devices.')

  def explore(self) -> revising.Explore | None:
    """Makes one program for all runs; None where no search explores."""
    return self.search and exploration.jit_explore(self.search, self.mesh)

  def prepare(self) -> Callable[..., tuple[objective_lib.Batch, jax.Array]]:
    """See `update.make_batch`."""
    return jax.jit(update_lib.make_batch(
        self.model, self.settings, self.objective, self.tokenizer.pad_id,
        self.steps, float(self.rules.row_length)))

  @property
  def num_kept_rows(self) -> int:
    """Rows of the rollouts that are kept; as many as devices can split."""
    settings, each = self.settings, self.rules.rows_per_trajectory
    return min(
        settings.questions.num_trajectories * each,
        sharding.up_to_parts(settings.num_kept_rollouts * each, self.mesh))

  def keep(self) -> Callable[..., tuple]:
    """See `kept.jit_keep`."""
    return kept.jit_keep(
        self.model, self.settings, self.num_kept_rows, self.mesh)

  def update(self) -> Callable[..., tuple[state_lib.TrainState, dict]]:
    """As `update.make` has it; the state is donated."""
    settings = self.settings
    step = update_lib.make(
        self.model, settings, self.objective, self.optimizer,
        optimizer.schedule(settings.optimizer, settings.num_updates))
    placed = jax.tree.map(lambda x: x.sharding, self.state)
    return jax.jit(
        step, out_shardings=(placed, sharding.replicated(self.mesh)),
        donate_argnames=('state',))

  def contexts(self) -> Callable[..., continuations.Contexts]:
    return continuations.jit_contexts(self.steps, self.rules.episode_length)

  def continue_(self) -> Callable[..., episodes.Rollouts]:
    return continuations.jit_continue(
        self.model, rules=self.rules, num_slots=self.num_slots,
        num_rollouts=self.settings.credit.num_rollouts)

  def play(self, name: str, num_samples: int) -> Program:
    """Makes the program of trajectories of one batch of questions."""
    return playing.rollout(
        name, self.model, self.rules, self.mesh, params=self.params,
        width=self.width,
        num_questions=self.settings.questions.num_questions,
        num_samples=num_samples, num_slots=self.num_slots)
