# SPDX-License-Identifier: Apache-2.0
"""Durable files: written under a temporary name, synced, then renamed."""

import json
import os
import pathlib
from typing import Any


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
  """Writes `data` to `path` so that a reader sees all of it or nothing."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.tmp-{os.getpid()}')
  data = data.encode() if isinstance(data, str) else data
  with open(temporary, 'wb') as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())
  commit(temporary, path)


def commit(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
  """Renames a complete, synced file to its final name, durably."""
  os.replace(temporary, path)
  directory = os.open(pathlib.Path(path).parent, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes `value` as readable JSON, atomically."""
  write_atomic(path, json.dumps(value, indent=2, sort_keys=True) + '\n')


def read_json(path: str | os.PathLike) -> Any:
  """Reads JSON.

  Raises:
    ValueError: not JSON; names the file and the line.
  """
  text = pathlib.Path(path).read_text()
  try:
    return json.loads(text)
  except json.JSONDecodeError as e:
    raise ValueError(
        f'{path}:{e.lineno}: not valid JSON ({e.msg}); delete the file and '
        'rerun the command that wrote it.') from e
