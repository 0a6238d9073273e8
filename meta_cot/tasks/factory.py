# SPDX-License-Identifier: Apache-2.0
"""Tasks by name."""

from meta_cot.tasks import base
from meta_cot.tasks.countdown import task as countdown

_TASKS = {
    'countdown': countdown.Countdown,
}


def make(name: str) -> base.Task:
  """Returns the task called `name`.

  Raises:
    ValueError: no such task; lists those there are.
  """
  if name not in _TASKS:
    raise ValueError(
        f'name: got {name!r}; must be one of {", ".join(sorted(_TASKS))}.')
  return _TASKS[name]()
