# SPDX-License-Identifier: Apache-2.0
"""What a stage is, and what the stages of a run share.

A stage is a named group of settings with a kind. It reads what other stages
left, writes its own folder, and can be killed and rerun: finished pieces are
kept, the rest continues to the same bits.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from etils import epath
import jax

from meta_cot import program
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

_NUM_FIRST = 64  # problems


@dataclasses.dataclass(frozen=True)
class Shared:
  """Settings that belong to no stage."""

  seed: int  # of everything
  mesh: sharding.MeshConfig
  task_kind: str
  task_settings: Any  # of the task's module
  model: model_config.ModelConfig  # of policies that start from nothing
  style: str  # of the texts of policies

  @functools.cached_property
  def task(self) -> tasks.Task:
    return tasks.make(self.task_kind, self.task_settings, self.seed)

  def bound(self) -> dict[str, Any]:
    """Returns what results may depend on, by the names of the config."""
    return dict(
        seed=self.seed, style=self.style, model=config_lib.bound(self.model),
        task=dict(
            kind=self.task_kind, **config_lib.bound(self.task_settings)))


@dataclasses.dataclass(frozen=True)
class Context:
  """What a stage works with besides its own settings."""

  shared: Shared
  groups: Mapping[str, 'Group']
  mesh: jax.sharding.Mesh | None = None
  workdir: epath.Path | None = None  # None: nothing runs

  @property
  def seed(self) -> int:
    return self.shared.seed

  @property
  def task(self) -> tasks.Task:
    return self.shared.task

  def parts(self, reference: str) -> tuple[str, ...]:
    """Lists what a reference to a whole stage stands for: all that it leaves.
    """
    if reference not in self.groups:
      return (reference,)
    group = self.groups[reference]
    return tuple(
        f'{reference}/{part}' for part in group.stage.leaves(group.settings)
    ) or (reference,)

  @functools.cached_property
  def first_problems(self) -> tuple[Problem, ...]:
    """The first problems of every split, for shapes, before any are stored."""
    return tuple(
        problem for split in self.task.splits
        for problem in self.task.problems(split, 0, _NUM_FIRST))

  def folder(self, reference: str) -> epath.Path:
    """The folder that a reference names: of this workdir, or anywhere."""
    if reference.startswith('/') or files.is_remote(reference):
      return files.path(reference)
    return self.workdir / reference


Programs = Mapping[str, Callable[[], program.Program]]


def _nothing(*_: Any) -> tuple:
  return ()


def _no_programs(context: Context, settings: Any) -> Programs:
  del context, settings
  return {}


def _always(context: Context, settings: Any, directory: epath.Path) -> bool:
  del context, settings, directory
  return True


@dataclasses.dataclass(frozen=True)
class Stage:
  """A kind of stage.

  Attributes:
    Settings: its group. Fields marked `is_free` may change in a workdir.
    run: does what is missing in the stage's folder. Raises UserError, and
      Interrupted after a signal.
    uses: keys of `Shared.bound` that its results depend on.
    reads: settings -> references to what it reads, `STAGE`, `STAGE/PART` or
      the path of a folder.
    grown: settings -> those that may grow in a workdir, by name: the stage goes
      on, and what stands on it runs again.
    leaves: settings -> parts of its folder that others may read; () for one
      that is read whole.
    check: (context, settings, name) raises a ConfigError for what `run` would
      refuse, as far as settings tell; the context has no mesh and no workdir.
    check_folder: (settings, directory) raises a UserError where what is there
      cannot be gone on with.
    check_devices: (settings, name, mesh) raises a ConfigError where the work
      does not divide over the devices.
    num_bytes: (shared, settings) -> what its checkpoints need on disk, roughly.
    is_whole: whether nothing is missing in the folder of a finished stage.
    programs: name -> what is compiled, made by the functions that `run` calls.
  """

  Settings: type
  run: Callable[[Context, Any, epath.Path], None]
  uses: tuple[str, ...] = ('seed', 'task')
  reads: Callable[[Any], tuple[str, ...]] = _nothing
  grown: Callable[[Any], dict[str, Any]] = lambda settings: {}
  leaves: Callable[[Any], tuple[str, ...]] = _nothing
  check: Callable[['Context', Any, str], Any] = _nothing
  check_folder: Callable[[Any, epath.Path], Any] = _nothing
  check_devices: Callable[[Any, str, jax.sharding.Mesh], Any] = _nothing
  num_bytes: Callable[[Shared, Any], int] = lambda shared, settings: 0
  is_whole: Callable[[Context, Any, epath.Path], bool] = _always
  programs: Callable[[Context, Any], Programs] = _no_programs


@dataclasses.dataclass(frozen=True)
class Group:
  """A named group of settings with a kind."""

  name: str
  stage: Stage
  settings: Any  # of `stage.Settings`


def arguments(context: Context, settings: Any) -> dict[str, Any]:
  """Names what determines the records that a stage makes; JSON values."""
  shared = context.shared.bound()
  return dict(
      seed=shared['seed'], task=shared['task'], **config_lib.bound(settings))


def share_of_work(settings: Any) -> dict[str, Any]:
  """Says to `store.generate` how many work, and which of them this host is."""
  return dict(
      num_shards=settings.num_shards, num_processes=settings.num_processes,
      host_index=distributed.process_index(),
      num_hosts=distributed.num_processes(), wait=distributed.wait)


def wrong(name: str, field: str, message: str) -> config_lib.ConfigError:
  """Makes the error about one setting of a stage."""
  return config_lib.ConfigError(f'config.{name}.{field}: {message}')
