# SPDX-License-Identifier: Apache-2.0
"""What a directory of records says of itself: its `manifest.json`."""

import collections
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from etils import epath

from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

SCHEMA = 2  # of the manifest
NAME = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Failure:
  """A record that could not be made."""

  index: int
  reason: str


@dataclasses.dataclass(frozen=True)
class Shard:
  """One finished file."""

  file: str
  num_records: int
  num_bytes: int
  sha256: str
  counts: Mapping[str, int]  # sums over the records
  failures: tuple[Failure, ...]


@dataclasses.dataclass(frozen=True)
class Split:
  """One finished split; `arguments` include what `generate` was called with."""

  num_records: int
  counts: Mapping[str, int]
  num_failures: int
  arguments: Mapping[str, Any]
  shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The finished splits of a directory."""

  schema: int
  kind: str  # of its records: 'problem' | 'trace'
  splits: Mapping[str, Split]


def read(directory: files.Path) -> Manifest:
  """Reads the manifest of a directory.

  Raises:
    ValueError: missing, damaged, or of another schema version.
  """
  path = files.path(directory) / NAME
  if not path.is_file():
    raise config_lib.UserError(
        f'{path}: no such file; the records are not generated, or not to the '
        'end; run the stage that makes them.')
  raw = files.read_json(path)
  try:
    if raw['schema'] != SCHEMA:
      raise config_lib.UserError(
          f'{path}: schema {raw["schema"]}, this version reads {SCHEMA}; '
          'generate the records again in an empty directory.')
    splits = {
        name: Split(**{
            **split, 'shards': tuple(map(shard_from_json, split['shards']))})
        for name, split in raw['splits'].items()}
    return Manifest(schema=SCHEMA, kind=raw['kind'], splits=splits)
  except (AttributeError, KeyError, TypeError) as e:
    raise config_lib.UserError(
        f'{path}: not a manifest ({e!r}); delete the file and run the '
        'stage that makes it.') from e


def add_split(
    directory: epath.Path, kind: str, split: str, arguments: Mapping[str, Any],
    shards: tuple[Shard, ...]) -> Manifest:
  """Adds a finished split to the manifest, atomically, and returns it."""
  splits = {}
  if (directory / NAME).is_file():
    there = read(directory)
    if there.kind != kind:
      raise config_lib.UserError(
          f'{directory / NAME}: is of records of kind {there.kind!r}, now '
          f'asked for {kind!r}; use another directory.')
    splits = dict(there.splits)
  counts = collections.Counter()
  for shard in shards:
    counts.update(shard.counts)  # `+` would leave out what is 0
  splits[split] = Split(
      num_records=sum(s.num_records for s in shards),
      counts=dict(counts),
      num_failures=sum(len(s.failures) for s in shards),
      arguments=arguments, shards=shards)
  manifest = Manifest(schema=SCHEMA, kind=kind, splits=splits)
  files.write_json(directory / NAME, dataclasses.asdict(manifest))
  return manifest


def check_arguments(
    path: epath.Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
  """Raises ValueError naming the first argument that differs."""
  for key in sorted({*old, *new}):
    if key not in old or key not in new or old[key] != new[key]:
      raise config_lib.UserError(
          f'{path}: made with {key}={old.get(key, "(absent)")!r}, now asked '
          f'for {key}={new.get(key, "(absent)")!r}; use another directory or '
          'delete this one.')


def shard_from_json(raw: Mapping[str, Any]) -> Shard:
  """The inverse of `dataclasses.asdict`."""
  return Shard(**{
      **raw, 'failures': tuple(Failure(**f) for f in raw['failures'])})


def local_path(directory: epath.Path, shard: Shard) -> pathlib.Path:
  """A local file with the shard's content; one in a bucket is copied once.

  Raises:
    ValueError: the shard's file is not the one that was written; says why.
  """
  path = directory / shard.file
  size = files.size(path)
  if size is None:
    raise ValueError('missing')
  if size != shard.num_bytes:
    raise ValueError(
        f'has {size} bytes, the manifest says {shard.num_bytes}')
  try:
    return files.local_copy(path, shard.sha256)
  except ValueError as e:
    raise ValueError('its sha256 is not the one in the manifest') from e


def is_whole(directory: epath.Path, shard: Shard) -> bool:
  """Whether the shard's file is the one that was written."""
  try:
    local_path(directory, shard)
  except ValueError:
    return False
  return True
