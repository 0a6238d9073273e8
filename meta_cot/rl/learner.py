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
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.rollouts import trees as trees_lib
from meta_cot.training import state as state_lib

_COLLECT, _VALUES, _DISCOUNT, _EXPLORE, _BRANCH = range(5)  # what a key is for


@dataclasses.dataclass(frozen=True)
class Drawn:
  """What an iteration draws; its programs may still run."""

  params: types.Params  # of the policy that draws
  numbers: list[int]  # of the questions
  iteration: int
  asked: player_lib.Asked
  discount_Q: np.ndarray
  rollouts: episodes.Rollouts
  trees: trees_lib.Trees | None  # where trajectories have branches
  copies: Any  # rollouts and tokens explored, for the host
  start: float  # seconds


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """What the host has seen and said of what was drawn."""

  host: episodes.Rollouts
  judged: judge_lib.Judged
  times: tuple[float, float, float]  # seconds: begun, drawn, judged


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
    return state, row | dict(staleness=0.0)

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
    drawn = self.draw(
        params, memory.questions.take(self.config.questions.num_questions),
        iteration)
    return self.give_credit(drawn, self.verdicts(drawn), memory.kl_coefficient)

  def draw(
      self, params: types.Params, numbers: list[int], iteration: int
  ) -> Drawn:
    """Plays the questions of these numbers; waits for no program."""
    start = time.perf_counter()
    rng = jax.random.fold_in(self.rng, iteration)
    asked, discount_Q = self._ask(params, numbers, rng)
    rollouts, trees = self._draw(params, asked, rng)
    return Drawn(
        params, numbers, iteration, asked, discount_Q, rollouts, trees,
        self.player.whole((rollouts, asked.num_explored)), start)

  def verdicts(self, drawn: Drawn) -> Verdicts:
    """Waits for what was drawn, and judges it on the host."""
    host, explored_Q = jax.device_get(drawn.copies)
    times = [drawn.start, time.perf_counter()]
    judged = self.judge(self._problems(drawn), host).after(explored_Q)
    return Verdicts(host, judged, (*times, time.perf_counter()))

  def give_credit(
      self, drawn: Drawn, verdicts: Verdicts, kl_coefficient: float
  ) -> Experience:
    """Makes what is learned from what was drawn and judged."""
    config, judged, start = self.config, verdicts.judged, time.perf_counter()
    asked, rollouts, problems = (
        drawn.asked, drawn.rollouts, self._problems(drawn))
    made = rollouts if drawn.trees is None else drawn.trees
    if self.solutions is not None:
      made = self.solutions(problems, rollouts, verdicts.host)
    given = sharding.split_batch(credit.Verdicts(
        rewards=judged.rewards, is_taken=judged.is_taken,
        is_judged=self._is_judged(judged),
        tokens_before=judged.tokens_thought,
        discounts=np.repeat(drawn.discount_Q, config.questions.per_question)),
                                 self.mesh)
    progress = drawn.iteration / config.num_iterations
    values_NxJ = self._values(
        drawn, problems, judged, progress, jax.random.fold_in(
            jax.random.fold_in(self.rng, drawn.iteration), _VALUES))
    batch, is_flat_N = self.prepare(
        drawn.params, self.reference, asked.prompts, asked.lengths, made, given,
        jnp.float32(progress), jnp.float32(kl_coefficient), values_NxJ)
    is_flat_N, rewards_N = self.player.fetch((is_flat_N, batch.rewards))
    num_new_R = self._num_new(made)
    seconds = time.perf_counter() - start
    row = self._row(drawn, verdicts, is_flat_N, rewards_N, num_new_R)
    return Experience(
        batch, kl_coefficient, drawn.numbers, judged,
        self._cut(batch, is_flat_N, num_new_R, asked.prompts.shape),
        row | {'time/prepare': seconds})

  def learn(
      self, state: state_lib.TrainState, experience: Experience
  ) -> tuple[state_lib.TrainState, dict[str, float]]:
    """Updates the policy by experience of it, or of the one before.

    Returns:
      The state behind the updates (that before them is donated), and metrics.

    Raises:
      FloatingPointError: a loss or gradient is not finite.
    """
    start = time.perf_counter()
    state, metrics = self.begin_updates(state, experience)
    row = self.updated(metrics, int(state.step))
    return state, row | experience.row | {
        'time/update': time.perf_counter() - start}

  def begin_updates(
      self, state: state_lib.TrainState, experience: Experience
  ) -> tuple[state_lib.TrainState, list[dict[str, jax.Array]]]:
    """Starts the updates of `learn`, and waits for none of them."""
    updates, metrics = self.config.updates, []
    batch = experience.batch if experience.cut is None else (
        experience.cut(experience.batch))
    for number in range(updates.per_iteration):
      state, row = self.update(
          state, batch, jnp.int32(number % updates.num_minibatches),
          jnp.float32(experience.kl_coefficient), self.base)
      metrics.append(row)
    return state, metrics

  def updated(
      self, metrics: list[dict[str, jax.Array]], step: int
  ) -> dict[str, float]:
    """Waits for updates, the last one number `step`; errors of `learn`."""
    metrics = jax.tree.map(float, jax.device_get(metrics))
    return monitor.updated(metrics, self.name, step)

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

  def _ask(self, params, numbers, rng):
    """The questions of these numbers, and their discounts."""
    config = self.config.credit
    kinds_Q = np.asarray(jax.random.randint(
        jax.random.fold_in(rng, _DISCOUNT), (len(numbers),), 0,
        len(config.discounts)))
    asked = self.player.ask(
        [self.problems[q] for q in numbers], numbers,
        [config.discount_prompts[k] for k in kinds_Q])
    if self.explore is not None:
      asked = self.explore(params, asked, jax.random.fold_in(rng, _EXPLORE))
    return asked, np.array(config.discounts, np.float32)[kinds_Q]

  def _problems(self, drawn: Drawn) -> list[Problem]:
    return [self.problems[q] for q in drawn.numbers]

  def _draw(self, params, asked, rng):
    """Rollouts, and the trees that they are of where there are branches."""
    rollouts = self.player(params, asked, jax.random.fold_in(rng, _COLLECT))
    if self.branches is None:
      return rollouts, None
    trees = self.branches(
        params, asked, rollouts, jax.random.fold_in(rng, _BRANCH))
    return trees_lib.as_rollouts(trees, self.player.rules, rollouts), trees

  def _row(self, drawn, verdicts, is_flat_N, rewards_N, num_new_R):
    """Metrics of what was collected."""
    row = monitor.collected(
        verdicts.judged, verdicts.host, is_flat_N,
        num_samples=self.config.questions.per_question,
        num_slots=self.player.num_slots)
    if drawn.trees is not None:
      row['tokens'] = float(num_new_R.sum())  # shared ones once
    if rewards_N is not None:
      row['reward'] = float(rewards_N.mean())
    number = len(drawn.numbers)
    num_prompt = self.player.fetch(drawn.asked.lengths).sum() - number
    row['forwarded_tokens'] = float(
        num_new_R.sum() + num_prompt * len(num_new_R) // number)
    return row | dict(zip(
        ('time/rollout', 'time/judge'), np.diff(verdicts.times).tolist(),
        strict=True))

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

  def _values(self, drawn, problems, judged, progress, rng):
    """Monte-Carlo values before every step, [N, J]; None without need."""
    if self.vine is None:
      return None
    num_rollouts = self.config.credit.num_rollouts
    weights_E = self._weights(judged, progress)

    def value(done, questions_V, before_V):
      each = functools.partial(np.repeat, repeats=num_rollouts, axis=0)
      gammas_V = drawn.discount_Q[questions_V]
      discounted = done.rewards * each(gammas_V)[:, None] ** (
          done.tokens_thought + each(before_V)[:, None])
      total = (discounted * weights_E).sum(axis=1)
      return _mean(total, self._is_judged(done), len(before_V))

    return sharding.split_batch(self.vine(
        drawn.params, drawn.asked, drawn.rollouts, problems, judged, value,
        rng), self.mesh)


def _mean(values_N, is_known_N, num_groups) -> np.ndarray:
  """Of what is known in every group of neighbours; 0 where nothing is."""
  known = is_known_N.reshape(num_groups, -1)
  values = np.where(known, values_N.reshape(num_groups, -1), 0.0)
  return values.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
