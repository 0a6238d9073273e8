# SPDX-License-Identifier: Apache-2.0
"""Records on disk: ArrayRecord shards and a manifest.

A directory holds the shards of its splits and one `manifest.json`, which also
says what kind of records they are (`KINDS`). A shard is
a pure function of the arguments and its index, is written under a temporary
name and renamed when complete, and leaves a small `.json` beside it until the
manifest lists it. So a run killed at any moment is finished by the same
command, with the same bytes. Importing this module does not import jax: the
workers that generate records start in a second.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import os
import pathlib
import re
import types
from typing import Any

from array_record.python import array_record_data_source
from array_record.python import array_record_module
from etils import epath

from data_pipelines import workers
from meta_cot import problem as problem_lib
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.tasks import faults
from meta_cot.traces import record as record_lib

Record = problem_lib.Problem | record_lib.TraceRecord
# (start, stop) -> one record per index, in order. What it raises as ValueError
# at an index is recorded as that index's failure; a TaskError ends the work.
MakeRecords = Callable[[int, int], Iterable[Record]]
# Kind of a directory -> module with `to_json`, `from_json` and `counts`.
KINDS: Mapping[str, types.ModuleType] = types.MappingProxyType(
    {module.KIND: module for module in (problem_lib, record_lib)})
SCHEMA = 2  # of the manifest
MANIFEST = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Shard:
  """One finished file."""

  file: str
  num_records: int
  num_bytes: int
  sha256: str
  counts: Mapping[str, int]  # sums over the records
  failures: Sequence[Mapping[str, Any]]  # index and reason of each

  def __str__(self):
    return f'{self.file}, {self.num_records} records'


@dataclasses.dataclass(frozen=True)
class Split:
  """One finished split; `arguments` include what `generate` was called with."""

  num_records: int
  counts: Mapping[str, int]
  num_failures: int
  arguments: Mapping[str, Any]
  shards: Sequence[Shard]


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The finished splits of a directory."""

  kind: str  # of its records, a key of KINDS
  splits: Mapping[str, Split]
  schema: int = SCHEMA


def read_manifest(directory: files.Path) -> Manifest:
  """Reads the manifest of a directory.

  Raises:
    UserError: missing, damaged, or of another schema version.
  """
  path = files.path(directory) / MANIFEST
  if not path.is_file():
    raise config_lib.UserError(
        f'{path}: no such file; run the stage that makes the records.')
  schema = files.read_json(path, schema=int)['schema']
  if schema != SCHEMA:
    raise config_lib.UserError(
        f'{path}: schema {schema}, this version reads {SCHEMA}; make it again.')
  raw = files.read_json(path, kind=str, splits=dict)
  config_lib.of_kind(KINDS, raw['kind'], f'{path}: records')
  return Manifest(raw['kind'], {
      name: _split(path, split) for name, split in raw['splits'].items()})


def _split(path: epath.Path, raw: Any) -> Split:
  split = files.described(Split, raw, path)
  shards = [files.described(Shard, shard, path) for shard in split.shards]
  for shard in shards:
    if '/' in shard.file:
      raise config_lib.UserError(
          f'{path}: {shard.file!r} is not beside it; run its stage again.')
  return dataclasses.replace(split, shards=shards)


