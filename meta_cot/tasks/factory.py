# SPDX-License-Identifier: Apache-2.0
"""Tasks by name."""

from collections.abc import Mapping
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import pathlib
import sys
import types
from typing import Any

from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.tasks import faults
from meta_cot.tasks import own

# Kind of a task -> its module, imported when asked for.
KINDS: Mapping[str, str] = types.MappingProxyType({
    'countdown': 'meta_cot.tasks.countdown',
    'expressions': 'meta_cot.tasks.worlds.expressions',
    'game24': 'meta_cot.tasks.game24',
    'gsm8k': 'meta_cot.tasks.gsm8k',
    'harbour': 'meta_cot.tasks.worlds.harbour',
    'hilo': 'meta_cot.tasks.worlds.hilo',
    'mastermind': 'meta_cot.tasks.worlds.mastermind',
    'math': 'meta_cot.tasks.math',
    'maze': 'meta_cot.tasks.maze',
    'safe': 'meta_cot.tasks.worlds.safe',
    'sudoku4': 'meta_cot.tasks.sudoku4',
    'word_problems': 'meta_cot.tasks.word_problems',
})


@dataclasses.dataclass(frozen=True)
class _Make:
  """`make` of a module that pickle may not find by its name."""

  kind: str

  def __call__(self, settings: Any, seed: int) -> Any:
    return _module(self.kind).make(settings, seed)

  def __reduce__(self):
    return _make, (self.kind,)


def _make(kind: str) -> _Make:
  _module(kind)  # before the settings are read, which are of a class of it
  return _Make(kind)


def make(kind: str, settings: Any = None, seed: int = 0) -> base.Task:
  """Makes a task.

  Args:
    kind: a key of `KINDS`, or a task module (see `base`) elsewhere: its dotted
      name, or the path of its file. Faults of such a task are one line, see
      `own`.
    settings: of the class `settings_of(kind)`; None for a task that only
      judges.
    seed: of its problems.

  Raises:
    UserError: no such task, or its module is broken; one line.
  """
  module = _module(kind)
  if kind in KINDS:
    return module.make(settings, seed)
  return own.Own(name_of(kind), module.__file__, _Make(kind), settings, seed)


def name_of(kind: str) -> str:
  """Names a task for marks and messages: of a path only the file's name."""
  return pathlib.PurePath(kind).name


def settings_of(kind: str) -> type:
  """Returns the class of a task's settings.

  Raises:
    UserError: as `make`; or it is no frozen dataclass of settings.
  """
  found = _module(kind).Settings
  if not dataclasses.is_dataclass(found) or not isinstance(found, type) or (
      not found.__dataclass_params__.frozen):
    raise faults.TaskError(
        f'task {name_of(kind)}: Settings is {found!r:.80}; must be a class '
        'with @dataclasses.dataclass(frozen=True) whose fields are '
        'config.setting().')
  return found


def _module(kind: str) -> types.ModuleType:
  """The module of a task; one of a user's own is imported by name or path."""
  if kind not in KINDS and '.' not in kind:
    raise config_lib.UserError(
        f'task.kind: got {kind!r}; must be one of {", ".join(sorted(KINDS))}, '
        'the dotted name of a module, such as my_tasks.chess, or the path of '
        'a file, such as my_tasks/chess.py.')
  name, module = KINDS.get(kind, kind), None
  caught = faults.Caught(kind)
  with caught:
    module = _from_file(pathlib.Path(kind)) if kind.endswith('.py') else (
        importlib.import_module(name))
  if caught.error:
    raise config_lib.UserError(
        f'task.kind: got {kind!r}; {name} cannot be imported '
        f'({caught.words}).') from caught.error
  for part in ('Settings', 'make'):
    if not hasattr(module, part):
      raise config_lib.UserError(
          f'task.kind: got {kind!r}; the module {name} has no {part}, which '
          'every task module needs.')
  return module


def _from_file(path: pathlib.Path) -> types.ModuleType:
  """Imports a file once, under a name of its own."""
  digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
  name = f'task_{path.stem}_{digest[:8]}'
  if name not in sys.modules:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    with contextlib.ExitStack() as undo:
      undo.callback(sys.modules.pop, name)
      spec.loader.exec_module(module)
      undo.pop_all()
  return sys.modules[name]
