# SPDX-License-Identifier: Apache-2.0
"""Rows of problems from files and datasets, whatever wrote them.

A source is one of

  DIR/name.jsonl, DIR/*.jsonl    an object a line (also `.json`); local or gs://
  DIR/name.parquet               needs pyarrow
  DIR/name.array_record          an object in JSON a record
  hf:NAME[:CONFIG]:SPLIT         needs the package datasets
  tfds:NAME[/CONFIG]:SPLIT       needs tensorflow-datasets, not TensorFlow

A row that cannot be read is a fault with its place; the others are kept.
"""

from collections.abc import Callable, Iterator, Mapping
import importlib
import io
import json
import types
from typing import Any, NamedTuple

from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

MAX_BYTES = 2**20  # of a line
_BOM = b'\xef\xbb\xbf'


class Row(NamedTuple):
  """One row, or what is wrong with it."""

  place: str  # file and line, or number
  values: Mapping[str, Any] | None
  fault: str = ''


def read(source: str) -> Iterator[Row]:
  """Reads the rows of a source in order.

  Raises:
    UserError: there is no such source, or the package that reads it is not
      installed; one line.
  """
  scheme, _, rest = source.partition(':')
  if scheme in _DATASETS:
    if not all(rest.rpartition(':')[::2]):
      raise config_lib.UserError(
          f'{source}: must be {scheme}:NAME:SPLIT, such as '
          f'{scheme}:gsm8k:train.')
    return _DATASETS[scheme](rest)
  return _read_files(source)


def _read_files(source: str) -> Iterator[Row]:
  """Reads the files of a name, in which * and ? stand for others."""
  path = files.path(source)
  paths = [path]
  if any(sign in path.name for sign in '*?['):
    paths = sorted(files.matching(path.parent, path.name))
    if not paths:
      raise config_lib.UserError(f'{source}: there are no such files.')
  for path in paths:
    reader = _FORMATS.get(path.suffix)
    if reader is None:
      raise config_lib.UserError(
          f'{path}: the name must end with one of {", ".join(_FORMATS)}, or '
          f'begin with one of {", ".join(f"{name}:" for name in _DATASETS)}.')
    try:
      data = path.read_bytes()
    except files.errors() as e:
      raise config_lib.UserError(
          f'{path}: cannot be read ({" ".join(str(e).split())}).') from e
    yield from reader(str(path), data)


def _lines(path: str, data: bytes) -> Iterator[Row]:
  """Reads lines of JSON; only a line feed ends one."""
  for number, line in enumerate(data.removeprefix(_BOM).split(b'\n'), 1):
    place = f'{path}, line {number}'
    if len(line) > MAX_BYTES:
      yield Row(place, None, f'{len(line)} bytes; at most {MAX_BYTES}')
    elif line.strip():
      yield _parsed(place, line)


def _parsed(place: str, data: bytes) -> Row:
  try:
    values = json.loads(data.decode())
  except UnicodeDecodeError as e:
    return Row(place, None, f'no UTF-8 at byte {e.start}')
  except json.JSONDecodeError as e:
    return Row(place, None, f'no JSON: {e.msg} at column {e.colno}')
  except RecursionError:
    return Row(place, None, 'no JSON: too deep')
  if not isinstance(values, dict):
    return Row(place, None, 'no object of JSON')
  return Row(place, values)


def _parquet(path: str, data: bytes) -> Iterator[Row]:
  parquet = _package('pyarrow.parquet', 'data', path)
  arrow = _package('pyarrow', 'data', path)
  try:
    table = parquet.read_table(io.BytesIO(data))
  except (arrow.ArrowException, OSError) as e:
    raise config_lib.UserError(
        f'{path}: no Parquet ({" ".join(str(e).split())[:200]}).') from e
  return _numbered(path, table.to_pylist())


def _array_record(path: str, data: bytes) -> Iterator[Row]:
  from array_record.python import array_record_module
  del data  # the reader wants a path
  try:
    reader = array_record_module.ArrayRecordReader(path)
    records = reader.read(0, reader.num_records()) if (
        reader.num_records()) else []
  except (ValueError, IndexError, RuntimeError) as e:
    raise config_lib.UserError(
        f'{path}: no ArrayRecord ({" ".join(str(e).split())[:200]}).') from e
  for number, record in enumerate(records):
    yield _parsed(f'{path}, record {number}', record)


def _hugging_face(name: str) -> Iterator[Row]:
  """Reads NAME[:CONFIG]:SPLIT."""
  datasets = _package('datasets', 'data', f'hf:{name}')
  *parts, split = name.split(':')
  try:
    return _numbered(f'hf:{name}', datasets.load_dataset(*parts, split=split))
  except (OSError, ValueError) as e:
    raise config_lib.UserError(
        f'hf:{name}: {" ".join(str(e).split())[:200]}') from e


def _tensorflow(name: str) -> Iterator[Row]:
  """Reads NAME[/CONFIG]:SPLIT by random access."""
  tfds = _package('tensorflow_datasets', 'data', f'tfds:{name}')
  dataset, _, split = name.rpartition(':')
  try:
    found = tfds.data_source(dataset, split=split)
  except (OSError, ValueError, KeyError, NotImplementedError) as e:
    raise config_lib.UserError(
        f'tfds:{name}: {" ".join(str(e).split())[:200]}') from e
  return _numbered(f'tfds:{name}', found)


def _numbered(name: str, found) -> Iterator[Row]:
  for number, values in enumerate(found):
    yield Row(f'{name}, row {number}', {
        key: value.decode(errors='replace') if isinstance(value, bytes)
        else value for key, value in values.items()})


def _package(name: str, extra: str, source: str) -> types.ModuleType:
  try:
    return importlib.import_module(name)
  except ImportError as e:
    raise config_lib.UserError(
        f"{source}: needs the package {name.partition('.')[0]}; pip install "
        f"'meta-cot[{extra}]'.") from e


_FORMATS: Mapping[str, Callable[[str, bytes], Iterator[Row]]] = (
    types.MappingProxyType({
        '.jsonl': _lines, '.json': _lines, '.parquet': _parquet,
        '.array_record': _array_record}))
_DATASETS: Mapping[str, Callable[[str], Iterator[Row]]] = (
    types.MappingProxyType({'hf': _hugging_face, 'tfds': _tensorflow}))
