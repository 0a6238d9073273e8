# SPDX-License-Identifier: Apache-2.0
"""One experiment: every group of settings, typed and checked together."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from data_pipelines import arms
from data_pipelines import pipelines
from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.rl import settings as rl_settings
from meta_cot.settings import config as config_lib
from meta_cot.solvers import searching
from meta_cot.tasks import base
from meta_cot.training import checkpoint as checkpoint_lib
from meta_cot.training import loop
from meta_cot.training import optimizer

STAGES = (
    'problems', 'generate_traces', 'train_tokenizer', 'sft', 'evaluate',
    'search', 'rl')
_NUM_FIRST = 64  # problems of a split that stand for all of them


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """Which task it is, and its own settings."""

  kind: str
  settings: Any  # of the class `tasks.settings_of(kind)`

  def make(self, seed: int) -> base.Task:
    """Makes the task with its problems."""
    return tasks.make(self.kind, self.settings, seed)

  def arguments(self) -> dict[str, Any]:
    """What its problems depend on besides the seed, as JSON values."""
    return {'task': self.kind, **dataclasses.asdict(self.settings)}


@dataclasses.dataclass(frozen=True)
class ProblemsConfig:
  """How the writing of problems is cut."""

  num_shards: int = config_lib.setting(low=1)
  num_processes: int = config_lib.setting(is_free=True, low=1)


@dataclasses.dataclass(frozen=True)
class TracesConfig:
  """Which searches are written out, and how the work is cut."""

  strategies: str = config_lib.setting()  # of the task's teacher
  num_shards: int = config_lib.setting(low=1)
  num_processes: int = config_lib.setting(is_free=True, low=1)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What the evaluation decodes."""

  num_problems: int = config_lib.setting(low=1)
  num_curve_problems: int = config_lib.setting(low=1)
  batch_size: int = config_lib.setting(low=1)
  max_new_tokens: int = config_lib.setting(low=1)
  num_samples: int = config_lib.setting(low=1)
  num_trace_samples: int = config_lib.setting(low=1)
  temperature: float = config_lib.setting(above=0.0)
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)


def _parse_task(values: Mapping[str, Any], path: str) -> TaskConfig:
  """Reads the group by its `kind`."""
  values = dict(values)
  kind = values.pop('kind', None)
  if not isinstance(kind, str):
    raise config_lib.ConfigError(
        f'{path}.kind: got {kind!r}; must be the name of a task.')
  return TaskConfig(
      kind, config_lib.parse(tasks.settings_of(kind), values, path))


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All settings of a run; see `configs/base.py` for what each one means."""

  seed: int = config_lib.setting(low=0)
  stages: tuple[str, ...] = config_lib.setting(
      choices=STAGES, min_items=1, is_unique=True, is_free=True)
  compilation_cache: str = config_lib.setting(is_free=True)
  arms: tuple[str, ...] = config_lib.setting(  # each trains alone
      choices=tuple(arms.ARMS), min_items=1, is_unique=True, is_free=True)
  mesh: sharding.MeshConfig = config_lib.setting(is_free=True)
  model: model_config.ModelConfig
  task: TaskConfig = config_lib.group(_parse_task)
  problems: ProblemsConfig
  traces: TracesConfig
  tokenizer: Any = config_lib.group(tokenizers.parse)
  data: pipelines.DataConfig
  optimizer: optimizer.OptimizerConfig
  train: loop.TrainConfig
  checkpoint: checkpoint_lib.CheckpointConfig = config_lib.setting(is_free=True)
  evaluation: EvaluationConfig = config_lib.setting(is_free=True)
  search: searching.SearchConfig = config_lib.setting(is_free=True)
  rl: rl_settings.RlConfig = config_lib.setting(is_free=True)

  def __post_init__(self):
    if self.data.sequence_length > self.model.max_length:
      raise config_lib.ConfigError(
          f'data.sequence_length: got {self.data.sequence_length}; must be at '
          f'most config.model.max_length, {self.model.max_length}.')
    teacher = tasks.make(self.task.kind).teacher
    if teacher is not None and self.traces.strategies not in teacher.strategies:
      raise config_lib.ConfigError(
          f'traces.strategies: got {self.traces.strategies!r}; must be one of '
          f'{", ".join(teacher.strategies)}.')
    if (self.tokenizer.vocab_size or 0) > self.model.vocab_size:
      raise config_lib.ConfigError(
          f'tokenizer.vocab_size: got {self.tokenizer.vocab_size}; must be at '
          f'most config.model.vocab_size, {self.model.vocab_size}.')
    if self.train.batch_size % self.train.num_accumulation:
      raise config_lib.ConfigError(
          f'train.batch_size: got {self.train.batch_size}; must be divisible '
          'by config.train.num_accumulation, '
          f'{self.train.num_accumulation}.')
    if self.data.sequence_length % self.train.num_loss_chunks:
      raise config_lib.ConfigError(
          f'train.num_loss_chunks: got {self.train.num_loss_chunks}; must '
          'divide config.data.sequence_length, '
          f'{self.data.sequence_length}.')
    if self.train.batch_size % self.data.num_streams:
      raise config_lib.ConfigError(
          f'data.num_streams: got {self.data.num_streams}; must divide '
          f'config.train.batch_size, {self.train.batch_size}.')


def parse(config: Mapping[str, Any]) -> Experiment:
  """Builds the typed experiment from an ml_collections config.

  Raises:
    ConfigError: names the field, what was received and what is allowed.
  """
  return config_lib.parse(Experiment, config)


@functools.lru_cache(maxsize=8)
def first_problems(task: TaskConfig, seed: int) -> tuple[Problem, ...]:
  """The first problems of every split: for shapes, before any are stored."""
  made = task.make(seed)
  return tuple(
      problem for split in made.splits
      for problem in made.problems(split, 0, _NUM_FIRST))


def rows_per_device(experiment: Experiment, mesh) -> int:
  """Sequences that one device holds at once.

  Raises:
    ConfigError: the batch does not divide over devices and accumulation, or
      the streams of data do not over hosts.
  """
  _, num_hosts = sharding.host_share(mesh)
  if experiment.data.num_streams % num_hosts:
    raise config_lib.ConfigError(
        f'config.data.num_streams: got {experiment.data.num_streams}; must be '
        f'a multiple of {num_hosts}, the hosts that read data.')
  parts = sharding.data_parallelism(mesh) * experiment.train.num_accumulation
  if experiment.train.batch_size % parts:
    raise config_lib.ConfigError(
        f'config.train.batch_size: got {experiment.train.batch_size}; must be '
        f'divisible by {parts} = {sharding.data_parallelism(mesh)} '
        f'data-parallel devices x {experiment.train.num_accumulation} '
        'accumulation.')
  return experiment.train.batch_size // parts


def bytes_on_disk(experiment: Experiment) -> int:
  """Roughly what the checkpoints that a run keeps need.

  Parameters and two moments in float32, for every arm; where all are kept, two
  of each count.
  """
  kept = experiment.checkpoint.max_to_keep or 2
  return 12 * experiment.model.num_params() * len(experiment.arms) * kept
