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
import ml_collections
import numpy as np

from configs import countdown as countdown_config
from configs import kinds
from data_pipelines import tokenizers
from data_pipelines.tokenizers import sentencepiece
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rl import qstar
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import settings as settings_lib
from meta_cot.rl import setup as setup_lib
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import rl
from meta_cot.tasks import countdown
from meta_cot.traces.arithmetic import teacher
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
  """A stage `rl` behind a start that nobody trained.

  Args:
    search: changes of `config.rl.search`.
    **changes: of `config.rl` or of its other groups.
  """
  config = countdown_config.pipeline()
  config.model.update(_MODEL)
  config.task.update(dict(
      num_numbers=2, max_number=9, min_target=2, max_target=20))
  config.tokenizer.vocabulary.vocab_size = 40
  config.sft.arms = ('revisions',)
  config.rl = kinds.rl()
  config.rl.optimizer.update(_OPTIMIZER)
  config.rl.search.update(search or {})
  change(config.rl, **_RL | changes)
  config.stages = ('rl',)
  return experiment_lib.parse(config)


def change(config: ml_collections.ConfigDict, **changes: Any) -> None:
  """Sets keys of `config.rl` or of its groups but that of a search."""
  for key, value in changes.items():
    found = [config] * (key in config) + [
        group for name, group in config.items()
        if isinstance(group, ml_collections.ConfigDict)
        and name != 'search' and key in group]
    (group,) = found
    group[key] = value


def settings(**changes: Any) -> settings_lib.RlConfig:
  return of(experiment(**changes))


def of(settled: experiment_lib.Experiment) -> settings_lib.RlConfig:
  """Its settings of stage `rl`."""
  return settled.groups['rl'].settings


def changed(
    config: settings_lib.RlConfig, **changes: Any) -> settings_lib.RlConfig:
  """The same settings, with changes in its groups."""
  values = ml_collections.ConfigDict(dataclasses.asdict(config))
  change(values, **changes)
  return config_lib.parse(settings_lib.RlConfig, values, 'config.rl')


def parameters(model) -> Any:
  """Random everywhere, so that no part of the model does nothing."""
  shapes = jax.eval_shape(
      lambda rng: transformer.init(model, rng), jax.random.key(0))
  noise = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: jnp.asarray(0.5 * noise.standard_normal(x.shape), x.dtype),
      meta.unbox(shapes))


def setup(
    settled: experiment_lib.Experiment, axes: tuple[int, int, int]
) -> setup_lib.Setup:
  """What the runs of an experiment share, on so many devices."""
  context = context_of(settled, axes)
  model, style = context.shared.model, context.shared.style
  made = rl.make_programs(
      context, of(settled), base.Planned(
          model, style, tokenizer(), is_there=True), PROBLEMS)
  solutions = of(settled).questions.solutions and qstar.read(
      [teacher.search(p, teacher.COMPACT, 0) for p in PROBLEMS], PROBLEMS,
      tokenizer(), style, of(settled).questions.solution_length, 'records',
      context.mesh)
  return _Setup(
      made, PROBLEMS, PROBLEMS[:4], jax.device_put(
          parameters(model), jax.tree.map(
              lambda x: x.sharding, made.start)), context.seed, solutions)


def context_of(
    settled: experiment_lib.Experiment, axes: tuple[int, int, int]
) -> base.Context:
  """That of its stages, on so many devices."""
  return base.Context(settled.shared, settled.groups, sharding.make_mesh(
      sharding.MeshConfig(*axes), jax.devices()[:int(np.prod(axes))]))


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


class _Setup(setup_lib.Setup):
  """The real one, but for what is right."""

  @property
  def judge(self) -> Parity:
    return Parity(super().judge)


class Run:
  """A policy in training, that remembers what its programs were called with.
  """

  def __init__(self, objective='erl2', axes=(1, 1, 1), seed=0, **changes):
    self.experiment = experiment(**changes)
    self.setup = setup(self.experiment, axes)
    self.programs = self.setup.programs.of(objective)
    with self.mesh:
      made = self.setup.learner(objective, seed)
      self.evaluate = setup_lib.Evaluation(self.setup, self.programs)
    self.batches, self.calls = [], []
    self.learner = dataclasses.replace(
        made, prepare=self._prepare, update=self._update)
    self._made = made

  @property
  def settings(self) -> settings_lib.RlConfig:
    return of(self.experiment)

  @property
  def model(self) -> model_config.ModelConfig:
    return self.experiment.shared.model

  @property
  def mesh(self):
    """A context: the devices in use."""
    return sharding.use_mesh(self.devices)

  @property
  def devices(self) -> jax.sharding.Mesh:
    return self.setup.programs.mesh

  def state(self) -> state_lib.TrainState:
    """A new one, with a copy of the start's parameters."""
    return self.setup.state(0)

  def memory(self, seed: int = 0) -> questions_lib.Memory:
    config = self.settings
    return questions_lib.Memory(
        questions_lib.Questions(
            len(PROBLEMS), seed=seed, min_success=config.questions.min_success,
            max_success=config.questions.max_success,
            rest=config.questions.rest), config.loss.kl_coefficient)

  def iterate(self, number=1, state=None, memory=None, first=0):
    """Does some iterations: (state, rows of metrics)."""
    state, memory = state or self.state(), memory or self.memory()
    rows = []
    with self.mesh:
      for iteration in range(first, first + number):
        state, row = self.learner.iterate(state, memory, iteration)
        rows.append(row)
    return state, rows

  def updates_compiled(self) -> int:
    """For how many shapes."""
    return self._made.update._cache_size()

  def prepare(self, *args):
    """The real program: (batch, is_flat)."""
    with self.mesh:
      return self._made.prepare(*args)

  def _prepare(self, *args):
    # The parameters are donated to the update behind it.
    self.calls.append((jax.tree.map(jnp.copy, args[0]), *args[1:]))
    return self._made.prepare(*args)

  def _update(self, state, batch, *rest):
    self.batches.append(batch)
    return self._made.update(state, batch, *rest)
