# SPDX-License-Identifier: Apache-2.0
"""Metrics of a run: one JSONL row a step, the same numbers in TensorBoard."""

import json
import time

from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.training import event_file


class MetricsWriter:
  """Appends rows to `metrics.jsonl` and mirrors them to TensorBoard.

  Opened at step k it first removes the rows after k that an interrupted run
  left, so that the file has neither gap nor duplicate. TensorBoard's file is
  written anew from these rows; they carry the time of that. One process
  writes; in others all of this does nothing.
  """

  def __init__(self, directory: files.Path, step: int):
    """Opens the files in `directory`; `step` is 0 at the start of a run."""
    self.dropped: list[dict] = []  # the rows that were removed
    self._appenders = ()
    if not distributed.is_primary():
      return
    path = files.path(directory) / 'metrics.jsonl'
    rows = read(path)
    kept = [row for row in rows if row['step'] <= step]
    self.dropped = [row for row in rows if row['step'] > step]
    self._rows = files.Appender(path, b''.join(map(_line, kept)))
    self._board = _open_board(path.parent / 'tensorboard', kept)
    self._appenders = (self._rows, self._board)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Adds one row; keys with a slash keep their group in TensorBoard."""
    if self._appenders:
      self._rows.append(_line({'step': step, **values}))
      self._board.append(event_file.scalars(step, values, time.time()))

  def sync(self) -> None:
    """Makes the rows durable; before a checkpoint, which must not lack any."""
    for appender in self._appenders:
      appender.sync()

  def close(self) -> None:
    """Makes the rows durable and closes the files."""
    for appender in self._appenders:
      appender.close()


def read(path: files.Path, **fields: type) -> list[dict]:
  """The complete rows of a file that grows; a torn last line is left out.

  Every row has a `step`, and the `fields`, of these types.

  Raises:
    UserError: another line is damaged; names it.
  """
  path = files.path(path)
  if not path.exists():
    return []
  return files.read_rows(
      path, is_torn=True, advice='delete this line',
      **dict(fields, step=int))


def read_all(path: files.Path) -> list[dict]:
  """The rows of a run that is over, at least one.

  Raises:
    UserError: as `read`; or there are none.
  """
  rows = read(path)
  if not rows:
    raise config_lib.UserError(
        f'{path}: the metrics of this run are gone; restore the file, or '
        'remove its folder to train anew.')
  return rows


def _line(row: dict) -> bytes:
  return json.dumps(row).encode() + b'\n'


def _open_board(directory, rows: list[dict]) -> files.Appender:
  """The one event file of the folder, with these rows."""
  now = time.time()
  path = directory / f'events.out.tfevents.{int(now)}.meta_cot'
  appender = files.Appender(path, event_file.header(now) + b''.join(
      event_file.scalars(
          row['step'], {k: v for k, v in row.items() if k != 'step'}, now)
      for row in rows))
  for old in files.matching(directory, '*tfevents*'):
    if old != path:
      old.unlink(missing_ok=True)
  return appender