def generate(
    directory: files.Path, make_records: MakeRecords, *, kind: str, split: str,
    num_records: int, num_shards: int, arguments: Mapping[str, Any],
    num_processes: int, host_index: int = 0, num_hosts: int = 1,
    wait: Callable[[str], None] = lambda name: None,
) -> Manifest:
  """Makes records 0..num_records-1 of a split, or what is missing of them.

  Several hosts call it with the same arguments but `host_index`: host h makes
  the shards s with s % num_hosts == h, and host 0 writes the manifest. The
  files do not depend on the number of hosts.

  Args:
    directory: holds the shards and the manifest; made if missing; local or in
      a bucket, the same one for all hosts.
    make_records: picklable; lazily yields one record per index, in order.
    kind: of the records, a key of `KINDS`; one per directory.
    split: name of the split, part of the file names.
    num_records: records to make over all shards; 0 makes an empty split.
    num_shards: shard s of S holds records s*n//S to (s+1)*n//S - 1; fewer
      shards where there are fewer records.
    arguments: what determines the records, as JSON values.
    num_processes: worker processes of this host; 1 works in this process.
    host_index: of this host.
    num_hosts: that work together.
    wait: returns when all hosts have called it with the same name.

  Returns:
    The manifest with this split and those that were there before.

  Raises:
    ValueError: a bad name of a split, a number of records other than asked
      for, or a directory that holds the split made with other arguments.
  """
  if not re.fullmatch(r'[a-z0-9_]+', split):
    raise ValueError(
        f'{split=}: must be lower-case letters, digits and underscores.')
  directory = files.path(directory)
  arguments = json.loads(json.dumps(
      {**arguments, 'num_records': num_records, 'num_shards': num_shards}))
  num_shards = min(num_shards, num_records)
  names = [
      f'{split}-{i:05d}-of-{num_shards:05d}.array_record'
      for i in range(num_shards)]
  known = _described(directory, split, arguments)
  jobs = [
      functools.partial(
          _write_shard, directory / names[i], kind, make_records,
          num_records * i // num_shards, num_records * (i + 1) // num_shards,
          arguments)
      for i in range(host_index, num_shards, num_hosts)
      if not _is_whole(directory, known.get(names[i]))]
  workers.run(jobs, num_processes, name=f'{directory.name}/{split}')
  wait(f'{directory.name}/{split}: shards')
  if host_index == 0:
    _commit(
        directory, kind, split, arguments,
        _of_all_hosts(directory, split, arguments, names))
  wait(f'{directory.name}/{split}: manifest')
  return read_manifest(directory)


class Source:
  """Random access to the records of a split; picklable."""

  def __init__(self, kind: str, paths: Iterable[pathlib.Path]):
    """Opens shards that are known to be whole; `read` checks them."""
    self._kind = kind
    self._paths = tuple(map(str, paths))
    self._records = array_record_data_source.ArrayRecordDataSource(
        self._paths) if self._paths else ()

  def __reduce__(self):
    return Source, (self._kind, self._paths)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Record:
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}.')
    return KINDS[self._kind].from_json(self._records[index])


def read(directory: files.Path, split: str) -> Source:
  """Opens a split after comparing every shard with the manifest.

  Raises:
    UserError: no manifest or split, or a shard that is missing or damaged;
      names the file.
  """
  directory, manifest = files.path(directory), read_manifest(directory)
  if split not in manifest.splits:
    raise config_lib.UserError(
        f'{directory / MANIFEST}: no split {split!r}; it has '
        f'{", ".join(sorted(manifest.splits)) or "none"}.')
  paths = []
  for shard in manifest.splits[split].shards:
    try:
      path = _local_path(directory, shard)
    except ValueError as e:
      raise config_lib.UserError(
          f'{directory / shard.file}: {e}; delete the file and run the stage '
          'that makes it again.') from e
    paths += [path] if shard.num_records else []
  return Source(manifest.kind, paths)


def is_whole(directory: files.Path, split: str) -> bool:
  """Tells whether `read` would open the split: nothing missing or damaged."""
  try:
    read(directory, split)
  except config_lib.UserError:
    return False
  return True


def _write_shard(
    path: epath.Path, kind: str, make_records: MakeRecords, start: int,
    stop: int, arguments: Mapping[str, Any]) -> Shard:
  """Writes records start..stop-1 and the shard's description."""
  temporary = files.scratch(path)
  try:
    shard = _write_records(
        temporary, path.name, KINDS[kind], make_records, start, stop)
    files.publish(temporary, path, shard.sha256)
  finally:
    temporary.unlink(missing_ok=True)
  files.write_json(path.with_name(f'.{path.name}.json'), {
      'arguments': arguments, 'shard': dataclasses.asdict(shard)})
  return shard


def _write_records(
    path: pathlib.Path, name: str, kind: types.ModuleType,
    make_records: MakeRecords, start: int, stop: int) -> Shard:
  """Writes records start..stop-1 to a local file, durably."""
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  num_records, counts, failures = 0, collections.Counter(), []
  for item in _records(make_records, start, stop):
    if isinstance(item, dict):
      failures.append(item)
      continue
    writer.write(kind.to_json(item).encode())
    num_records += 1
    counts.update(kind.counts(item))
  writer.close()
  if num_records + len(failures) != stop - start:
    raise ValueError(
        f'{name}: make_records({start}, {stop}) gave '
        f'{num_records + len(failures)} records; it must give {stop - start}.')
  with open(path, 'rb') as f:
    os.fsync(f.fileno())
  return Shard(
      name, num_records, path.stat().st_size, files.sha256(path), dict(counts),
      failures)


