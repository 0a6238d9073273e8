# SPDX-License-Identifier: Apache-2.0
"""Settings of reinforcement learning over episodes; see `configs/base.py`."""

import dataclasses

from meta_cot.rl import credit
from meta_cot.rl import family
from meta_cot.rl import objective as objective_lib
from meta_cot.rollouts import branching
from meta_cot.rollouts import feedback
from meta_cot.settings import config as config_lib
from meta_cot.solvers import revising
from meta_cot.solvers import strategies
from meta_cot.training import optimizer
from meta_cot.training import part as part_lib

_POLICY = 'policy'  # writes all attempts; else a search of this name the first


@dataclasses.dataclass(frozen=True)
class QuestionsConfig:
  """Which questions are asked, and how often."""

  num_questions: int = config_lib.setting(low=1)
  num_samples: int = config_lib.setting(low=1)
  num_branches: int = config_lib.setting(low=0)
  branch_at: str = config_lib.setting(choices=branching.PLACES)
  num_slots: int = config_lib.setting(is_free=True, low=1)
  min_success: float = config_lib.setting(low=0.0, high=1.0)
  max_success: float = config_lib.setting(low=0.0, high=1.0)
  rest: int = config_lib.setting(low=0)
  solutions: str | None = config_lib.setting()
  solution_length: int = config_lib.setting(low=1)

  def __post_init__(self):
    if self.min_success > self.max_success:
      raise config_lib.ConfigError(
          f'min_success: got {self.min_success}; must be at most '
          f'config.rl.questions.max_success, {self.max_success}.')

  @property
  def per_question(self) -> int:
    """Trajectories of a question, branches too."""
    return self.num_samples * (1 + self.num_branches)

  @property
  def num_trajectories(self) -> int:
    """Those of an iteration, N."""
    return self.num_questions * self.per_question

  @property
  def num_trunks(self) -> int:
    """Those of an iteration that are drawn from the question on."""
    return self.num_questions * self.num_samples


@dataclasses.dataclass(frozen=True)
class EpisodesConfig(revising.Rules):
  """What a trajectory is, and who writes the attempts before its last one."""

  exploration: str = config_lib.setting(
      choices=(_POLICY, *strategies.STRATEGIES))

  def __post_init__(self):
    if self.has_search and self.num_episodes < 2:
      raise config_lib.ConfigError(
          f'num_episodes: got {self.num_episodes} with exploration '
          f'{self.exploration!r}; must be at least 2: the search writes all '
          'but the last one.')
    if self.has_search and self.window is not None:
      raise config_lib.ConfigError(
          f'window: got {self.window} with exploration {self.exploration!r}, '
          'whose attempts are part of the prompt; must be None.')
    if self.has_search and self.feedback != feedback.NONE:
      raise config_lib.ConfigError(
          f'feedback: got {self.feedback!r} with exploration '
          f"{self.exploration!r}, whose attempts nobody answers; must be "
          "'none'.")

  @property
  def has_search(self) -> bool:
    """Whether a search writes the attempts before the last one."""
    return self.exploration != _POLICY


@dataclasses.dataclass(frozen=True)
class UpdatesConfig:
  """How the rows of an iteration are cut into updates."""

  num_epochs: int = config_lib.setting(low=1)
  num_minibatches: int = config_lib.setting(low=1)
  num_accumulation: int = config_lib.setting(is_free=True, low=1)
  num_loss_chunks: int = config_lib.setting(is_free=True, low=1)
  skip_flat_groups: bool = config_lib.setting()

  @property
  def per_iteration(self) -> int:
    return self.num_epochs * self.num_minibatches


