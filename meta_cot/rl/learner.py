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

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.objectives import erl2
from meta_cot.objectives import kl
from meta_cot.problem import Problem
from meta_cot.rl import credit
from meta_cot.rl import monitor
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import scoring
from meta_cot.rl import settings as settings_lib
from meta_cot.rl import update as update_lib
from meta_cot.rollouts import continuations
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.rollouts import rows as rows_lib
from meta_cot.training import optimizer as optimizer_lib
from meta_cot.training import state as state_lib

_COLLECT, _VALUES, _DISCOUNT, _EXPLORE = range(4)  # what a key is for


def rules(
    config: settings_lib.RlConfig, objective: str,
    tokenizer: tokenizers.Tokenizer,
) -> episodes.Episodes:
  """Of the trajectories that an objective is trained on.

  Raises:
    ValueError: `give_up` is not one token.
  """
  give_up_id = None
  if config.give_up is not None:
    give_up_id = player_lib.token_of(tokenizer, config.give_up)
  return episodes.Episodes(
      num_episodes=config.episodes(objective),
      episode_length=config.episode_length, sampling=config.sampling(),
      stop_ids=tokenizer.eos_ids, give_up_id=give_up_id,
      reset_ids=tuple(tokenizer.encode(config.reset)),
      max_tokens=config.max_tokens, window=config.window)


def steps(
    config: settings_lib.RlConfig, tokenizer: tokenizers.Tokenizer
) -> continuations.Steps | None:
  """How 'vineppo' cuts episodes; None for other advantages.

  Raises:
    ValueError: no token ends in `step_end`.
  """
  if config.advantage != 'vineppo':
    return None
  end_ids = tuple(
      np.flatnonzero(tokenizer.ending_in(config.step_end)).tolist())
  if not end_ids:
    raise ValueError(
        f'got {config.step_end!r}; must be what a token of the tokenizer ends '
        'in.')
  return continuations.Steps(end_ids, config.num_steps)


def jit_update(
    model: model_config.ModelConfig, config: settings_lib.RlConfig,
    row_length: int, placed: state_lib.TrainState, mesh: jax.sharding.Mesh,
) -> Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]:
  """The update of `update.make`, jitted with its shardings.

  Args:
    model: its settings.
    config: of the run.
    row_length: tokens of the longest row behind its prompt.
    placed: shardings of the state.
    mesh: devices.
  """
  num_updates = config.num_iterations * config.updates_per_iteration()
  step = update_lib.make(
      model, config, optimizer_lib.make(config.optimizer, num_updates),
      optimizer_lib.schedule(config.optimizer, num_updates),
      row_constant=float(row_length))
  return jax.jit(
      step, out_shardings=(placed, sharding.replicated(mesh)),
      donate_argnames=('state',))