def _records(
    make_records: MakeRecords, start: int, stop: int
) -> Iterator[Record | dict[str, Any]]:
  """Yields each record, or in its place index and reason of a failure.

  An iterable that raises may do so before it gives the records ahead of the
  bad one, so the range is split until the bad index stands alone.
  """
  pending = [(start, stop)]
  while pending:
    low, high = pending.pop()
    index = low
    try:
      for record in make_records(low, high):
        yield record
        index += 1
      continue
    except faults.TaskError:
      raise
    except ValueError as e:
      reason = ' '.join(str(e).split())
    if high - low == 1:
      yield dict(index=low, reason=reason)
      continue
    middle = (low + high) // 2 if index == low else index + 1
    # Last in, first out: the earlier range goes on top.
    pending += [(middle, high)] if middle < high else []
    pending += [(index, middle)] if index < high else []


def _described(
    directory: epath.Path, split: str, arguments: Mapping[str, Any]
) -> dict[str, Shard]:
  """What the manifest and the sidecars say of shards, by file name."""
  known = []
  path = directory / MANIFEST
  if path.is_file():
    entry = read_manifest(directory).splits.get(split)
    if entry:
      _check_arguments(path, entry.arguments, arguments)
      known += entry.shards
  for path in _sidecars(directory, split):
    raw = files.read_json(path, arguments=dict, shard=dict)
    _check_arguments(path, raw['arguments'], arguments)
    known.append(files.described(Shard, raw['shard'], path))
  return {shard.file: shard for shard in known}


def _check_arguments(
    path: epath.Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
  """Raises a UserError naming the first argument that differs."""
  for key in sorted({*old, *new}):
    if key not in old or key not in new or old[key] != new[key]:
      raise config_lib.UserError(
          f'{path}: made with {key}={old.get(key, "(absent)")!r}, now asked '
          f'for {key}={new.get(key, "(absent)")!r}; use another directory or '
          'delete this one.')


def _local_path(directory: epath.Path, shard: Shard) -> pathlib.Path:
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


def _is_whole(directory: epath.Path, shard: Shard | None) -> bool:
  try:
    return shard is not None and bool(_local_path(directory, shard))
  except ValueError:
    return False


def _of_all_hosts(
    directory: epath.Path, split: str, arguments: Mapping[str, Any],
    names: Sequence[str]) -> list[Shard]:
  """The named shards; each host has checked the content of its own."""
  shards = _described(directory, split, arguments)
  for name in names:
    if name not in shards or (
        files.size(directory / name) != shards[name].num_bytes):
      raise config_lib.UserError(
          f'{directory / name}: another host has made it, but it is not here; '
          'all hosts need the same --workdir, such as gs://BUCKET/RUN.')
  return [shards[name] for name in names]


def _commit(
    directory: epath.Path, kind: str, split: str, arguments: Mapping[str, Any],
    shards: Sequence[Shard]) -> None:
  """Writes the manifest, after which the shards' sidecars can go."""
  if shards and not any(shard.num_records for shard in shards):
    for path in (  # what a corrected rerun must not take for finished
        *(directory / s.file for s in shards), *_sidecars(directory, split)):
      path.unlink(missing_ok=True)
    raise config_lib.UserError(
        f'{directory}/{split}: no record could be made; the first failure is '
        f'{shards[0].failures[0]["reason"]!r}.')
  path, splits = directory / MANIFEST, {}
  if path.is_file():
    there = read_manifest(directory)
    if there.kind != kind:
      raise config_lib.UserError(
          f'{path}: is of records of kind {there.kind!r}, now asked for '
          f'{kind!r}; use another directory.')
    splits |= there.splits
  counts = collections.Counter()
  for shard in shards:
    counts.update(shard.counts)  # `+` would leave out what is 0
  splits[split] = Split(
      num_records=sum(s.num_records for s in shards), counts=dict(counts),
      num_failures=sum(len(s.failures) for s in shards), arguments=arguments,
      shards=shards)
  files.write_json(path, dataclasses.asdict(Manifest(kind, splits)))
  for sidecar in _sidecars(directory, split):
    sidecar.unlink(missing_ok=True)


def _sidecars(directory: epath.Path, split: str) -> list[epath.Path]:
  return files.matching(directory, f'.{split}-*.array_record.json')
