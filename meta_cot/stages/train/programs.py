# SPDX-License-Identifier: Apache-2.0
"""Settings of supervised training, and what it compiles."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from data_pipelines import arms
from data_pipelines import examples
from meta_cot import program
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.traces import format as format_lib
from meta_cot.training import flops
from meta_cot.training import objective as objective_lib
from meta_cot.training import optimizer
from meta_cot.training import part as part_lib
from meta_cot.training import policy as policy_lib
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib

_setting = config_lib.setting


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of supervised training."""

  objective: str = _setting(choices=tuple(objective_lib.OBJECTIVES))
  records: str = _setting()
  tokenizer: str = _setting()
  style: str | None = _setting(choices=tuple(format_lib.STYLES))
  start: str | None = _setting()
  arms: tuple[str, ...] = _setting(
      choices=tuple(arms.ARMS), is_unique=True, is_free=True)
  seeds: tuple[int, ...] = _setting(low=0, is_unique=True, is_free=True)
  num_tokens: int | None = _setting(low=1, high=10**18, is_free=True)
  num_examples: int | None = _setting(low=1, is_free=True)
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
    if self.start is not None and self.style is not None:
      raise config_lib.ConfigError(
          f'style: got {self.style!r} with start {self.start!r}; must be None, '
          'as a policy keeps its style.')
    if self.start is None and self.trained.has_base:
      raise config_lib.ConfigError(
          f'optimizer.trained.part: got {self.trained.part!r} with start None; '
          'name in start the policy that the rest is of.')
    if self.has_reference and (
        self.start is None or self.trained.part == 'value_head'):
      raise config_lib.ConfigError(
          f'objective: got {self.objective!r} with start {self.start!r} and '
          f'optimizer.trained.part {self.trained.part!r}; it needs a policy to '
          'go on from, and all or lora of it.')
    if not self.arms:
      raise config_lib.ConfigError('arms: got nothing; name at least one arm.')
    if (self.num_tokens is None) == (self.num_examples is None):
      raise config_lib.ConfigError(
          f'num_tokens: got {self.num_tokens} with num_examples '
          f'{self.num_examples}; one of them must be set, the other None.')
    most = optimizer.MAX_STEPS * self.batch_size * self.data.sequence_length
    if (self.num_tokens or 0) > most:
      raise config_lib.ConfigError(
          f'num_tokens: got {self.num_tokens}; must be at most {most}, those '
          f'of {optimizer.MAX_STEPS} steps.')
    for field, whole, divisor in (
        ('batch_size', 'batch_size', 'num_accumulation'),
        ('num_loss_chunks', 'data.sequence_length', 'num_loss_chunks'),
        ('data.num_streams', 'batch_size', 'data.num_streams')):
      number, part = self._value(whole), self._value(divisor)
      if number % part:
        raise config_lib.ConfigError(
            f'{field}: got {self._value(field)}; {divisor}, {part}, must '
            f'divide {whole}, {number}.')

  @property
  def trained(self) -> part_lib.Part:
    """What of the policy is trained."""
    return self.optimizer.trained

  @property
  def has_reference(self) -> bool:
    """Whether the start stays beside what is trained."""
    return self.objective in objective_lib.WITH_REFERENCE

  @property
  def has_rest(self) -> bool:
    """Whether a step needs parameters that it does not train."""
    return self.has_reference or self.trained.has_base

  def rest(self, start: types.Params) -> types.Params:
    """Returns what of a start a step needs besides the state, not donated."""
    base = self.trained.base(start)
    if not self.has_reference:
      return base
    trained = {key: x for key, x in start.items() if key not in base}
    return dict(base=base, reference=base | jax.tree.map(_copied, trained))

  @property
  def num_passes(self) -> float:
    """What a step costs, in forward passes."""
    return self.trained.num_passes + self.has_reference

  @property
  def amount(self) -> tuple[str, int]:
    """The setting that says how much is trained, and its value."""
    if self.num_tokens is None:
      return 'num_examples', self.num_examples
    return 'num_tokens', self.num_tokens

  @property
  def runs(self) -> dict[str, tuple[str, int | None]]:
    """The policies: ARM, or ARM/seedN for several -> arm and seed.

    The seed None is that of the experiment.
    """
    if not self.seeds:
      return {arm: (arm, None) for arm in self.arms}
    return {
        f'{arm}/seed{seed}': (arm, seed)
        for arm in self.arms for seed in self.seeds}

  def _value(self, name: str) -> int:
    return functools.reduce(getattr, name.split('.'), self)


