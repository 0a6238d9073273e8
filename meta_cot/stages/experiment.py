# SPDX-License-Identifier: Apache-2.0
"""An experiment: shared settings, stages by name, all checked before any work.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax

from meta_cot import sharding
from meta_cot import tasks
from meta_cot.model import config as model_config
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import kinds

SCHEMA = 2  # of a config; an older workdir cannot be continued


@dataclasses.dataclass(frozen=True)
class _Own:
  """What an experiment has besides stages and a task."""

  schema: int = config_lib.setting()
  seed: int = config_lib.setting(low=0)
  style: str = config_lib.setting()
  mesh: sharding.MeshConfig
  model: model_config.ModelConfig
  stages: tuple[str, ...] = config_lib.setting(is_unique=True)
  compilation_cache: str = config_lib.setting()

  def __post_init__(self):
    if not self.compilation_cache:
      raise config_lib.ConfigError(
          "compilation_cache: got ''; must be workdir, off, a path or a "
          'bucket.')
    if not self.stages:
      raise config_lib.ConfigError(
          'stages: got nothing; name at least one stage.')


_OWN = ('task', *(field.name for field in dataclasses.fields(_Own)))


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All settings of a run; `configs/base.py` says what each one means."""

  shared: base.Shared
  stages: tuple[str, ...]  # in the order in which they run
  compilation_cache: str
  groups: Mapping[str, base.Group]

  def chosen(
      self, names: tuple[str, ...] | None = None) -> tuple[base.Group, ...]:
    """Picks groups of stages, in the order of the run; all by default.

    Raises:
      ConfigError: a name of no stage.
    """
    for name in names or ():
      if name not in self.stages:
        raise config_lib.ConfigError(
            f'--stages: got {name!r}; '
            f'{config_lib.nearest(name, self.stages)}.')
    return tuple(
        self.groups[name] for name in self.stages
        if names is None or name in names)

  def check_devices(self, mesh: jax.sharding.Mesh) -> None:
    """Raises a ConfigError where work does not divide over the devices."""
    context = base.Context(self.shared, self.groups, mesh)
    for group in self.chosen():
      group.stage.check_devices(context, group.settings, group.name)

  def num_bytes(self) -> int:
    """Estimates what all checkpoints need on disk."""
    return sum(
        group.stage.num_bytes(self.shared, group.settings)
        for group in self.chosen())


def parse(config: Mapping[str, Any]) -> Experiment:
  """Builds the typed experiment from an ml_collections config.

  Raises:
    ConfigError: names the field, what was received and what is allowed.
  """
  for key in _OWN:
    if key not in config:
      raise config_lib.ConfigError(f'config.{key}: missing; it must be set.')
  if config['schema'] != SCHEMA:
    raise config_lib.ConfigError(
        f'config.schema: got {config["schema"]!r}; must be {SCHEMA}, as '
        'configs/base.py sets it.')
  own = config_lib.parse(
      _Own, {key: config[key] for key in _OWN if key != 'task'})
  kind, settings = _task(config['task'])
  shared = base.Shared(
      own.seed, own.mesh, kind, settings, own.model, own.style)
  groups = {
      name: _group(name, config[name])
      for name in config if name not in _OWN}
  for i, name in enumerate(own.stages):
    if name not in groups:
      raise config_lib.ConfigError(
          f'config.stages[{i}]: got {name!r}; '
          f'{config_lib.nearest(name, tuple(groups))}, the groups that have a '
          'kind.')
  experiment = Experiment(shared, own.stages, own.compilation_cache, groups)
  _check(experiment)
  return experiment


def programs(experiment: Experiment, mesh: jax.sharding.Mesh) -> base.Programs:
  """Lists all that is compiled: 'STAGE/PROGRAM' -> () -> `program.Program`."""
  context = base.Context(experiment.shared, experiment.groups, mesh)
  return {
      f'{group.name}/{name}': build
      for group in experiment.chosen()
      for name, build in group.stage.programs(
          context, group.settings).items()}


def _task(config: Mapping[str, Any]) -> tuple[str, Any]:
  """The kind of a task, and its settings."""
  values = dict(config.items())
  kind = values.pop('kind', None)
  if not isinstance(kind, str):
    raise config_lib.ConfigError(
        f'config.task.kind: got {kind!r}; must be the name of a task.')
  return kind, config_lib.parse(
      tasks.settings_of(kind), values, 'config.task')


def _group(name: str, values: Any) -> base.Group:
  if not hasattr(values, 'keys') or 'kind' not in values:
    raise config_lib.ConfigError(
        config_lib.unknown_key('config', name, _OWN)
        + ' A stage is a group of settings with a kind.')
  path, values = f'config.{name}', dict(values.items())
  stage = config_lib.of_kind(kinds.KINDS, values.pop('kind'), path)
  return base.Group(name, stage, config_lib.parse(stage.Settings, values, path))


def _check(experiment: Experiment) -> None:
  """Lets every stage refuse what it could not do, over the whole list."""
  before, context = [], base.Context(experiment.shared, experiment.groups)
  for group in experiment.chosen():
    for reference in group.stage.reads(group.settings):
      _check_reference(experiment, group, reference, before)
    group.stage.check(context, group.settings, group.name)
    before.append(group.name)


def _check_reference(
    experiment: Experiment, group: base.Group, reference: str,
    before: list[str],
) -> None:
  """Raises where a stage reads what none before it leaves."""
  path = f'config.{group.name}.{_field(group.settings, reference)}'
  if not reference:
    raise config_lib.ConfigError(
        f"{path}: got ''; must be STAGE, STAGE/PART or the absolute path of a "
        'folder.')
  first, _, part = reference.partition('/')
  if not first or files.is_remote(reference):
    return  # a folder: whether it is there, its reader says
  if first not in experiment.groups:
    raise config_lib.ConfigError(
        f'{path}: got {reference!r}; {first!r} is no stage: '
        f'{config_lib.nearest(first, tuple(experiment.groups))}, or the '
        'absolute path of a folder.')
  if first in experiment.stages and first not in before:
    raise config_lib.ConfigError(
        f'config.stages: {group.name} reads {reference!r}, but {first} does '
        'not come before it.')
  source = experiment.groups[first]
  leaves = source.stage.leaves(source.settings)
  if part and part not in leaves:
    raise config_lib.ConfigError(
        f'{path}: got {reference!r}, which stage {first} does not leave; it '
        f'leaves {", ".join(leaves) or "no parts"}.')


def _field(settings: Any, reference: str) -> str:
  """Names the setting that holds a reference, of a group too."""
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if value == reference or isinstance(value, tuple) and reference in value:
      return field.name
    if dataclasses.is_dataclass(value) and (inner := _field(value, reference)):
      return f'{field.name}.{inner}'
  return ''
