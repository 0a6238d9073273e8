# SPDX-License-Identifier: Apache-2.0
"""The strategies of a search over steps by name, and their settings."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import types

from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.reasoning import siblings as siblings_lib
from meta_cot.search import engine
from meta_cot.search.beam import Beam
from meta_cot.search.frontier import BestFirst
from meta_cot.search.frontier import DepthFirst
from meta_cot.search.mcts import Mcts
from meta_cot.search.particles import Particles
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import growing
from meta_cot.solvers import valuing as valuing_lib
from meta_cot.solvers import vocabulary as vocabulary_lib
from meta_cot.tasks import base as base_task

# Makes the strategy called so, from settings and what all strategies have.
STRATEGIES: Mapping[str, Callable[..., engine.Strategy]] = (
    types.MappingProxyType({
        'beam': lambda c, **tree: Beam(beam_width=c.beam_width, **tree),
        'dvts': lambda c, **tree: Beam(
            beam_width=c.beam_width, num_groups=c.beam_width, **tree),
        'breadth_first': lambda c, **tree: Beam(
            beam_width=c.beam_width, **tree),
        'best_first': lambda c, **tree: BestFirst(
            num_expansions=c.num_expansions, goal_test=c.tree.goal_test,
            **c.tree.widened, **tree),
        'depth_first': lambda c, **tree: DepthFirst(
            num_expansions=c.num_expansions, **tree),
        'mcts': lambda c, **tree: Mcts(
            num_simulations=c.num_simulations, rule=c.rule,
            exploration=c.exploration, backup_value=c.tree.backup,
            **c.tree.widened, **tree),
        'particles': lambda c, **tree: Particles(
            num_particles=c.beam_width, resample_below=c.tree.resample_below,
            **tree | dict(branching=1)),
    }))


@dataclasses.dataclass(frozen=True)
class Settings(base.Drawing):
  """How trees grow, and what they may cost."""

  step: str = config_lib.setting(choices=vocabulary_lib.KINDS)
  num_slots: int = config_lib.setting(is_free=True, low=1)
  chunk_steps: int = config_lib.setting(is_free=True, low=1)
  value: str = config_lib.setting(choices=valuing_lib.NAMES)
  outcome: str = config_lib.setting(choices=('verifier', 'value'))
  branching: int | tuple[int, ...] = config_lib.setting(low=1, min_items=1)
  max_depth: int | None = config_lib.setting(low=1)
  step_length: int = config_lib.setting(low=1)
  max_tokens: int | None = config_lib.setting(low=1)
  beam_width: int = config_lib.setting(low=1)
  num_expansions: int = config_lib.setting(low=1)
  num_simulations: int = config_lib.setting(low=1)
  rule: str = config_lib.setting(
      choices=('uct', 'uct_paper', 'puct', 'gumbel'))
  exploration: float = config_lib.setting(low=0.0)
  temperature: float = config_lib.setting(above=0.0)
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)
  siblings: str = config_lib.setting(choices=siblings_lib.KINDS)
  tree: growing.Tree = config_lib.setting()
  valuing: valuing_lib.Settings = config_lib.setting()

  @property
  def sources(self) -> tuple[str, ...]:
    """Lists the sources of values."""
    return self.valuing.named(self.value)

  @property
  def judge(self) -> str | None:
    """Names the policy folder that judges, if one does."""
    is_judged = set(valuing_lib.JUDGED) & set(self.sources)
    return self.valuing.model if is_judged else None

  def depth(self, task: base_task.Task, problems: Sequence[Problem]) -> int:
    """Finds the levels of a tree: by default the steps of a solution.

    Raises:
      ConfigError: it is not set and the task does not say, or steps are not
        those of a solution.
    """
    if self.max_depth is not None:
      return self.max_depth
    if self.step != 'solution':
      raise config_lib.ConfigError(
          'search.max_depth: got None; must be set where '
          f'search.step is {self.step!r}.')
    if task.states is None:
      raise config_lib.ConfigError(
          'search.max_depth: got None; this task does not say how many '
          'steps a solution has: set it.')
    return max(map(task.states.max_steps, problems))


def make(settings: Settings, name: str, depth: int) -> engine.Strategy:
  """Makes the strategy `name` of STRATEGIES.

  Raises:
    ConfigError: the settings allow no search.
  """
  rules = settings.tree.rules(name, settings.outcome)
  try:
    return STRATEGIES[name](
        settings, branching=settings.branching, max_depth=depth,
        max_tokens=settings.max_tokens, **rules)
  except ValueError as e:
    raise config_lib.ConfigError(f'search: {name}: {e}') from e


def check_room(
    model: model_config.ModelConfig, settings: Settings, num_prompt: int,
    depth: int,
) -> None:
  """Raises a ConfigError where trees are deeper than a model's texts."""
  num_behind = num_prompt + depth * settings.step_length
  if num_behind > model.max_length:
    raise config_lib.ConfigError(
        f'search.step_length: got {settings.step_length}; {depth} '
        f'steps after prompts of {num_prompt} tokens must be at most '
        f'config.model.max_length, {model.max_length}.')
  if 'rollouts' in settings.sources and (
      num_behind + settings.valuing.rollout_length > model.max_length):
    raise config_lib.ConfigError(
        'search.valuing.rollout_length: got '
        f'{settings.valuing.rollout_length}; behind {num_behind} tokens a '
        f'completion must end before config.model.max_length, '
        f'{model.max_length}.')
