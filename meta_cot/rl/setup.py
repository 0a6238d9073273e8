# SPDX-License-Identifier: Apache-2.0
"""What the runs of reinforcement learning share, and what is made of it."""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp

from meta_cot import sharding
from meta_cot import types
from meta_cot.problem import Problem
from meta_cot.rl import lagged
from meta_cot.rl import learner as learner_lib
from meta_cot.rl import programs as programs_lib
from meta_cot.rl import qstar
from meta_cot.rollouts import continuations
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.solvers import revising
from meta_cot.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Setup:
  """Problems, the start, and the programs that play them."""

  programs: programs_lib.Programs  # of the start, with all attempts
  train: Sequence[Problem]
  validation: Sequence[Problem]  # policies are chosen by them
  start: types.Params
  seed: int
  solutions: qstar.Solutions | None = None  # where an objective needs them

  @property
  def judge(self) -> judge_lib.Judge:
    return judge_lib.Judge(
        self.programs.task, self.programs.tokenizer, self.programs.style)

  @property
  def evaluation_rng(self) -> types.PRNGKey:
    """That of all draws on validation problems."""
    return jax.random.fold_in(jax.random.key(self.seed), 2**31 - 1)

  def player(
      self, programs: programs_lib.Programs, num_samples: int
  ) -> player_lib.Player:
    """Makes a player of an iteration's questions; errors of `check`."""
    programs.check()
    return player_lib.Player(
        programs.model, programs.tokenizer, programs.mesh,
        rules=programs.rules, style=programs.style,
        width=programs.question_width, num_questions=sharding.up_to_parts(
            programs.settings.questions.num_questions, programs.mesh),
        num_samples=num_samples, num_slots=programs.num_slots)

  def learner(self, objective: str, seed: int) -> learner_lib.Learner:
    """Makes the learner of one run; errors of `check` and `check_split`."""
    programs = self.programs.of(objective)
    programs.check_split()
    config, vine = programs.settings, None
    player = self.player(programs, config.questions.num_samples)
    if programs.steps is not None:
      vine = continuations.Vine(
          steps=programs.steps, player=player, judge=self.judge,
          num_rollouts=config.credit.num_rollouts, find=programs.contexts(),
          go_on=programs.continue_())
    return learner_lib.Learner(
        config=config, objective=programs.objective,
        name=f'{objective}, seed {seed}', problems=self.train, player=player,
        judge=self.judge, reference=self.start, prepare=programs.prepare(),
        update=programs.update(), vine=vine, branches=programs.branches,
        solutions=self.solutions if (
            'solutions' in programs.objective.needs) else None,
        explore=programs.explore(),
        rng=jax.random.fold_in(jax.random.key(self.seed), seed),
        mesh=programs.mesh)

  def state(self, seed: int) -> state_lib.TrainState:
    """Makes a run's first state, with copies of the start's parameters."""
    programs = self.programs
    made = state_lib.jit_create(
        programs.init, programs.optimizer, programs.mesh)(jax.random.key(seed))
    state = made.replace(params=jax.tree.map(
        jnp.copy, programs.settings.trained.begin(made.params, self.start)))
    return lagged.begin(state) if programs.settings.lag else state


class Evaluation:
  """Success on validation problems, episode by episode."""

  def __init__(self, setup: Setup, programs: programs_lib.Programs):
    """Compiles nothing; `num_eval_samples` trajectories a problem."""
    self._play = functools.partial(
        revising.play,
        setup.player(programs, programs.settings.num_eval_samples),
        setup.judge, problems=setup.validation, rng=setup.evaluation_rng,
        explore=programs.explore(),
        openings=programs.settings.credit.discount_prompts)

  def play(self, params: types.Params) -> judge_lib.Judged:
    """Judges all problems, G trajectories of each in turn."""
    return self._play(params)[0]

  def __call__(self, params: types.Params) -> dict[str, float]:
    """Returns metrics of a policy."""
    judged = self.play(params)
    success_E = judged.rewards.mean(axis=0).tolist()
    return {
        f'validation/episode_{e}': success
        for e, success in enumerate(success_E, 1)} | {
            'validation/success': success_E[-1],
            'validation/tokens': float(judged.tokens_spent.sum(axis=1).mean())}
