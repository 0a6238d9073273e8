# SPDX-License-Identifier: Apache-2.0
"""Trace records on disk: ArrayRecord shards and a manifest.

A directory holds the shards of its splits and one `manifest.json`. A shard is
a pure function of the arguments and its index, is written under a temporary
name and renamed when complete, and leaves a small `.json` beside it until the
manifest lists it. So a run killed at any moment is finished by the same
command, with the same bytes. Importing this module does not import jax: the
workers that generate records start in a second.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import concurrent.futures
import dataclasses
import functools
import json
import logging
import multiprocessing
from multiprocessing import connection
import os
import pathlib
import re
import sys
import threading
from typing import Any

from array_record.python import array_record_data_source
from array_record.python import array_record_module
import tqdm

from data_pipelines import manifest as manifest_lib
from meta_cot import config as config_lib
from meta_cot import files
from meta_cot.traces import record as record_lib

# (start, stop) -> one record per index, in order. What it raises as ValueError
# at an index is recorded as that index's failure.
MakeRecords = Callable[[int, int], Iterable[record_lib.TraceRecord]]


def generate(
    directory: str | os.PathLike,
    make_records: MakeRecords, *,
    split: str,
    num_records: int,
    num_shards: int,
    arguments: Mapping[str, Any],
    num_processes: int,
) -> manifest_lib.Manifest:
  """Makes records 0..num_records-1 of a split, or what is missing of them.

  Args:
    directory: holds the shards and the manifest; made if missing.
    make_records: picklable; lazily yields one record per index, in order.
    split: name of the split, part of the file names.
    num_records: records to make over all shards; 0 makes an empty split.
    num_shards: shard s of S holds records s*n//S to (s+1)*n//S - 1; fewer
      shards where there are fewer records.
    arguments: what determines the records, as JSON values.
    num_processes: worker processes; 1 works in this process.

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
  if not re.fullmatch(r'[a-z0-9_]+', split):
    raise ValueError(
        f'{split=}: must be lower-case letters, digits and underscores.')
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  arguments = json.loads(json.dumps(
      {**arguments, 'num_records': num_records, 'num_shards': num_shards}))
  # The second kind is of descriptions, whose names begin with a dot already.
  for pattern in (
      f'.{split}-*.tmp-*', f'..{split}-*.tmp-*', '.manifest*.tmp-*'):
    for stale in directory.glob(pattern):
      stale.unlink(missing_ok=True)
  done = _finished(directory, split, arguments)
  num_shards = min(num_shards, num_records)
  names = [
      f'{split}-{i:05d}-of-{num_shards:05d}.array_record'
      for i in range(num_shards)]
  jobs = [
      functools.partial(
          _write_shard, directory / name, make_records,
          num_records * i // num_shards, num_records * (i + 1) // num_shards,
          arguments)
      for i, name in enumerate(names) if name not in done]
  for shard in _run(jobs, num_processes, f'{directory.name}/{split}'):
    done[shard.file] = shard
  return _commit(directory, split, arguments, [done[name] for name in names])


class Source:
  """Random access to the records of a split; picklable."""

  def __init__(self, paths: Iterable[pathlib.Path]):
    """Opens shards that are known to be whole; `read` checks them."""
    self._paths = tuple(map(str, paths))
    self._records = array_record_data_source.ArrayRecordDataSource(
        self._paths) if self._paths else ()

  def __reduce__(self):
    return Source, (self._paths,)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> record_lib.TraceRecord:
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}.')
    return record_lib.from_json(self._records[index])


def read(directory: str | os.PathLike, split: str) -> Source:
  """Opens a split after comparing every shard with the manifest.

  Raises:
    ValueError: no manifest or split, or a shard that is missing or damaged;
      names the file.
  """
  directory = pathlib.Path(directory)
  splits = manifest_lib.read(directory).splits
  if split not in splits:
    raise config_lib.UserError(
        f'{directory / manifest_lib.NAME}: no split {split!r}; it has '
        f'{", ".join(sorted(splits)) or "none"}.')
  shards = splits[split].shards
  for shard in shards:
    reason = manifest_lib.damage(directory, shard)
    if reason:
      raise config_lib.UserError(
          f'{directory / shard.file}: {reason}; delete the file and run the '
          'traces stage to make it again.')
  return Source(directory / s.file for s in shards if s.num_records)


