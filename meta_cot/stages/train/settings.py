# SPDX-License-Identifier: Apache-2.0
"""Settings of supervised training, and what they must divide over."""

import dataclasses
import functools

from data_pipelines import arms
from data_pipelines import examples
from meta_cot import sharding
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.training import objective as objective_lib
from meta_cot.training import optimizer

_setting = config_lib.setting


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of supervised training."""

  objective: str = _setting(choices=tuple(objective_lib.OBJECTIVES))
  records: str = _setting()
  tokenizer: str = _setting()
  start: str | None = _setting()
  arms: tuple[str, ...] = _setting(
      choices=tuple(arms.ARMS), is_unique=True, is_free=True)
  num_tokens: int = _setting(low=1, is_free=True)
  batch_size: int = _setting(low=1)
  num_accumulation: int = _setting(low=1, is_free=True)
  num_loss_chunks: int = _setting(low=1, is_free=True)
  log_every_steps: int = _setting(low=1, is_free=True)
  eval_every_steps: int = _setting(low=1, is_free=True)
  num_eval_batches: int = _setting(low=1, is_free=True)
  save_every_steps: int = _setting(low=1, is_free=True)
  max_to_keep: int | None = _setting(low=1, is_free=True)
  profile_steps: tuple[int, ...] = _setting(low=1, is_free=True)
  data: examples.DataConfig
  optimizer: optimizer.OptimizerConfig

  def __post_init__(self):
    steps = self.profile_steps
    if steps and not (len(steps) == 2 and steps[0] <= steps[1]):
      raise config_lib.ConfigError(
          f'profile_steps: got {steps}; must be the first and the last step '
          'to trace, or empty.')
    if not self.arms:
      raise config_lib.ConfigError('arms: got nothing; name at least one arm.')
    for field, whole, divisor in (
        ('batch_size', 'batch_size', 'num_accumulation'),
        ('num_loss_chunks', 'data.sequence_length', 'num_loss_chunks'),
        ('data.num_streams', 'batch_size', 'data.num_streams')):
      number, part = self._value(whole), self._value(divisor)
      if number % part:
        raise config_lib.ConfigError(
            f'{field}: got {self._value(field)}; {divisor}, {part}, must '
            f'divide {whole}, {number}.')

  def _value(self, name: str) -> int:
    return functools.reduce(getattr, name.split('.'), self)


def check_devices(settings: Settings, name: str, mesh) -> int:
  """Counts the sequences that one device holds at once.

  Raises:
    ConfigError: the batch does not divide over devices and accumulation, or
      the streams of data do not over hosts.
  """
  _, num_hosts = sharding.host_share(mesh)
  num_streams = settings.data.num_streams
  if num_streams % num_hosts:
    raise base.wrong(
        name, 'data.num_streams', f'got {num_streams}; must be a multiple of '
        f'{num_hosts}, the hosts that read data.')
  parts = sharding.data_parallelism(mesh) * settings.num_accumulation
  if settings.batch_size % parts:
    raise base.wrong(
        name, 'batch_size', f'got {settings.batch_size}; must be divisible by '
        f'{parts} = {sharding.data_parallelism(mesh)} data-parallel devices x '
        f'{settings.num_accumulation} accumulation.')
  return settings.batch_size // parts
