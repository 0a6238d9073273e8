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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
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

from data_pipelines import manifest as manifest_lib
from data_pipelines import workers
from meta_cot import problem as problem_lib
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.traces import record as record_lib

Record = problem_lib.Problem | record_lib.TraceRecord
# (start, stop) -> one record per index, in order. What it raises as ValueError
# at an index is recorded as that index's failure.
MakeRecords = Callable[[int, int], Iterable[Record]]
# Kind of a directory -> module with `to_json`, `from_json` and `counts`.
KINDS: Mapping[str, types.ModuleType] = types.MappingProxyType(
    {module.KIND: module for module in (problem_lib, record_lib)})


def generate(
    directory: files.Path,
    make_records: MakeRecords, *,
    kind: str,
    split: str,
    num_records: int,
    num_shards: int,
    arguments: Mapping[str, Any],
    num_processes: int,
    host_index: int = 0,
    num_hosts: int = 1,
    wait: Callable[[str], None] = lambda name: None,
) -> manifest_lib.Manifest:
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
    ValueError: sizes out of range, a number of records other than asked for,
      or a directory that holds the split made with other arguments.
  """
  if num_records < 0 or num_shards < 1 or num_processes < 1:
    raise ValueError(
        f'{num_records=}, {num_shards=}, {num_processes=}: must be at least '
        '0, 1 and 1.')
  if not 0 <= host_index < num_hosts:
    raise ValueError(f'{host_index=}: must be in 0..{num_hosts - 1}.')
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
  own = set(names[host_index::num_hosts])
  _remove_temporaries(directory, split, own)
  done = _finished(directory, split, arguments, own)
  jobs = [
      functools.partial(
          _write_shard, directory / name, kind, make_records,
          num_records * i // num_shards, num_records * (i + 1) // num_shards,
          arguments)
      for i, name in enumerate(names) if name in own and name not in done]
  for shard in workers.run(
      jobs, num_processes, name=f'{directory.name}/{split}',
      describe=lambda shard: f'{shard.file}, {shard.num_records} records'):
    done[shard.file] = shard
  wait(f'{directory.name}/{split}: shards')
  if host_index == 0:
    if num_hosts > 1:
      done = _of_all_hosts(directory, split, arguments, names)
    _commit(
        directory, kind, split, arguments, [done[name] for name in names])
  wait(f'{directory.name}/{split}: manifest')
  return manifest_lib.read(directory)


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
    ValueError: no manifest or split, or a shard that is missing or damaged;
      names the file.
  """
  directory = files.path(directory)
  manifest = manifest_lib.read(directory)
  splits = manifest.splits
  if split not in splits:
    raise config_lib.UserError(
        f'{directory / manifest_lib.NAME}: no split {split!r}; it has '
        f'{", ".join(sorted(splits)) or "none"}.')
  paths = []
  for shard in splits[split].shards:
    try:
      path = manifest_lib.local_path(directory, shard)
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
    stop: int, arguments: Mapping[str, Any]) -> manifest_lib.Shard:
  """Writes records start..stop-1 and the shard's description."""
  temporary = files.scratch(path)
  try:
    shard = _write_records(
        temporary, path.name, KINDS[kind], make_records, start, stop)
    files.publish(temporary, path, shard.sha256)
  finally:
    temporary.unlink(missing_ok=True)
  files.write_json(_sidecar(path), {
      'arguments': arguments, 'shard': dataclasses.asdict(shard)})
  return shard


def _write_records(
    path: pathlib.Path, name: str, kind: types.ModuleType,
    make_records: MakeRecords, start: int, stop: int) -> manifest_lib.Shard:
  """Writes records start..stop-1 to a local file, durably."""
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  num_records, counts, failures = 0, collections.Counter(), []
  for item in _records(make_records, start, stop):
    if isinstance(item, manifest_lib.Failure):
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
  return manifest_lib.Shard(
      name, num_records, path.stat().st_size, files.sha256(path), dict(counts),
      tuple(failures))