def check(context: base.Context, settings: Settings, name: str) -> None:
  """Raises a ConfigError for what training would refuse."""
  length, most = (
      settings.data.sequence_length, context.shared.model.max_length)
  if settings.start is None and length > most:
    raise base.wrong(
        name, 'data.sequence_length', f'got {length}; must be at most '
        f'config.model.max_length, {most}.')
  if settings.objective in objective_lib.WITH_VALUES and (
      _model(context, settings).value_head == 'none'):
    raise base.wrong(
        name, 'objective', f'got {settings.objective!r}; the model has no '
        "value head: set config.model.value_head to 'shared'.")
  for arm in settings.arms:
    style = settings.style or context.shared.style
    styles = arms.ARMS[arm].styles
    if style not in styles:
      raise base.wrong(
          name, 'arms', f'got {arm!r} with style {style!r}; it is written in '
          f'{" or ".join(styles)}.')
    if settings.objective in objective_lib.OF_STATES and (
        not arms.ARMS[arm].is_attempt):
      raise base.wrong(
          name, 'arms', f'got {arm!r} with objective {settings.objective!r}, '
          'which learns from single attempts; must be some of '
          f'{", ".join(k for k, v in arms.ARMS.items() if v.is_attempt)}.')


def check_devices(
    context: base.Context, settings: Settings, name: str) -> None:
  """Raises a ConfigError where rows or streams do not divide.

  The rows over devices and accumulation, the streams of data over hosts.
  """
  _, num_hosts = sharding.host_share(context.mesh)
  num_streams = settings.data.num_streams
  if num_streams % num_hosts:
    raise base.wrong(
        name, 'data.num_streams', f'got {num_streams}; must be a multiple of '
        f'{num_hosts}, the hosts that read data.')
  devices = sharding.data_parallelism(context.mesh)
  parts = devices * settings.num_accumulation
  if settings.batch_size % parts:
    raise base.wrong(
        name, 'batch_size', f'got {settings.batch_size}; must be divisible by '
        f'{parts} = {devices} data-parallel devices x '
        f'{settings.num_accumulation} accumulation.')


def num_bytes(shared: base.Shared, settings: Settings) -> int:
  """Estimates parameters and two moments in float32, for every run.

  Where all checkpoints are kept, two of each count. What has a base is small.
  """
  if settings.trained.has_base:
    return 0
  kept = settings.max_to_keep or 2
  return 12 * shared.model.num_params() * len(settings.runs) * kept


