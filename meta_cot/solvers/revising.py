# SPDX-License-Identifier: Apache-2.0
"""Attempts one after another in one context: episodes of trajectories."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import time

import jax
import numpy as np

from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot.problem import Problem
from meta_cot.rollouts import episodes
from meta_cot.rollouts import feedback as feedback_lib
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.tasks import base as base_task
from meta_cot.types import Params, PRNGKey

# (params, asked, rng) -> asked, with attempts behind the questions.
Explore = Callable[[Params, player_lib.Asked, PRNGKey], player_lib.Asked]
_NO_QUESTION = 2**32 - 1  # no question has this number


@dataclasses.dataclass(frozen=True)
class Rules(base.Drawing):
  """What a trajectory is."""

  num_episodes: int = config_lib.setting(low=1)
  episode_length: int = config_lib.setting(low=1)
  max_tokens: int | None = config_lib.setting(low=1)
  window: int | None = config_lib.setting(low=0)
  reset: str = config_lib.setting()
  feedback: str = config_lib.setting(choices=feedback_lib.KINDS)
  feedback_length: int = config_lib.setting(low=1)
  give_up: str | None = config_lib.setting()
  temperature: float = config_lib.setting(above=0.0)
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class Settings(Rules):
  """The rules of a trajectory, and how many are played."""

  num_questions: int = config_lib.setting(low=1)  # of one call
  num_samples: int = config_lib.setting(low=1)  # trajectories of a question
  num_slots: int = config_lib.setting(low=1)


class Reviser:
  """The solver: trajectories of episodes for every problem."""

  def __init__(
      self, settings: Settings, task: base_task.Task, mesh: jax.sharding.Mesh,
      *, explore: Explore | None = None,
  ):
    """Compiles nothing; `explore` writes the first attempts instead."""
    self._settings = settings
    self._task = task
    self._mesh = mesh
    self._explore = explore
    self._player = functools.cache(self._make_player)

  def __call__(
      self, policy: base.Policy, problems: Sequence[Problem], rng: PRNGKey, *,
      first: int = 0,
  ) -> base.Outcomes:
    """See `base.Solver`.

    Raises:
      ValueError: no trajectory can follow the rules.
    """
    width = player_lib.prompt_width(policy.tokenizer, problems, policy.style)
    player = self._player(policy.model, policy.tokenizer, policy.style, width)
    judge = judge_lib.Judge(self._task, policy.tokenizer, policy.style)
    start = time.perf_counter()
    judged, occupancy = play(
        player, judge, policy.params, problems, rng, explore=self._explore,
        first=first)
    seconds = time.perf_counter() - start
    grid = lambda x_NxE: x_NxE.reshape(len(problems), -1)
    return base.Outcomes(
        is_correct=grid(judged.rewards) > 0,
        is_finished=grid(judged.is_finished),
        # What a search before the first episode cost is that episode's.
        num_tokens=grid(judged.tokens_spent).astype(np.float64),
        answers=grid(judged.answers), details=dict(searched=np.where(
            np.equal(grid(judged.answers), None), None,
            grid(judged.num_searched).astype(object))),
        num_episodes=judged.rewards.shape[1],
        seconds=seconds, occupancy=occupancy)

  def _make_player(self, model, tokenizer, style, width) -> player_lib.Player:
    up = lambda number: sharding.up_to_parts(number, self._mesh)
    return player_lib.Player(
        model, tokenizer, self._mesh, style=style, width=width,
        rules=rules(self._settings, tokenizer, self._task, style),
        num_questions=up(self._settings.num_questions),
        num_samples=self._settings.num_samples,
        num_slots=up(self._settings.num_slots))


def rules(
    settings: Rules, tokenizer, task: base_task.Task, style: str
) -> episodes.Episodes:
  """Makes the rules of a trajectory, in tokens.

  Raises:
    ConfigError: `episodes.give_up` is not one token, or one that ends a text;
      the task cannot give `episodes.feedback`.
  """
  s, give_up_id = settings, None
  feedback = feedback_lib.make(
      s.feedback, s.feedback_length, task, tokenizer, style)
  try:
    if s.give_up is not None:
      give_up_id = player_lib.token_of(tokenizer, s.give_up)
    return episodes.Episodes(
        num_episodes=s.num_episodes, episode_length=s.episode_length,
        sampling=s.sampling(), stop_ids=tokenizer.eos_ids,
        give_up_id=give_up_id, reset_ids=tuple(
            tokenizers.of_setting(tokenizer, s.reset)),
        max_tokens=s.max_tokens, window=s.window, feedback=feedback)
  except ValueError as e:
    raise config_lib.ConfigError(f'episodes.give_up: {e}') from e


def play(
    player: player_lib.Player, judge: Callable[..., judge_lib.Judged],
    params: Params, problems: Sequence[Problem], rng: PRNGKey, *,
    explore: Explore | None = None, first: int = 0,
    openings: Sequence[str] = ('',),
) -> tuple[judge_lib.Judged, float]:
  """Plays any number of problems.

  Args:
    player: of G trajectories a question.
    judge: (problems, rollouts) -> verdicts.
    params: of the policy.
    problems: the questions.
    rng: of all draws, which follow from the numbers of the questions too.
    explore: writes the first attempts, if a search does.
    first: number of the first question.
    openings: texts in front of the questions, by turns.

  Returns:
    Verdicts on G trajectories of each problem in turn, and the share of slots
    and steps that added a token.
  """
  count, explore_rng = player.num_questions, jax.random.fold_in(
      rng, _NO_QUESTION)
  parts, live, total = [], 0, 0
  for start in range(0, len(problems), count):
    some = problems[start:start + count]
    ids = list(range(first + start, first + start + len(some)))
    asked = player.ask(some, ids, [openings[i % len(openings)] for i in ids])
    if explore is not None:
      asked = explore(params, asked, explore_rng)
    host, explored_Q = player.fetch(
        (player(params, asked, rng), asked.num_explored))
    parts.append(dataclasses.asdict(judge(
        [*some, *some[:1] * (count - len(some))], host).after(explored_Q)))
    live += int(host.num_live)
    total += int(host.num_steps) * player.num_slots
  rows = len(problems) * player.num_samples
  return judge_lib.Judged(**jax.tree.map(
      lambda *x: np.concatenate(x)[:rows], *parts)), live / max(total, 1)
