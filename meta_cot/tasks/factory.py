# SPDX-License-Identifier: Apache-2.0
"""Tasks by name."""

from collections.abc import Mapping
import importlib
import types
from typing import Any

from meta_cot.settings import config as config_lib
from meta_cot.tasks import base

# Kind of a task -> its module, imported when asked for.
KINDS: Mapping[str, str] = types.MappingProxyType({
    'countdown': 'meta_cot.tasks.countdown',
    'game24': 'meta_cot.tasks.game24',
    'maze': 'meta_cot.tasks.maze',
})


def make(kind: str, settings: Any = None, seed: int = 0) -> base.Task:
  """Makes a task.

  Args:
    kind: a key of `KINDS`, or the dotted name of a task module (see `base`).
    settings: of the class `settings_of(kind)`; None for a task that only
      judges.
    seed: of its problems.

  Raises:
    UserError: no such task, or its module is broken; one line.
  """
  return _module(kind).make(settings, seed)


def settings_of(kind: str) -> type:
  """Returns the class of a task's settings.

  Raises:
    UserError: as `make`.
  """
  return _module(kind).Settings


def _module(kind: str) -> types.ModuleType:
  if kind not in KINDS and '.' not in kind:
    raise config_lib.UserError(
        f'task.kind: got {kind!r}; must be one of {", ".join(sorted(KINDS))} '
        'or the dotted name of a module, such as my_tasks.chess.')
  name = KINDS.get(kind, kind)
  try:
    module = importlib.import_module(name)
  except (ImportError, SyntaxError) as e:
    raise config_lib.UserError(
        f'task.kind: got {kind!r}; {name} cannot be imported '
        f'({" ".join(str(e).split())}).') from e
  for part in ('Settings', 'make'):
    if not hasattr(module, part):
      raise config_lib.UserError(
          f'task.kind: got {kind!r}; the module {name} has no {part}, which '
          'every task module needs.')
  return module
