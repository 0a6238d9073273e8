# SPDX-License-Identifier: Apache-2.0
"""Settings of reinforcement learning over episodes."""

import dataclasses

from meta_cot import decode
from meta_cot.objectives import erl2
from meta_cot.objectives import kl
from meta_cot.objectives import policy_gradient
from meta_cot.settings import config as config_lib
from meta_cot.training import optimizer

ADVANTAGES = (
    'reinforce', 'rloo', 'step_rloo', 'grpo', 'grpo_no_std', 'vineppo', 'gae')
_GROUPED = ('rloo', 'step_rloo', 'grpo', 'grpo_no_std')
# Who writes the attempts before the last one: the policy, or a search of this
# name.
EXPLORATIONS = (
    'policy', 'beam', 'dvts', 'breadth_first', 'best_first', 'depth_first',
    'mcts')
_NONE = 'none'


@dataclasses.dataclass(frozen=True)
class RlConfig:
  """Which policies are trained, and how; see `configs/base.py`."""

  start: str = config_lib.setting()  # the arm whose checkpoint is tuned
  objectives: tuple[str, ...] = config_lib.setting(
      choices=erl2.OBJECTIVES, min_items=1, is_unique=True)
  seeds: tuple[int, ...] = config_lib.setting(
      low=0, min_items=1, is_unique=True)
  num_iterations: int = config_lib.setting(low=1)
  # Collecting.
  num_questions: int = config_lib.setting(low=1)
  num_samples: int = config_lib.setting(low=1)
  num_slots: int = config_lib.setting(is_free=True, low=1)
  num_episodes: int = config_lib.setting(low=1)
  exploration: str = config_lib.setting(choices=EXPLORATIONS)
  episode_length: int = config_lib.setting(low=1)
  max_tokens: int | None = config_lib.setting(low=1)
  window: int | None = config_lib.setting(low=0)
  reset: str = config_lib.setting()
  give_up: str | None = config_lib.setting()
  temperature: float = config_lib.setting(above=0.0)
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)
  # Returns and advantages.
  score_hold: float = config_lib.setting(low=0.0, high=1.0)
  discounts: tuple[float, ...] = config_lib.setting(above=0.0, high=1.0)
  discount_prompts: tuple[str, ...] = config_lib.setting()
  advantage: str = config_lib.setting(choices=ADVANTAGES)
  whiten: bool = config_lib.setting()
  num_rollouts: int = config_lib.setting(low=1)
  num_steps: int = config_lib.setting(low=1)
  step_end: str = config_lib.setting()
  gae_gamma: float = config_lib.setting(low=0.0, high=1.0)
  gae_lambda: float = config_lib.setting(low=0.0, high=1.0)
  # The loss.
  ratio_level: str = config_lib.setting(choices=policy_gradient.LEVELS)
  clip_low: float = config_lib.setting(low=0.0, high=1.0)
  clip_high: float = config_lib.setting(low=0.0)
  token_weights: str = config_lib.setting(choices=policy_gradient.WEIGHTINGS)
  kl_in: str = config_lib.setting(choices=(_NONE, 'loss', 'reward'))
  kl_estimator: str = config_lib.setting(choices=kl.ESTIMATORS)
  kl_coefficient: float = config_lib.setting(low=0.0)
  kl_target: float | None = config_lib.setting(above=0.0)
  kl_horizon: int = config_lib.setting(low=1)
  entropy_bonus: float = config_lib.setting(low=0.0)
  value_coefficient: float = config_lib.setting(low=0.0)
  value_clip: float | None = config_lib.setting(above=0.0)
  # Updates.
  num_epochs: int = config_lib.setting(low=1)
  num_minibatches: int = config_lib.setting(low=1)
  num_accumulation: int = config_lib.setting(is_free=True, low=1)
  num_loss_chunks: int = config_lib.setting(is_free=True, low=1)
  optimizer: optimizer.OptimizerConfig
  # Which questions are asked.
  min_success: float = config_lib.setting(low=0.0, high=1.0)
  max_success: float = config_lib.setting(low=0.0, high=1.0)
  rest: int = config_lib.setting(low=0)
  # Looking at it.
  eval_every: int = config_lib.setting(is_free=True, low=1)
  num_eval_problems: int = config_lib.setting(is_free=True, low=1)
  num_eval_samples: int = config_lib.setting(is_free=True, low=1)
  save_every: int = config_lib.setting(is_free=True, low=1)

  def __post_init__(self):
    for problem in self._problems():
      raise config_lib.ConfigError(problem)

  def _problems(self):
    """What is wrong with the settings together."""
    rows = self.num_questions * self.num_samples
    if self.advantage in _GROUPED and self.num_samples < 2:
      yield (f'num_samples: got {self.num_samples}; advantage '
             f'{self.advantage!r} compares at least 2 samples of a question.')
    if len(self.discounts) != len(self.discount_prompts):
      yield (f'discount_prompts: got {len(self.discount_prompts)} prompts for '
             f'{len(self.discounts)} discounts; there must be one for each.')
    if not self.discounts:
      yield 'discounts: got none; must be at least one, 1.0 for no discount.'
    if self.kl_in == 'loss' and self.kl_estimator not in kl.IN_LOSS:
      yield (f'kl_estimator: got {self.kl_estimator!r} in the loss, where its '
             f'expected gradient is zero; must be one of '
             f'{", ".join(kl.IN_LOSS)}, or config.rl.kl_in reward.')
    if self.kl_in == 'reward' and self.kl_estimator not in kl.IN_REWARD:
      yield (f'kl_estimator: got {self.kl_estimator!r} in the reward; must be '
             f'{", ".join(kl.IN_REWARD)}.')
    if self.kl_in == 'reward' and self.advantage in ('gae', 'vineppo'):
      yield (f'kl_in: got reward with advantage {self.advantage!r}, whose '
             'values are probabilities; must be loss or none.')
    if self.kl_target is not None and rows > self.kl_horizon:
      yield (f'kl_horizon: got {self.kl_horizon}; must be at least the {rows} '
             'trajectories of an iteration.')
    if rows % self.num_minibatches:
      yield (f'num_minibatches: got {self.num_minibatches}; must divide the '
             f'{rows} trajectories of an iteration.')
    if self.score_hold == 1:
      yield 'score_hold: got 1.0; must be less than 1.0.'
    if self.advantage == 'vineppo' and self.max_tokens is not None:
      yield (f'max_tokens: got {self.max_tokens} with advantage '
             "'vineppo', which plays trajectories to their end; must be None.")
    if self.advantage in ('vineppo', 'gae') and self.window is not None:
      yield (f'window: got {self.window} with advantage {self.advantage!r}, '
             'which needs whole contexts; must be None.')
    if self.min_success > self.max_success:
      yield (f'min_success: got {self.min_success}; must be at most '
             f'config.rl.max_success, {self.max_success}.')
    if self.exploration != 'policy':
      yield from self._problems_of_search()

  def _problems_of_search(self):
    """What does not go with attempts that a search wrote."""
    with_search = f'with exploration {self.exploration!r}'
    if self.num_episodes < 2:
      yield (f'num_episodes: got {self.num_episodes} {with_search}; must be at '
             'least 2: the search writes all but the last one.')
    if self.window is not None:
      yield (f'window: got {self.window} {with_search}, whose attempts are '
             'part of the prompt; must be None.')
    if self.advantage == 'vineppo':
      yield (f"advantage: got 'vineppo' {with_search}; must be one of "
             f'{", ".join(a for a in ADVANTAGES if a != "vineppo")}.')

  def searches(self, objective: str) -> bool:
    """Whether a search explores; standard RL explores nothing."""
    return objective != 'single' and self.exploration != 'policy'

  def episodes(self, objective: str) -> int:
    """Episodes that the policy writes: the last one behind a search."""
    is_one = objective == 'single' or self.searches(objective)
    return 1 if is_one else self.num_episodes

  def sampling(self) -> decode.Sampling:
    """How tokens are drawn."""
    return decode.Sampling(
        temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

  def updates_per_iteration(self) -> int:
    return self.num_epochs * self.num_minibatches