def jit_prepare(
    model: model_config.ModelConfig, config: settings_lib.RlConfig,
    objective: str, pad_id: int, steps: continuations.Steps | None = None,
) -> Callable[..., tuple[update_lib.Batch, jax.Array]]:
  """Rows, reference, advantages of an iteration, jitted; once for all updates.

  Called with (params, reference, prompts, lengths, rollouts, verdicts,
  progress, kl_coefficient, values_NxJ or None); `steps` are those of the
  values.
  """
  plain = decode.Sampling(temperature=1.0)

  @jax.jit
  def prepare(params, reference, prompts_QxP, lengths_Q, rollouts, verdicts,
              progress, kl_coefficient, values_NxJ):
    rows = rows_lib.assemble(
        prompts_QxP, lengths_Q, rollouts, pad_id=pad_id,
        multiple=config.num_loss_chunks)
    prompts = None
    if update_lib.shares_prompts(
        model, config, rows.tokens.shape, prompts_QxP.shape):
      prompts = scoring.Prompts(prompts_QxP, lengths_Q)
    score = lambda params: scoring.score(
        model, params, rows.tokens, rows.targets, sampling=plain,
        num_chunks=config.num_loss_chunks, prompts=prompts)
    reference_RxX, values_RxX, penalty_NxE = score(reference).plain, None, None
    if config.advantage == 'gae':
      values_RxX = score(params).values
    if config.kl_in == 'reward':
      num, num_episodes = verdicts.rewards.shape
      penalty_NxE = credit.penalty(
          rows, score(params).plain, reference_RxX, num_trajectories=num,
          num_episodes=num_episodes, coefficient=kl_coefficient)
    steps_RxX = None
    if steps is not None:
      steps_RxX = steps.of_tokens(rows, verdicts.rewards.shape[1])
    given = credit.assign(
        config, objective, rows, verdicts, progress=progress,
        penalty_NxE=penalty_NxE, values_RxX=values_RxX, values_NxJ=values_NxJ,
        steps_RxX=steps_RxX)
    batch = update_lib.Batch(
        rows=rows, advantages=given.advantages,
        is_trained=credit.trained(rows, verdicts), reference=reference_RxX,
        targets=given.targets, old_values=values_RxX, prompts=prompts)
    return jax.tree.map(
        lambda x: sharding.constrain(x, 'act_batch', *[None] * (x.ndim - 1)),
        (batch, given.is_flat))

  return prepare