def _records(
    make_records: MakeRecords, start: int, stop: int
) -> Iterator[Record | manifest_lib.Failure]:
  """Yields each record, or the Failure in its place.

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
    except ValueError as e:
      reason = ' '.join(str(e).split())
    if high - low == 1:
      yield manifest_lib.Failure(low, reason)
      continue
    middle = (low + high) // 2 if index == low else index + 1
    # Last in, first out: the earlier range goes on top.
    pending += [(middle, high)] if middle < high else []
    pending += [(index, middle)] if index < high else []


def _described(
    directory: epath.Path, split: str, arguments: Mapping[str, Any]
) -> dict[str, manifest_lib.Shard]:
  """What the manifest and the sidecars say of shards, by file name."""
  known = []
  path = directory / manifest_lib.NAME
  if path.is_file():
    entry = manifest_lib.read(directory).splits.get(split)
    if entry:
      manifest_lib.check_arguments(path, entry.arguments, arguments)
      known += entry.shards
  for path in files.matching(directory, f'.{split}-*.array_record.json'):
    raw = files.read_json(path)
    manifest_lib.check_arguments(path, raw['arguments'], arguments)
    known.append(manifest_lib.shard_from_json(raw['shard']))
  return {shard.file: shard for shard in known}


def _finished(
    directory: epath.Path, split: str, arguments: Mapping[str, Any],
    names: Set[str]) -> dict[str, manifest_lib.Shard]:
  """Those of the named shards that are already whole."""
  return {
      name: shard
      for name, shard in _described(directory, split, arguments).items()
      if name in names and manifest_lib.is_whole(directory, shard)}


def _of_all_hosts(
    directory: epath.Path, split: str, arguments: Mapping[str, Any],
    names: Sequence[str]) -> dict[str, manifest_lib.Shard]:
  """All shards; each host has checked the content of its own."""
  shards = _described(directory, split, arguments)
  for name in names:
    if name not in shards or (
        files.size(directory / name) != shards[name].num_bytes):
      raise config_lib.UserError(
          f'{directory / name}: another host has made it, but it is not here; '
          'all hosts need the same --workdir, such as gs://BUCKET/RUN.')
  return shards


def _commit(
    directory: epath.Path, kind: str, split: str, arguments: Mapping[str, Any],
    shards: list[manifest_lib.Shard]) -> None:
  """Writes the manifest, after which the shards' sidecars can go."""
  if shards and not any(shard.num_records for shard in shards):
    for shard in shards:  # what a corrected rerun must not take for finished
      (directory / shard.file).unlink(missing_ok=True)
      _sidecar(directory / shard.file).unlink(missing_ok=True)
    raise config_lib.UserError(
        f'{directory}/{split}: no record could be made; the first failure is '
        f'{shards[0].failures[0].reason!r}.')
  manifest_lib.add_split(directory, kind, split, arguments, tuple(shards))
  for path in files.matching(directory, f'.{split}-*.array_record.json'):
    path.unlink(missing_ok=True)
  _remove_temporaries(directory, split, None)


def _remove_temporaries(
    directory: epath.Path, split: str, names: Set[str] | None) -> None:
  """Removes what killed writers left of the named shards, or of all files."""
  if files.is_remote(directory):
    return
  # The second kind is of sidecars, whose names begin with a dot already.
  for pattern in (f'.{split}-*.tmp-*', f'..{split}-*.tmp-*'):
    for path in files.matching(directory, pattern):
      shard = path.name.lstrip('.').partition('.array_record')[0]
      if names is None or f'{shard}.array_record' in names:
        path.unlink(missing_ok=True)
  if names is None:
    for path in files.matching(directory, f'.{manifest_lib.NAME}.tmp-*'):
      path.unlink(missing_ok=True)


def _sidecar(path: epath.Path) -> epath.Path:
  return path.with_name(f'.{path.name}.json')