def _write_shard(
    path: pathlib.Path, make_records: MakeRecords, start: int, stop: int,
    arguments: Mapping[str, Any]) -> manifest_lib.Shard:
  """Writes records start..stop-1 and the shard's description."""
  temporary = path.with_name(f'.{path.name}.tmp-{os.getpid()}')
  writer = array_record_module.ArrayRecordWriter(
      str(temporary), 'group_size:1')
  num_records = num_solved = num_nodes = 0
  failures = []
  for item in _records(make_records, start, stop):
    if isinstance(item, manifest_lib.Failure):
      failures.append(item)
      continue
    writer.write(record_lib.to_json(item).encode())
    num_records += 1
    num_solved += item.is_solved
    num_nodes += len(item.nodes)
  writer.close()
  if num_records + len(failures) != stop - start:
    raise ValueError(
        f'{path.name}: make_records({start}, {stop}) gave '
        f'{num_records + len(failures)} records; it must give {stop - start}.')
  with open(temporary, 'rb') as f:
    os.fsync(f.fileno())
  shard = manifest_lib.Shard(
      path.name, num_records, temporary.stat().st_size,
      manifest_lib.sha256(temporary), num_solved, num_nodes, tuple(failures))
  files.commit(temporary, path)
  files.write_json(_sidecar(path), {
      'arguments': arguments, 'shard': dataclasses.asdict(shard)})
  return shard


def _records(
    make_records: MakeRecords, start: int, stop: int
) -> Iterator[record_lib.TraceRecord | manifest_lib.Failure]:
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


def _run(
    jobs: list[Callable[[], manifest_lib.Shard]], num_processes: int, name: str
) -> Iterator[manifest_lib.Shard]:
  """Runs the jobs, in this process or in workers, and reports progress."""
  with tqdm.tqdm(
      total=len(jobs), desc=name, unit='shard',
      disable=not sys.stderr.isatty()) as bar:
    for i, shard in enumerate(_completed(jobs, num_processes)):
      bar.update()
      if bar.disable:
        logging.info(
            '%s: shard %d of %d written (%s, %d records)', name, i + 1,
            len(jobs), shard.file, shard.num_records)
      yield shard


def _completed(
    jobs: list[Callable[[], manifest_lib.Shard]], num_processes: int
) -> Iterator[manifest_lib.Shard]:
  """Yields the results of the jobs as they end."""
  if num_processes == 1 or len(jobs) < 2:
    yield from (job() for job in jobs)
    return
  executor = concurrent.futures.ProcessPoolExecutor(
      min(num_processes, len(jobs)), multiprocessing.get_context('spawn'),
      initializer=_end_with_parent)
  try:
    futures = [executor.submit(job) for job in jobs]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()
  finally:
    executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
  """Ends this worker when its parent is killed; else it would wait forever."""
  parent = multiprocessing.parent_process()

  def wait():
    connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def _finished(
    directory: pathlib.Path, split: str, arguments: Mapping[str, Any]
) -> dict[str, manifest_lib.Shard]:
  """The shards that are already whole, by file name."""
  known = []
  path = directory / manifest_lib.NAME
  if path.is_file():
    entry = manifest_lib.read(directory).splits.get(split)
    if entry:
      manifest_lib.check_arguments(path, entry.arguments, arguments)
      known += entry.shards
  for path in sorted(directory.glob(f'.{split}-*.array_record.json')):
    raw = files.read_json(path)
    manifest_lib.check_arguments(path, raw['arguments'], arguments)
    known.append(manifest_lib.shard_from_json(raw['shard']))
  return {s.file: s for s in known if not manifest_lib.damage(directory, s)}


def _commit(
    directory: pathlib.Path, split: str, arguments: Mapping[str, Any],
    shards: list[manifest_lib.Shard]) -> manifest_lib.Manifest:
  """Writes the manifest, after which the shards' sidecars can go."""
  if shards and not any(shard.num_records for shard in shards):
    for shard in shards:  # what a corrected rerun must not take for finished
      (directory / shard.file).unlink()
      _sidecar(directory / shard.file).unlink()
    raise config_lib.UserError(
        f'{directory}/{split}: no record could be made; the first failure is '
        f'{shards[0].failures[0].reason!r}.')
  manifest = manifest_lib.add_split(
      directory, split, arguments, tuple(shards))
  for shard in shards:
    _sidecar(directory / shard.file).unlink(missing_ok=True)
  return manifest


def _sidecar(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f'.{path.name}.json')
