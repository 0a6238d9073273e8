# SPDX-License-Identifier: Apache-2.0
"""What the runs of the stage `rl` share: problems, the start, how to play."""

from collections.abc import Sequence
import dataclasses
import sys

from etils import epath
import jax
import numpy as np
import optax

from data_pipelines import store
from data_pipelines import tokenizer as tokenizer_lib
from meta_cot import config as config_lib
from meta_cot import experiment as experiment_lib
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import types
from meta_cot.rl import episodes
from meta_cot.rl import judge as judge_lib
from meta_cot.rl import player as player_lib
from meta_cot.rl import settings as rl_settings
from meta_cot.stages import sft
from meta_cot.tasks import base
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib

_HELDOUT = 'heldout_numbers'


@dataclasses.dataclass(frozen=True)
class Material:
  """What the runs of an experiment share."""

  experiment: experiment_lib.Experiment
  mesh: jax.sharding.Mesh
  tokenizer: tokenizer_lib.Tokenizer
  task: base.Task
  train: Sequence[base.Problem]
  heldout: Sequence[base.Problem]
  start: types.Params
  width: int  # of prompts

  @classmethod
  def of(cls, experiment, workdir, mesh) -> 'Material':
    """Reads it.

    Raises:
      ConfigError: the start was not trained.
    """
    config = experiment.rl
    if config.start not in experiment.arms:
      raise config_lib.ConfigError(
          f'config.rl.start: got {config.start!r}; must be one of config.arms, '
          f'{", ".join(experiment.arms)}.')
    tokenizer = tokenizer_lib.load(workdir / 'tokenizer' / 'tokenizer.model')
    read = lambda split, limit: [
        source[i].problem for source in [store.read(workdir / 'traces', split)]
        for i in range(min(len(source), limit))]
    train, heldout = (
        read('train', sys.maxsize), read(_HELDOUT, config.num_eval_problems))
    _, start = sft.restore(experiment, workdir / 'sft' / config.start, mesh)
    return cls(
        experiment, mesh, tokenizer, tasks.make('countdown'), train, heldout,
        start, player_lib.prompt_width(
            tokenizer, [*train, *heldout], experiment.data.style,
            config.discount_prompts))

  @property
  def judge(self) -> judge_lib.Judge:
    return judge_lib.Judge(
        self.task, self.tokenizer, self.experiment.data.style)

  def player(self, rules: episodes.Episodes, num_samples: int):
    """Plays with these rules.

    Raises:
      ConfigError: a trajectory does not fit the model.
    """
    config, model = self.experiment.rl, self.experiment.model
    if self.width + rules.row_length > model.max_length:
      raise config_lib.ConfigError(
          f'config.rl.episode_length: got {rules.episode_length}; '
          f'{rules.row_length} tokens of a trajectory after prompts of '
          f'{self.width} must be at most config.model.max_length, '
          f'{model.max_length}.')
    up = lambda number: up_to_parts(number, self.mesh)
    return player_lib.Player(
        model, self.tokenizer, self.mesh, rules=rules,
        style=self.experiment.data.style, width=self.width,
        num_questions=up(config.num_questions), num_samples=num_samples,
        num_slots=up(config.num_slots))


class Evaluation:
  """Success on held-out problems, episode by episode."""

  def __init__(
      self, material: Material, rules: episodes.Episodes,
      num_samples: int | None = None,
  ):
    """Compiles nothing; `num_eval_samples` trajectories a problem by default.
    """
    self._material = material
    self._player = material.player(
        rules, num_samples or material.experiment.rl.num_eval_samples)
    self._rng = jax.random.fold_in(
        jax.random.key(material.experiment.seed), 2**31 - 1)

  def play(self, params: types.Params) -> judge_lib.Judged:
    """Verdicts on all held-out problems, G trajectories of each in turn."""
    problems, count = self._material.heldout, self._player.num_questions
    parts = []
    for start in range(0, len(problems), count):
      some = problems[start:start + count]
      asked = self._player.ask(some, list(range(start, start + len(some))))
      host = self._player.fetch(self._player(params, asked, self._rng))
      judged = self._material.judge([*some, *some[:1] * (count - len(some))],
                                    host)
      rows = len(some) * self._player.num_samples
      parts.append(jax.tree.map(
          lambda x, rows=rows: x[:rows], dataclasses.asdict(judged)))
    return judge_lib.Judged(**jax.tree.map(
        lambda *x: np.concatenate(x), *parts))

  def __call__(self, params: types.Params) -> dict[str, float]:
    judged = self.play(params)
    rewards = judged.rewards
    return {
        f'heldout/episode_{e + 1}': float(rewards[:, e].mean())
        for e in range(rewards.shape[1])} | {
            'heldout/success': float(rewards[:, -1].mean()),
            'heldout/tokens': float(judged.num_tokens.sum(axis=1).mean())}


def up_to_parts(number: int, mesh: jax.sharding.Mesh) -> int:
  """The next multiple of the parts that a batch is split into."""
  parts = sharding.data_parallelism(mesh)
  return -(-number // parts) * parts


def folder(workdir: epath.Path, objective: str, seed: int) -> epath.Path:
  """Where a run leaves its files."""
  return workdir / 'rl' / objective / f'seed{seed}'


def update(config: rl_settings.RlConfig) -> optax.GradientTransformation:
  """The optimiser of a run."""
  return optimizer.make(
      config.optimizer, config.num_iterations * config.updates_per_iteration())


def abstract(experiment, mesh) -> state_lib.TrainState:
  """Shapes and shardings of a run's state."""
  return state_lib.shardings(
      sft.init_fn(experiment), update(experiment.rl), mesh)[0]
