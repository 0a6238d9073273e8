# SPDX-License-Identifier: Apache-2.0
"""Metrics of a run: one JSONL row a step, the same numbers in TensorBoard."""

import json
import os
import pathlib

import tensorboardX

from meta_cot import files


class MetricsWriter:
  """Appends rows to `metrics.jsonl` and mirrors them to TensorBoard.

  Opened at step k it first removes the rows after k that an interrupted run
  left, so that the file has neither gap nor duplicate.
  """

  def __init__(self, directory: str | os.PathLike, step: int):
    self._path = pathlib.Path(directory) / 'metrics.jsonl'
    rows = [row for row in read(self._path) if row['step'] <= step]
    files.write_atomic(
        self._path, ''.join(json.dumps(row) + '\n' for row in rows))
    self._file = open(self._path, 'a')
    self._board = tensorboardX.SummaryWriter(
        str(pathlib.Path(directory) / 'tensorboard'), purge_step=step + 1,
        flush_secs=5)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Adds one row; keys with a slash keep their group in TensorBoard."""
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def close(self) -> None:
    """Flushes to the disk."""
    os.fsync(self._file.fileno())
    self._file.close()
    self._board.close()


def read(path: str | os.PathLike) -> list[dict]:
  """The complete rows of a metrics file; a torn last line is left out."""
  path = pathlib.Path(path)
  if not path.exists():
    return []
  lines = path.read_text().split('\n')[:-1]
  return [json.loads(line) for line in lines]