@dataclasses.dataclass(frozen=True)
class RlConfig:
  """Which policies are trained, and how."""

  start: str = config_lib.setting()  # the policy that is tuned
  problems: str = config_lib.setting()
  objectives: tuple[str, ...] = config_lib.setting(
      choices=family.OBJECTIVES, min_items=1, is_unique=True,
      is_free=True)
  seeds: tuple[int, ...] = config_lib.setting(
      low=0, min_items=1, is_unique=True, is_free=True)
  num_iterations: int = config_lib.setting(low=1, is_free=True)
  lag: int = config_lib.setting(low=0, high=1)
  eval_every: int = config_lib.setting(is_free=True, low=1)
  num_eval_problems: int = config_lib.setting(is_free=True, low=1)
  num_eval_samples: int = config_lib.setting(is_free=True, low=1)
  save_every: int = config_lib.setting(is_free=True, low=1)
  max_to_keep: int | None = config_lib.setting(low=1, is_free=True)
  num_kept_rollouts: int = config_lib.setting(low=0, is_free=True)
  search: strategies.Settings  # that explores, by `episodes.exploration`
  questions: QuestionsConfig
  episodes: EpisodesConfig
  credit: credit.CreditConfig
  loss: objective_lib.LossConfig
  updates: UpdatesConfig
  optimizer: optimizer.OptimizerConfig

  def __post_init__(self):
    for problem in (
        *self._problems(), *self._tree_problems(), *self._solved_problems()):
      raise config_lib.ConfigError(problem)

  def _problems(self):
    """What is wrong with the groups together."""
    questions, episodes, name = (
        self.questions, self.episodes, self.credit.advantage)
    advantage, rows = credit.ADVANTAGES[name], questions.num_trajectories
    if questions.num_samples < advantage.min_samples:
      yield (f'questions.num_samples: got {questions.num_samples}; advantage '
             f'{name!r} compares at least {advantage.min_samples} samples of a '
             'question.')
    if 'myopic' in self.objectives and advantage.needs:
      yield (f"objectives: got 'myopic' with advantage {name!r}, whose values "
             'are of whole trajectories; must be others.')
    if self.loss.has_penalty and advantage.needs:
      yield (f'loss.kl_in: got reward with advantage {name!r}, whose values '
             'are probabilities; must be loss or none.')
    if self.loss.kl_target is not None and rows > self.loss.kl_horizon:
      yield (f'loss.kl_horizon: got {self.loss.kl_horizon}; must be at least '
             f'the {rows} trajectories of an iteration.')
    if self.trained.part == 'value_head':
      yield ("optimizer.trained.part: got 'value_head', which leaves the "
             'policy as it is; must be all or lora.')
    if self.num_updates > optimizer.MAX_STEPS:
      yield (f'num_iterations: got {self.num_iterations}; its updates must be '
             f'at most {optimizer.MAX_STEPS}.')
    if questions.num_trunks % self.updates.num_minibatches:
      yield (f'updates.num_minibatches: got {self.updates.num_minibatches}; '
             f'must divide the {questions.num_trunks} rows of an iteration.')
    if advantage.needs and episodes.window is not None:
      yield (f'episodes.window: got {episodes.window} with advantage {name!r}, '
             'which needs whole contexts; must be None.')
    if 'continuations' not in advantage.needs:
      return
    if episodes.feedback != feedback.NONE:
      yield (f'episodes.feedback: got {episodes.feedback!r} with advantage '
             f"{name!r}, whose continuations are not answered; must be 'none'.")
    if episodes.max_tokens is not None:
      yield (f'episodes.max_tokens: got {episodes.max_tokens} with advantage '
             f'{name!r}, which plays trajectories to their end; must be None.')
    if episodes.has_search:
      others = (
          key for key, value in credit.ADVANTAGES.items()
          if 'continuations' not in value.needs)
      yield (f'credit.advantage: got {name!r} with exploration '
             f'{episodes.exploration!r}; must be one of {", ".join(others)}.')

  def _tree_problems(self):
    """What trajectories with branches cannot do."""
    number, episodes = self.questions.num_branches, self.episodes
    if not number:
      return
    for name, value, wanted in (
        ('objectives', self.objectives, ('single',)),
        ('credit.advantage', self.credit.advantage, 'rloo'),
        ('credit.whiten', self.credit.whiten, False),
        ('loss.ratio_level', self.loss.ratio_level, 'token'),
        ('episodes.feedback', episodes.feedback, feedback.NONE),
        ('episodes.exploration', episodes.exploration, _POLICY),
        ('episodes.max_tokens', episodes.max_tokens, None)):
      if value != wanted:
        yield (f'{name}: got {value!r} with questions.num_branches {number}; '
               f'must be {wanted!r}.')
    if self.loss.has_penalty:
      yield (f"loss.kl_in: got 'reward' with questions.num_branches {number}; "
             "must be 'loss' or 'none'.")

  def _solved_problems(self):
    """What objectives that learn from the data's solutions cannot do."""
    episodes, name = self.episodes, self.credit.advantage
    if 'qstar' not in self.objectives:
      return
    if self.questions.solutions is None:
      yield ("questions.solutions: got None with objective 'qstar'; must be "
             "records with a solution of every question, such as 'traces'.")
    if credit.ADVANTAGES[name].needs:
      others = (k for k, v in credit.ADVANTAGES.items() if not v.needs)
      yield (f"credit.advantage: got {name!r} with objective 'qstar', whose "
             f'rewards are no probabilities; must be one of {", ".join(others)}'
             '.')
    for field, value, wanted in (
        ('credit.discounts', {*self.credit.discounts}, {1.0}),
        ('episodes.exploration', episodes.exploration, _POLICY),
        ('episodes.max_tokens', episodes.max_tokens, None),
        ('episodes.window', episodes.window, None)):
      if value != wanted:
        yield (f"{field}: got {value!r} with objective 'qstar'; must be "
               f'{wanted!r}.')

  def objective(self, name: str) -> objective_lib.Objective:
    """Makes the objective `name` of `family.OBJECTIVES`."""
    return family.OBJECTIVES[name](self.credit, self.loss)

  @property
  def trained(self) -> part_lib.Part:
    """What of the policy is trained."""
    return self.optimizer.trained

  @property
  def num_updates(self) -> int:
    return self.num_iterations * self.updates.per_iteration
