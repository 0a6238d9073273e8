# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/rl.py runs: iterations of the learner, rollouts, sampling."""

from collections.abc import Callable
import dataclasses
import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import models
from configs import kinds
from meta_cot import decode
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rl import lagged
from meta_cot.rl import learner as learner_lib
from meta_cot.rl import programs as programs_lib
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import settings as settings_lib
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.settings import config as config_lib
from meta_cot.training import state as state_lib

_NUM_ITERATIONS = 1000  # of the schedule; the learning rate is constant
_PHASES = ('rollout', 'judge', 'prepare', 'update')


@dataclasses.dataclass(frozen=True)
class Stepping:
  """Size of one step: GRPO, one update on all completions."""

  questions: int = 8
  samples: int = 8
  prompt: int = 32
  new_tokens: int = 64  # of an episode
  beta: float = 0.04  # of the KL to the reference (k3, in the loss)
  clip: float = 0.2

  @property
  def rows(self) -> int:
    return self.questions * self.samples


def mesh() -> jax.sharding.Mesh:
  """One device."""
  return sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices()[:1])


def prompts(model: model_config.ModelConfig, size: Stepping) -> np.ndarray:
  """[Q, P] int32 on the host."""
  return models.prompts(
      model, models.Decoding(rows=size.questions, prompt=size.prompt))


def settings(
    size: Stepping, num_episodes: int, objective: str,
    skips_flat_groups: bool = True, lag: int = 0,
) -> settings_lib.RlConfig:
  """Those of an experiment, but for what the workload says."""
  values = kinds.rl(
      objectives=(objective,), num_iterations=_NUM_ITERATIONS, lag=lag,
      optimizer=dataclasses.asdict(models.adamw()))
  del values.kind
  values.questions.update(dict(
      num_questions=size.questions, num_samples=size.samples,
      num_slots=size.rows, rest=0))
  values.episodes.update(dict(
      num_episodes=num_episodes, episode_length=size.new_tokens))
  values.credit.advantage = 'grpo'
  values.loss.update(dict(
      clip_low=size.clip, clip_high=size.clip, token_weights='sequence',
      kl_in='loss' if size.beta else 'none', kl_estimator='k3',
      kl_coefficient=size.beta))
  values.updates.skip_flat_groups = skips_flat_groups
  return config_lib.parse(settings_lib.RlConfig, values, 'rl')


class _NoTokenizer:
  """Texts are made by nobody, and read by nobody."""

  pad_id, eos_ids = 0, ()  # every episode runs to its limit
  control_ids: dict[str, int] = {}

  def encode(self, text: str) -> list[int]:
    """See `sentencepiece.Tokenizer`."""
    return list(text.encode())


class _Player(player_lib.Player):
  """Always asks the same prompts."""

  def __init__(self, model, mesh, tokens_QxP, **settings):
    super().__init__(
        model, None, mesh, style='', width=tokens_QxP.shape[1],
        num_questions=len(tokens_QxP), **settings)
    lengths_Q = np.full(len(tokens_QxP), tokens_QxP.shape[1], np.int32)
    self._asked = player_lib.Asked(*sharding.split_batch((
        tokens_QxP, lengths_Q, np.arange(len(tokens_QxP), dtype=np.int32)),
                                                         mesh))

  def ask(self, problems, ids, openings=None) -> player_lib.Asked:
    """See `player.Player`."""
    del problems, ids, openings
    return self._asked


def judge(
    problems: object, rollouts: episodes.Rollouts, *, flat: float = 0.0,
    seconds: float = 0.0,
) -> judge_lib.Judged:
  """The reward: the share of even tokens in an episode.

  In the share `flat` of the trajectories, of the first questions, it is 0. It
  waits so many seconds, as for verifiers in processes of their own.
  """
  del problems
  time.sleep(seconds)
  shape = rollouts.starts.shape
  rewards = np.zeros(shape, np.float32)
  for n, e in np.ndindex(shape):
    row = rollouts.tokens[n, rollouts.starts[n, e]:rollouts.ends[n, e]]
    rewards[n, e] = np.mean(row % 2 == 0) if len(row) else 0.0
  rewards[:round(flat * shape[0])] = 0.0
  is_taken = np.asarray(rollouts.is_taken)
  no = np.zeros(shape, bool)
  return judge_lib.Judged(
      rewards=rewards, is_taken=is_taken, is_finished=is_taken,
      has_given_up=no, is_undecided=no, is_repeated=no,
      num_tokens=(rollouts.ends - rollouts.starts).astype(np.int32),
      answers=np.full(shape, -1, np.int32),
      num_searched=np.zeros(shape, np.int32),
      num_explored=np.zeros(shape[0], np.int32))


