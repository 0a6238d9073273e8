# SPDX-License-Identifier: Apache-2.0
"""One iteration of meta-RL: collect, judge, give credit, update.

Section 7.2 of arXiv 2501.04682. Everything random in iteration i follows from
the stage's key folded with i, and everything an iteration hands to the next is
in the training state and in `questions.Memory`; both are in every checkpoint.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_cot import sharding
from meta_cot import types
from meta_cot.objectives import kl
from meta_cot.problem import Problem
from meta_cot.rl import credit
from meta_cot.rl import cutting
from meta_cot.rl import monitor
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import qstar
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import settings as settings_lib
from meta_cot.rollouts import branching
from meta_cot.rollouts import continuations
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.rollouts import trees as trees_lib
from meta_cot.training import state as state_lib

_COLLECT, _VALUES, _DISCOUNT, _EXPLORE, _BRANCH = range(5)  # what a key is for


@dataclasses.dataclass(frozen=True)
class Experience:
  """What an iteration has collected, ready to be learned from."""

  batch: objective_lib.Batch  # on the devices
  kl_coefficient: float
  questions: list[int]  # their numbers
  judged: judge_lib.Judged
  cut: cutting.Cut | None  # what of the batch is learned; None: all of it
  row: dict[str, float]  # of metrics, so far


@dataclasses.dataclass(frozen=True)
class Learner:
  """What the iterations of one run share."""

  config: settings_lib.RlConfig
  objective: objective_lib.Objective
  name: str  # of the run, for messages
  problems: Sequence[Problem]
  player: player_lib.Player
  judge: judge_lib.Judge
  reference: types.Params  # frozen
  prepare: Callable[..., Any]  # see `Programs.prepare`
  update: Callable[..., Any]  # see `Programs.update`
  vine: continuations.Vine | None  # where the objective needs continuations
  branches: branching.Branches | None  # where trajectories have branches
  solutions: qstar.Solutions | None  # where the objective needs them
  explore: Callable[..., Any] | None  # see `exploration.jit_explore`
  rng: types.PRNGKey  # of the run
  mesh: jax.sharding.Mesh

  def iterate(
      self, state: state_lib.TrainState, memory: questions_lib.Memory,
      iteration: int, keep: Callable[..., None] | None = None,
  ) -> tuple[state_lib.TrainState, dict[str, float]]:
    """Runs iteration number `iteration`, from 0 on; see `learn`.

    `keep` gets the policy and what it collected, see `kept.Keeper`.
    """
    experience = self.collect(self.whole(state), memory, iteration)
    if keep is not None:
      keep(self.whole(state), experience, iteration)
    state, row = self.learn(state, experience)
    self.remember(memory, experience, row)
    return state, row

  def whole(self, state: state_lib.TrainState) -> types.Params:
    """Returns all parameters of the policy in training."""
    return self.config.trained.whole(self.base, state.params)

  @functools.cached_property
  def base(self) -> types.Params:
    """What is not trained; of the reference, whose arrays it shares."""
    return self.config.trained.base(self.reference)

  def collect(
      self, params: types.Params, memory: questions_lib.Memory, iteration: int
  ) -> Experience:
    """Asks the next questions, plays, judges and gives credit."""
    config, rng = self.config, jax.random.fold_in(self.rng, iteration)
    times = [time.perf_counter()]
    tick = lambda: times.append(time.perf_counter())
    asked, numbers, discount_Q = self._ask(params, memory, rng)
    rollouts, trees = self._draw(params, asked, rng)
    drawn = rollouts if trees is None else trees
    host, explored_Q = self.player.fetch((rollouts, asked.num_explored))
    tick()
    problems = [self.problems[q] for q in numbers]
    if self.solutions is not None:
      drawn = self.solutions(problems, rollouts, host)
    judged = self.judge(problems, host).after(explored_Q)
    verdicts = sharding.split_batch(credit.Verdicts(
        rewards=judged.rewards, is_taken=judged.is_taken,
        is_judged=self._is_judged(judged),
        tokens_before=judged.tokens_thought,
        discounts=np.repeat(discount_Q, config.questions.per_question)),
                                    self.mesh)
    tick()
    progress = iteration / config.num_iterations
    values_NxJ = self._values(
        params, asked, rollouts, problems, judged, discount_Q, progress,
        jax.random.fold_in(rng, _VALUES))
    batch, is_flat_N = self.prepare(
        params, self.reference, asked.prompts, asked.lengths, drawn, verdicts,
        jnp.float32(progress), jnp.float32(memory.kl_coefficient), values_NxJ)
    is_flat_N, rewards_N = self.player.fetch((is_flat_N, batch.rewards))
    num_new_R = self._num_new(drawn)
    tick()
    row = monitor.collected(
        judged, host, is_flat_N, num_samples=config.questions.per_question,
        num_slots=self.player.num_slots)
    if trees is not None:
      row['tokens'] = float(num_new_R.sum())  # shared ones once
    if rewards_N is not None:
      row['reward'] = float(rewards_N.mean())
    num_prompt = self.player.fetch(asked.lengths).sum() - len(numbers)
    row['forwarded_tokens'] = float(
        num_new_R.sum() + num_prompt * len(num_new_R) // len(numbers))
    row |= zip(
        ('time/rollout', 'time/judge', 'time/prepare'), np.diff(times).tolist(),
        strict=True)
    return Experience(
        batch, memory.kl_coefficient, numbers, judged,
        self._cut(batch, is_flat_N, num_new_R, asked.prompts.shape), row)

  def learn(
      self, state: state_lib.TrainState, experience: Experience
  ) -> tuple[state_lib.TrainState, dict[str, float]]:
    """Updates the policy by experience of it, or of the one before.

    Returns:
      The state behind the updates (that before them is donated), and metrics.

    Raises:
      FloatingPointError: a loss or gradient is not finite.
    """
    start, updates, metrics = time.perf_counter(), self.config.updates, []
    batch = experience.batch if experience.cut is None else (
        experience.cut(experience.batch))
    for number in range(updates.per_iteration):
      state, row = self.update(
          state, batch, jnp.int32(number % updates.num_minibatches),
          jnp.float32(experience.kl_coefficient), self.base)
      metrics.append(row)
    metrics = jax.tree.map(float, jax.device_get(metrics))
    seconds = time.perf_counter() - start
    row = monitor.updated(metrics, self.name, int(state.step))
    return state, row | experience.row | {'time/update': seconds}

  def remember(
      self, memory: questions_lib.Memory, experience: Experience,
      row: dict[str, float],
  ) -> None:
    """Notes what the next iteration is to know, completes the row, warns."""
    settings, judged = self.config.loss, experience.judged
    if memory.first is None:
      memory.first = {k: row[k] for k in monitor.COMPARED}
    monitor.warn(row, memory.first, self.name)
    numbers = np.array(experience.questions)
    is_decided_N = ~judged.is_undecided[:, -1]
    share_Q = _mean(judged.rewards[:, -1], is_decided_N, len(numbers))
    is_known_Q = is_decided_N.reshape(len(numbers), -1).any(axis=1)
    if self._weights(judged, 1.0).any():  # else no verdict is asked
      memory.questions.learn(
          numbers[is_known_Q].tolist(), share_Q[is_known_Q].tolist())
    row['kl_coefficient'] = memory.kl_coefficient
    row['questions_resting'] = float(memory.questions.num_resting)
    if settings.kl_target is not None:
      memory.kl_coefficient = float(kl.adapt(
          memory.kl_coefficient, row['kl_k1'], target=settings.kl_target,
          horizon=settings.kl_horizon, num=len(judged.rewards)))

  def _ask(self, params, memory, rng):
    """Questions of an iteration, their numbers and discounts."""
    config = self.config.credit
    numbers = memory.questions.take(self.config.questions.num_questions)
    kinds_Q = np.asarray(jax.random.randint(
        jax.random.fold_in(rng, _DISCOUNT), (len(numbers),), 0,
        len(config.discounts)))
    asked = self.player.ask(
        [self.problems[q] for q in numbers], numbers,
        [config.discount_prompts[k] for k in kinds_Q])
    if self.explore is not None:
      asked = self.explore(params, asked, jax.random.fold_in(rng, _EXPLORE))
    return asked, numbers, np.array(config.discounts, np.float32)[kinds_Q]

  def _draw(self, params, asked, rng):
    """Rollouts, and the trees that they are of where there are branches."""
    rollouts = self.player(params, asked, jax.random.fold_in(rng, _COLLECT))
    if self.branches is None:
      return rollouts, None
    trees = self.branches(
        params, asked, rollouts, jax.random.fold_in(rng, _BRANCH))
    return trees_lib.as_rollouts(trees, self.player.rules, rollouts), trees

  def _num_new(self, drawn) -> np.ndarray:
    """Counts the tokens of every row behind its prompt, [R]."""
    lengths = self.player.fetch(drawn.lengths)
    if isinstance(drawn, qstar.Solved):
      return lengths + self.player.fetch(drawn.kept)
    return lengths if lengths.ndim == 1 else lengths.sum(axis=1)

  def _cut(self, batch, is_flat_N, lengths_R, prompts):
    """The rows and positions of a batch that have a gradient."""
    updates, (num_rows, length) = self.config.updates, batch.weights.shape
    num_questions, num_prompt = prompts
    if not updates.skip_flat_groups:
      return None
    parts = sharding.data_parallelism(self.mesh)
    found = cutting.shapes(
        num_rows, length, num_questions=num_questions, width=num_prompt,
        pieces=updates.num_minibatches * updates.num_accumulation * parts,
        num_minibatches=updates.num_minibatches, num_parts=parts,
        num_chunks=updates.num_loss_chunks,
        may_skip=self.objective.is_by_advantage)
    order_Q, number, width = cutting.choose(
        found, is_flat_N, num_prompt + lengths_R - 1)
    if (number, width) == (num_questions, length):
      return None
    return cutting.Cut(order_Q, number, width)

  def _weights(self, judged, progress) -> np.ndarray:
    """What the rewards of the episodes count, [E]."""
    return np.asarray(
        self.objective.weights(judged.rewards.shape[1], progress))

  def _is_judged(self, judged) -> np.ndarray:
    """Whether all episodes that count were decided, [N] bool."""
    return ~judged.is_undecided[:, self._weights(judged, 1.0) != 0].any(axis=1)

  def _values(self, params, asked, rollouts, problems, judged, discount_Q,
              progress, rng):
    """Monte-Carlo values before every step, [N, J]; None without need."""
    if self.vine is None:
      return None
    num_rollouts = self.config.credit.num_rollouts
    weights_E = self._weights(judged, progress)

    def value(done, questions_V, before_V):
      each = functools.partial(np.repeat, repeats=num_rollouts, axis=0)
      discounted = done.rewards * each(discount_Q[questions_V])[:, None] ** (
          done.tokens_thought + each(before_V)[:, None])
      total = (discounted * weights_E).sum(axis=1)
      return _mean(total, self._is_judged(done), len(before_V))

    return sharding.split_batch(self.vine(
        params, asked, rollouts, problems, judged, value, rng), self.mesh)


def _mean(values_N, is_known_N, num_groups) -> np.ndarray:
  """Of what is known in every group of neighbours; 0 where nothing is."""
  known = is_known_N.reshape(num_groups, -1)
  values = np.where(known, values_N.reshape(num_groups, -1), 0.0)
  return values.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