@dataclasses.dataclass(frozen=True)
class Learner:
  """What the iterations of one run share."""

  config: settings_lib.RlConfig
  objective: str
  name: str  # of the run, for messages
  problems: Sequence[Problem]
  player: player_lib.Player
  judge: judge_lib.Judge
  reference: types.Params  # frozen
  prepare: Callable[..., Any]  # see `jit_prepare`
  update: Callable[..., Any]  # see `jit_update`
  vine: continuations.Vine | None  # for 'vineppo'
  explore: Callable[..., Any] | None  # see `exploration.jit_explore`
  rng: types.PRNGKey  # of the run
  mesh: jax.sharding.Mesh

  def iterate(
      self, state: state_lib.TrainState, memory: questions_lib.Memory,
      iteration: int,
  ) -> tuple[state_lib.TrainState, dict[str, float]]:
    """Runs iteration `iteration`, counted from 0.

    Args:
      state: donated.
      memory: takes note of what happened.
      iteration: its number.

    Returns:
      The state behind the updates, and the row of metrics.

    Raises:
      FloatingPointError: a loss or gradient is not finite.
    """
    config, rng = self.config, jax.random.fold_in(self.rng, iteration)
    times = [time.perf_counter()]
    tick = lambda: times.append(time.perf_counter())
    asked, numbers, discount_Q = self._ask(state.params, memory, rng)
    rollouts = self.player(
        state.params, asked, jax.random.fold_in(rng, _COLLECT))
    host, explored_Q = self.player.fetch((rollouts, asked.num_explored))
    tick()
    problems = [self.problems[q] for q in numbers]
    judged = self.judge(problems, host).after(explored_Q)
    verdicts = self._verdicts(judged, discount_Q)
    tick()
    values_NxJ = self._values(
        state.params, asked, rollouts, problems, judged, discount_Q,
        iteration, jax.random.fold_in(rng, _VALUES))
    batch, is_flat_N = self.prepare(
        state.params, self.reference, asked.prompts, asked.lengths, rollouts,
        verdicts, jnp.float32(iteration / config.num_iterations),
        jnp.float32(memory.kl_coefficient), values_NxJ)
    is_flat_N = self.player.fetch(is_flat_N)
    tick()
    metrics = []
    for number in range(config.updates_per_iteration()):
      state, row = self.update(
          state, batch, jnp.int32(number % config.num_minibatches),
          jnp.float32(memory.kl_coefficient))
      metrics.append(row)
    metrics = [
        {k: float(v) for k, v in row.items()}
        for row in jax.device_get(metrics)]
    tick()
    row = monitor.updated(metrics, self.name, int(state.step))
    row |= monitor.collected(
        judged, host, is_flat_N, num_samples=config.num_samples,
        num_slots=self.player.num_slots)
    self._remember(memory, numbers, judged, row)
    row |= dict(zip(
        ('time/rollout', 'time/judge', 'time/prepare', 'time/update'),
        np.diff(times).tolist(), strict=True))
    return state, row

  def _ask(self, params, memory, rng):
    """Questions of an iteration, their numbers and discounts."""
    config = self.config
    numbers = memory.questions.take(config.num_questions)
    kinds_Q = np.asarray(jax.random.randint(
        jax.random.fold_in(rng, _DISCOUNT), (len(numbers),), 0,
        len(config.discounts)))
    asked = self.player.ask(
        [self.problems[q] for q in numbers], numbers,
        [config.discount_prompts[k] for k in kinds_Q])
    if self.explore is not None:
      asked = self.explore(params, asked, jax.random.fold_in(rng, _EXPLORE))
    return asked, numbers, np.array(config.discounts, np.float32)[kinds_Q]

  def _verdicts(self, judged, discount_Q) -> credit.Verdicts:
    """Verdicts on the devices, split by trajectories."""
    return credit.Verdicts(**sharding.split_batch(dict(
        rewards=judged.rewards, is_taken=judged.is_taken,
        is_judged=self._is_judged(judged), tokens_before=judged.tokens_before,
        discounts=np.repeat(discount_Q, self.config.num_samples)), self.mesh))

  def _is_judged(self, judged) -> np.ndarray:
    """Whether all episodes that count were decided, [N] bool."""
    counts = judged.is_undecided
    if self.objective == 'erl2':
      counts = counts[:, -1:]
    return ~counts.any(axis=1)

  def _values(self, params, asked, rollouts, problems, judged, discount_Q,
              iteration, rng):
    """Monte-Carlo values before every step, [N, J], for 'vineppo'."""
    if self.vine is None:
      return None
    config = self.config
    weights_E = np.asarray(erl2.reward_weights(
        self.objective, judged.rewards.shape[1], hold=config.score_hold,
        progress=iteration / config.num_iterations))

    def worth(done, questions_V, before_V):
      each = functools.partial(
          np.repeat, repeats=config.num_rollouts, axis=0)
      discounted = done.rewards * each(discount_Q[questions_V])[:, None] ** (
          done.tokens_before + each(before_V)[:, None])
      total = (discounted * weights_E).sum(axis=1)
      return _mean(total, self._is_judged(done), len(before_V))

    return sharding.split_batch(self.vine(
        params, asked, rollouts, problems, judged, worth, rng), self.mesh)

  def _remember(self, memory, numbers, judged, row) -> None:
    """What the next iteration is to know, and warnings."""
    config = self.config
    if memory.first is None:
      memory.first = {k: row[k] for k in monitor.COMPARED}
    monitor.warn(row, memory.first, self.name)
    is_decided_N = ~judged.is_undecided[:, -1]
    share_Q = _mean(judged.rewards[:, -1], is_decided_N, len(numbers))
    is_known_Q = is_decided_N.reshape(len(numbers), -1).any(axis=1)
    memory.questions.learn(
        np.array(numbers)[is_known_Q].tolist(), share_Q[is_known_Q].tolist())
    row['kl_coefficient'] = memory.kl_coefficient
    row['questions_resting'] = float(memory.questions.num_resting)
    if config.kl_target is not None:
      memory.kl_coefficient = float(kl.adapt(
          memory.kl_coefficient, row['kl_k1'], target=config.kl_target,
          horizon=config.kl_horizon, num=len(judged.rewards)))


def _mean(values_N, is_known_N, num_groups) -> np.ndarray:
  """Of what is known in every group of neighbours; 0 where nothing is."""
  known = is_known_N.reshape(num_groups, -1)
  values = np.where(known, values_N.reshape(num_groups, -1), 0.0)
  return values.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