@dataclasses.dataclass(frozen=True)
class Programs:
  """The jitted functions of a run, and what they are called with."""

  settings: Settings
  model: model_config.ModelConfig
  mesh: jax.sharding.Mesh
  num_steps: int  # of the run; a constant of the learning rate

  @functools.cached_property
  def start(self) -> tuple[
      Callable, optax.GradientTransformation, jax.sharding.Mesh]:
    """What functions of `training.state` want."""
    return (
        functools.partial(self.settings.trained.init, self.model),
        optimizer.make(self.settings.optimizer, self.num_steps), self.mesh)

  @functools.cached_property
  def state(self) -> state_lib.TrainState:
    """Shapes and shardings."""
    return state_lib.shardings(*self.start)[0]

  @functools.cached_property
  def base(self) -> types.Params:
    """The same of the parameters that are not trained; see `Settings.rest`."""
    return self.settings.rest(policy_lib.abstract(self.model, self.mesh))

  def jit_train_step(self) -> Callable[..., tuple[state_lib.TrainState, dict]]:
    """Jits (state, batch, base) -> (state, metrics); the state is donated."""
    step = step_lib.make_train_step(
        self._loss(), self.start[1],
        optimizer.schedule(self.settings.optimizer, self.num_steps),
        self.settings.num_accumulation)
    placed = _shardings(self.state)
    return jax.jit(
        step, in_shardings=(
            placed, sharding.batch(self.mesh), _shardings(self.base)),
        out_shardings=(placed, sharding.replicated(self.mesh)),
        donate_argnames=('state',))

  def jit_loss_sums(self) -> Callable:
    """Jits (params, batch, base) -> totals of the objective."""
    return jax.jit(
        self._loss(), in_shardings=(
            _shardings(self.state.params), sharding.batch(self.mesh),
            _shardings(self.base)),
        out_shardings=sharding.replicated(self.mesh))

  def _loss(self) -> Callable:
    settings = self.settings
    loss = functools.partial(
        objective_lib.OBJECTIVES[settings.objective].loss, self.model,
        num_chunks=settings.num_loss_chunks)
    whole = settings.trained.whole
    if settings.has_reference:
      return lambda params, batch, rest: loss(
          whole(rest['base'], params), batch, reference=rest['reference'],
          beta=settings.data.pairs.beta)
    return lambda params, batch, base: loss(whole(base, params), batch)

  # What they are called with.

  def init(self) -> program.Program:
    """The first state."""
    rng = jax.eval_shape(lambda: jax.random.key(0))
    return program.Program(
        'init', state_lib.jit_create(*self.start),
        (program.placed(rng, self.mesh),), {}, 0.0, 0)

  def train_step(self) -> program.Program:
    """One update."""
    return self._program(
        'train_step', self.jit_train_step(), self.state,
        flops.training_flops_per_token(
            self.model, self.settings.data.sequence_length,
            self.settings.num_passes))

  def eval_loss(self) -> program.Program:
    """The loss on a batch of validation."""
    return self._program(
        'eval_loss', self.jit_loss_sums(), self.state.params,
        self.model.flops_per_token(self.settings.data.sequence_length / 2))

  def _program(
      self, name: str, jitted: Callable, first: Any, flops_per_token: float
  ) -> program.Program:
    """One that reads a batch behind its first argument."""
    shape = self.settings.batch_size, self.settings.data.sequence_length
    ints = program.rows(shape, jnp.int32, self.mesh)
    floats = program.rows(shape, jnp.float32, self.mesh)
    batch = types.Batch(
        tokens=ints, targets=ints, positions=ints, segment_ids=ints,
        loss_mask=floats)
    if self.settings.objective in objective_lib.WITH_VALUES:
      batch = batch.replace(
          value_targets=floats, value_weights=floats, value_offsets=floats)
    return program.Program(
        name, jitted, (first, batch, self.base), {},
        flops_per_token * ints.size, ints.size)


def programs(context: base.Context, settings: Settings) -> base.Programs:
  """Lists what a run with full rows compiles."""
  model = _model(context, settings)
  tokens = settings.batch_size * settings.data.sequence_length
  # Of examples, at least one is in a row.
  number = settings.num_tokens or settings.num_examples * tokens
  made = Programs(
      settings, model, context.mesh, max(1, number // tokens))
  return dict(
      init=made.init, train_step=made.train_step, eval_loss=made.eval_loss)


def _model(
    context: base.Context, settings: Settings) -> model_config.ModelConfig:
  """That of the policy that it starts from, if it does."""
  if settings.start is None:
    return context.shared.model
  return context.planned(settings.start).model


def _copied(x: jax.Array | jax.ShapeDtypeStruct) -> Any:
  """A copy of an array; a shape is its own."""
  return x if isinstance(x, jax.ShapeDtypeStruct) else jnp.copy(x)


def _shardings(tree: Any) -> Any:
  return jax.tree.map(lambda x: x.sharding, tree)
