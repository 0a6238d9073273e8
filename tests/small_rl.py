# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning of a random model in seconds, for tests.

Everything is what the stage uses, but for the verdicts: those of a random
model would all be wrong, so an attempt is right where its tokens add up to an
odd number (`Parity`).
"""

import dataclasses
import functools
from typing import Any

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np

from configs import base as base_config
from data_pipelines import tokenizers
from data_pipelines.tokenizers import sentencepiece
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.rl import learner as learner_lib
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import settings as settings_lib
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import rl
from meta_cot.stages import rl_material
from meta_cot.stages import sft
from meta_cot.tasks import countdown
from meta_cot.training import state as state_lib

PROBLEMS = tuple(
    countdown.make_problem([a, b], a + b) for a in (2, 5, 9) for b in (3, 4, 8))
RESET, GIVE_UP = ',', 'x'
_MODEL = dict(
    vocab_size=40, num_layers=1, embed_dim=16, num_heads=4, num_kv_heads=2,
    head_dim=4, mlp_dim=32, max_length=64)
_RL = dict(
    num_iterations=4, num_questions=4, num_samples=4, num_slots=8,
    num_episodes=3, episode_length=5, reset=RESET, give_up=GIVE_UP,
    temperature=0.8, top_k=16, num_rollouts=2, rest=0, eval_every=2,
    num_eval_problems=4, num_eval_samples=2, save_every=2)
# The first update counts, and rounding of small gradients does not show.
_OPTIMIZER = dict(warmup_steps=0, epsilon=1e-2, learning_rate=1e-2)


@functools.cache
def tokenizer() -> tokenizers.Tokenizer:
  """One token per character."""
  return sentencepiece.train(
      ['5,17,1>23:5-1=4,17;+21@0;S5+1=6,17+6=23*/!x'], 40, 9)


def experiment(
    search: dict[str, Any] | None = None, **changes: Any
) -> experiment_lib.Experiment:
  """The base experiment made small, with changes of `config.rl`.

  Args:
    search: changes of `config.search`.
    **changes: of `config.rl`.
  """
  config = base_config.get_config()
  config.arms = ('revisions',)
  config.model.update(_MODEL)
  config.data.sequence_length = 64
  config.tokenizer.vocab_size = 40
  config.rl.optimizer.update(_OPTIMIZER)
  config.search.update(search or {})
  config.rl.update(_RL | changes)
  return experiment_lib.parse(config)


def settings(**changes: Any) -> settings_lib.RlConfig:
  return experiment(**changes).rl


def parameters(model) -> Any:
  """Random everywhere, so that no part of the model does nothing."""
  shapes = jax.eval_shape(
      lambda rng: sft.transformer.init(model, rng), jax.random.key(0))
  noise = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: jnp.asarray(0.5 * noise.standard_normal(x.shape), x.dtype),
      meta.unbox(shapes))


def material(
    settled: experiment_lib.Experiment, axes: tuple[int, int, int]
) -> rl_material.Material:
  """What the runs of an experiment share, on so many devices."""
  mesh = sharding.make_mesh(
      sharding.MeshConfig(*axes), jax.devices()[:int(np.prod(axes))])
  _, placed = state_lib.shardings(
      sft.init_fn(settled), rl_material.update(settled.rl), mesh)
  return _Material(
      settled, mesh, tokenizer(), tasks.make('countdown'), PROBLEMS,
      PROBLEMS[:4], PROBLEMS[:4],
      jax.device_put(parameters(settled.model), placed.params),
      player_lib.prompt_width(
          tokenizer(), PROBLEMS, settled.data.style,
          settled.rl.discount_prompts))


@dataclasses.dataclass(frozen=True)
class Parity:
  """The real judge, with another opinion of what is right."""

  judge: judge_lib.Judge

  def __call__(self, problems, rollouts: episodes.Rollouts):
    judged = self.judge(problems, rollouts)
    rewards = np.zeros_like(judged.rewards)
    for n, e in np.argwhere(judged.is_taken):
      tokens = attempt(rollouts, n, e)
      rewards[n, e] = tokens.sum() % 2
    return dataclasses.replace(judged, rewards=rewards)


def attempt(rollouts: episodes.Rollouts, n: int, e: int) -> np.ndarray:
  """The tokens that trajectory n drew in episode e; NumPy."""
  per_row = len(rollouts.tokens) // len(rollouts.starts)
  row = rollouts.tokens[n * per_row + (e if per_row > 1 else 0)]
  return row[rollouts.starts[n, e]:rollouts.ends[n, e]]


class _Material(rl_material.Material):
  """The real one, but for what is right."""

  @property
  def judge(self) -> Parity:
    return Parity(super().judge)


class Run:
  """A policy in training, that remembers what its programs were called with.
  """

  def __init__(self, objective='erl2', axes=(1, 1, 1), seed=0, **changes):
    self.experiment = experiment(**changes)
    self.material = material(self.experiment, axes)
    with self.mesh:
      made, self.evaluate = rl.make_learner(
          self.experiment, self.material, objective, seed)
    self.batches, self.calls = [], []
    self.learner = dataclasses.replace(
        made, prepare=self._prepare, update=self._update)
    self._made = made

  @property
  def mesh(self):
    """A context: the devices in use."""
    return sharding.use_mesh(self.material.mesh)

  def state(self) -> state_lib.TrainState:
    """A new one, with a copy of the start's parameters."""
    made = state_lib.create(
        sft.init_fn(self.experiment), rl_material.update(self.experiment.rl),
        self.material.mesh, jax.random.key(0))
    return made.replace(
        params=jax.tree.map(jnp.copy, self.material.start))

  def memory(self, seed: int = 0) -> questions_lib.Memory:
    config = self.experiment.rl
    return questions_lib.Memory(
        questions_lib.Questions(
            len(PROBLEMS), seed=seed, min_success=config.min_success,
            max_success=config.max_success, rest=config.rest),
        config.kl_coefficient)

  def iterate(self, number=1, state=None, memory=None, first=0):
    """Does some iterations: (state, rows of metrics)."""
    state, memory = state or self.state(), memory or self.memory()
    rows = []
    with self.mesh:
      for iteration in range(first, first + number):
        state, row = self.learner.iterate(state, memory, iteration)
        rows.append(row)
    return state, rows

  def prepare(self, *args):
    """The real program: (batch, is_flat)."""
    with self.mesh:
      return self._made.prepare(*args)

  def _prepare(self, *args):
    # The parameters are donated to the update behind it.
    self.calls.append((jax.tree.map(jnp.copy, args[0]), *args[1:]))
    return self._made.prepare(*args)

  def _update(self, state, batch, minibatch, kl_coefficient):
    self.batches.append(batch)
    return self._made.update(state, batch, minibatch, kl_coefficient)


def rules(run: Run) -> episodes.Episodes:
  """Of the run's trajectories."""
  return learner_lib.rules(
      run.experiment.rl, run.learner.objective, tokenizer())