def iterating(
    model: model_config.ModelConfig, size: Stepping, *, num_episodes: int = 1,
    objective: str = 'single', flat: float = 0.0,
    skips_flat_groups: bool = True, lag: int = 0, judge_seconds: float = 0.0,
) -> Callable[[], dict[str, float]]:
  """Iterations of `learner.Learner`; a call returns the row of metrics."""
  config = settings(size, num_episodes, objective, skips_flat_groups, lag)
  one = mesh()
  programs = programs_lib.Programs(
      None, model, config, lambda: 0, _NoTokenizer(), lambda: None, one,
      '', size.prompt, num_episodes).of(objective)
  memory = questions_lib.Memory(
      questions_lib.Questions(
          size.questions, seed=0, min_success=0.0, max_success=1.0, rest=0),
      config.loss.kl_coefficient)
  with sharding.use_mesh(one):
    state = state_lib.jit_create(
        programs.init, programs.optimizer, one)(jax.random.key(0))
    learner = learner_lib.Learner(
        config=config, objective=programs.objective, name='benchmark',
        problems=range(size.questions),
        player=_Player(
            model, one, prompts(model, size), rules=programs.rules,
            num_samples=size.samples, num_slots=size.rows),
        judge=functools.partial(judge, flat=flat, seconds=judge_seconds),
        reference=jax.tree.map(jnp.copy, state.params),
        prepare=programs.prepare(), update=programs.update(), vine=None,
        branches=None, solutions=None, explore=None, rng=jax.random.key(1),
        mesh=one)
  if lag:
    state, learner = lagged.begin(state), lagged.Iterations(learner)
  number = 0

  def call():
    nonlocal state, number
    with sharding.use_mesh(one):
      state, row = learner.iterate(state, memory, number)
      jax.block_until_ready(state.params)
    number += 1
    return row

  return call


def phases(rows: list[dict[str, float]]) -> dict[str, list[float]]:
  """Seconds of the parts of iterations, from their metrics."""
  return {name: [row[f'time/{name}'] for row in rows] for name in _PHASES}


def playing(
    model: model_config.ModelConfig, size: Stepping, params: types.Params, *,
    num_slots: int, stop_ids: tuple[int, ...] = (),
) -> Callable[[], episodes.Rollouts]:
  """The player's program; a call returns NumPy rollouts of one episode."""
  rules = episodes.Episodes(
      num_episodes=1, episode_length=size.new_tokens, stop_ids=stop_ids,
      sampling=decode.Sampling(temperature=1.0))
  one = mesh()
  with sharding.use_mesh(one):
    player = _Player(
        model, one, prompts(model, size), rules=rules,
        num_samples=size.samples, num_slots=num_slots)
    params = jax.device_put(params, sharding.replicated(one))

  def call():
    with sharding.use_mesh(one):
      return player.fetch(player(
          params, player.ask((), ()), jax.random.key(1)))

  return call


def sampling(
    model: model_config.ModelConfig, size: Stepping, params: types.Params, *,
    num_rows: int, new_tokens: int, stop_ids: tuple[int, ...] = (),
) -> Callable[[], list[decode.Generation]]:
  """`decode.generate` of all trajectories, `num_rows` at a time; NumPy."""
  one = mesh()
  generate = jax.jit(functools.partial(
      decode.generate, model, max_new_tokens=new_tokens,
      sampling=decode.Sampling(temperature=1.0), eos_ids=stop_ids))
  with sharding.use_mesh(one):
    params = jax.device_put(params, sharding.replicated(one))
    tokens_NxP = np.repeat(prompts(model, size), size.samples, axis=0)
    lengths = np.full(num_rows, size.prompt, np.int32)
    batches = [
        sharding.put_batch(
            (tokens_NxP[i:i + num_rows], lengths,
             np.arange(i, i + num_rows, dtype=np.int32)), one)
        for i in range(0, size.rows, num_rows)]

  def call():
    with sharding.use_mesh(one):
      return jax.device_get([
          generate(params, tokens, lengths, jax.random.key(1), row_ids_B=ids)
          for tokens, lengths, ids in batches])

  return call


def with_stops(
    model: model_config.ModelConfig, params: types.Params, size: Stepping,
    stop_id: int, mean_length: float,
) -> types.Params:
  """Weights under which texts end at random, after so many tokens on average.

  All embeddings get the same large first channel, which hardly changes along
  the trunk and adds the same to all logits; that of `stop_id` is larger by what
  makes it as likely as wanted. Embeddings must be tied.
  """
  embedding_VxD = params['embedder']['embedding'].at[:, 0].set(1.0)
  change = lambda x: params | {'embedder': params['embedder'] | {
      'embedding': x}}
  params = change(embedding_VxD)
  hidden = jax.jit(functools.partial(transformer.hidden, model))(
      params, jnp.asarray(prompts(model, size)))
  odds = (model.vocab_size - 1) / (mean_length - 1)
  gain = math.log(odds) / float(jnp.mean(hidden[..., 0]))
  return change(embedding_VxD.at[stop_id, 0].add(gain))
