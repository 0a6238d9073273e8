# SPDX-License-Identifier: Apache-2.0
"""The working directory of a run: whose it is, and what is finished in it."""

import pathlib
from typing import Any

import ml_collections

from meta_cot import config as config_lib
from meta_cot import files

_FREE = ('stages',)  # may change between commands on one workdir


def claim(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> pathlib.Path:
  """Writes `config.json`, or checks it against the one that is there.

  Raises:
    ConfigError: the directory belongs to another config; names the first
      differences.
  """
  path = workdir / 'config.json'
  mine = _flat(config.to_dict())
  if path.exists():
    theirs = _flat(files.read_json(path))
    differences = [
        f'config.{key}: {theirs.get(key)!r} there, {mine.get(key)!r} now'
        for key in sorted(theirs.keys() | mine.keys())
        if theirs.get(key) != mine.get(key) and key not in _FREE]
    if differences:
      raise config_lib.ConfigError(
          f'{path}: this workdir was made with another config '
          f'({"; ".join(differences[:3])}); use another --workdir.')
  workdir.mkdir(parents=True, exist_ok=True)
  files.write_json(path, config.to_dict())
  return workdir


def _flat(tree: dict, prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    name = f'{prefix}{key}'
    if isinstance(value, dict):
      flat.update(_flat(value, f'{name}.'))
    else:
      flat[name] = list(value) if isinstance(value, tuple) else value
  return flat


def is_done(workdir: pathlib.Path, stage: str) -> bool:
  """Whether `stage` has finished here."""
  return (workdir / 'done' / stage).exists()


def mark_done(workdir: pathlib.Path, stage: str) -> None:
  """Records that `stage` has finished."""
  files.write_atomic(workdir / 'done' / stage, 'done\n')
