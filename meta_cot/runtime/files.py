# SPDX-License-Identifier: Apache-2.0
"""Files of a run, in a local folder or in a bucket (`gs://bucket/run`).

This module alone knows the difference. A local file is written under a
temporary name, synced, then renamed. An object in a bucket appears whole when
its upload ends, so it is written under its own name.
"""

from collections import abc
from collections.abc import Iterator, Mapping
import contextlib
import fnmatch
import hashlib
import importlib.util
import json
import logging
import os
import pathlib
import re
import time
import typing
from typing import Any

from etils import epath
import fsspec

from meta_cot.settings import config as config_lib

Path = str | os.PathLike

_TEMPORARY = re.compile(r'\..+\.tmp-(\d+)')
_UPLOAD_SECONDS = 30.0  # a growing file in a bucket is at most this old

for _name in ('fsspec', 'gcsfs'):  # what they log is raised too
  logging.getLogger(_name).setLevel(logging.CRITICAL)
# One way to buckets, also where TensorFlow is installed.
os.environ.setdefault('EPATH_USE_TF', 'false')
# Another host may have written since a folder was last listed.
fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False


def path(value: Path) -> epath.Path:
  """The file or folder `value` names; absolute where it is local.

  Raises:
    UserError: a bucket without the package that reads buckets, another scheme,
      `~` of nobody, or a character that paths must not have.
    ValueError: a bucket's name that went through pathlib and lost a slash.
  """
  name = os.path.expanduser(os.fspath(value).removeprefix('file://'))
  if re.search('[\\\\\0\ud800-\udfff]', name):  # tensorstore reads \ as /
    raise config_lib.UserError(
        f'{name!r}: a path must be UTF-8 without backslashes and NUL bytes.')
  if name.startswith('~'):
    raise config_lib.UserError(
        f'{name}: there is no such user; write ./~... for a folder.')
  if not is_remote(name):
    if re.match(r'[a-z0-9]+:/\w', name):
      raise ValueError(
          f'{name}: one slash after the colon; write gs://BUCKET/... and make '
          'paths with files.path.')
    return epath.Path(os.path.abspath(name))
  if name.startswith('gs://') and not importlib.util.find_spec('gcsfs'):
    raise config_lib.UserError(
        f"{name}: needs the package gcsfs; pip install 'meta-cot[gcs]'.")
  if not name.startswith('gs://'):
    raise config_lib.UserError(
        f'{name}: must be a local path, file:///PATH or gs://BUCKET/PATH.')
  return epath.Path(name)


def is_remote(value: Path) -> bool:
  """Whether this names an object in a bucket."""
  name = os.fspath(value)
  return '://' in name and not name.startswith('file://')


def errors() -> tuple[type[Exception], ...]:
  """What reading and writing can raise: OSError and those of buckets."""
  if not importlib.util.find_spec('gcsfs'):
    return (OSError,)
  import aiohttp
  from gcsfs import retry
  from google.auth import exceptions
  return (
      OSError, aiohttp.ClientError, retry.HttpError,
      exceptions.GoogleAuthError)


def write_atomic(path: Path, data: bytes | str) -> None:
  """Writes `data` to `path` so that a reader sees all of it or nothing."""
  data = data.encode() if isinstance(data, str) else data
  if is_remote(path):
    _filesystem(path).pipe_file(os.fspath(path), data)
    return
  temporary = scratch(path)
  try:
    with naming(path), open(temporary, 'wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    commit(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
  """Gives an OSError of writing to an open file the name that it lacks."""
  try:
    yield
  except OSError as e:
    e.filename = e.filename or os.fspath(path)
    raise


def commit(temporary: Path, path: Path) -> None:
  """Renames a complete, synced local file to its final name, durably."""
  os.replace(temporary, path)
  directory = os.open(pathlib.Path(path).parent, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


def write_json(path: Path, value: Any) -> None:
  """Writes `value` as readable JSON, atomically."""
  write_atomic(path, json.dumps(value, indent=2, sort_keys=True) + '\n')


def read_json(path: Path, **types: Any) -> dict[str, Any]:
  """Reads a JSON object that has the fields `types`, at least.

  Raises:
    UserError: it is none, or a field is missing or of another type; names the
      file, the line where it can, and the field.
  """
  data = epath.Path(path).read_bytes()
  try:
    return _object(data, types)
  except ValueError as e:
    raise config_lib.UserError(
        f'{path}{e}; delete the file and rerun the command that wrote it.'
    ) from e


def read_rows(
    path: Path, *, is_torn: bool = False,
    advice: str = 'delete the file and rerun the command that wrote it',
    **types: Any
) -> list[dict[str, Any]]:
  """Reads a file with a JSON object, as of `read_json`, in every line.

  Where `is_torn`, a last line without its end is left out.

  Raises:
    UserError: a line is no such object; names it, with the `advice`.
  """
  lines, rows = epath.Path(path).read_bytes().split(b'\n'), []
  if is_torn or not lines[-1]:
    lines.pop()
  for number, line in enumerate(lines, 1):
    try:
      rows.append(_object(line, types))
    except ValueError as e:
      words = str(e).rpartition(': ')[2]
      raise config_lib.UserError(
          f'{path}:{number}: not a row ({words}); {advice}.') from e
  return rows


def _object(data: bytes, types: Mapping[str, Any]) -> dict[str, Any]:
  """Parses an object; a ValueError says where it is wrong, and how."""
  try:
    value = json.loads(data.decode())
  except json.JSONDecodeError as e:
    raise ValueError(f':{e.lineno}: not valid JSON, {e.msg}') from e
  except UnicodeDecodeError as e:
    raise ValueError(f': not valid UTF-8 at byte {e.start}') from e
  except (ValueError, RecursionError) as e:  # such as a number too long
    raise ValueError(f': not valid JSON, {str(e):.60}') from e
  _check_fields(value, types)
  return value


def _check_fields(value: Any, types: Mapping[str, Any]) -> None:
  if not isinstance(value, dict):
    raise ValueError(f': must be an object, is {type(value).__name__}')
  for name, kind in types.items():
    if name not in value:
      raise ValueError(f': has no {name!r}')
    if not isinstance(value[name], kind):
      kinds = kind if isinstance(kind, tuple) else (kind,)
      raise ValueError(
          f': {name!r} must be {" or ".join(k.__name__ for k in kinds)}, is '
          f'{type(value[name]).__name__}')


def described(cls: type, value: Any, path: Path) -> Any:
  """Makes the dataclass `cls` of an object that stood in the file `path`.

  Raises:
    UserError: it has other fields, or of other types; names file and field.
  """
  plain = {abc.Mapping: dict, abc.Sequence: list}
  types = {name: plain.get(typing.get_origin(hint), hint)
           for name, hint in typing.get_type_hints(cls).items()}
  try:
    _check_fields(value, types)
    if unknown := sorted(value.keys() - types.keys()):
      raise ValueError(f': has an unknown {unknown[0]!r}')
  except ValueError as e:
    raise config_lib.UserError(
        f'{path}: not a {cls.__name__.lower()}{e}; delete the file and run '
        'the stage that makes it.') from e
  return cls(**value)


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
  """Turns an error of reading or writing that names its file into one line.

  Raises:
    UserError: names the file.
    UnavailableError: it is in a bucket.
  """
  try:
    yield
  except errors() as e:
    advice = 'mend it, then rerun the same command.'
    if not (isinstance(e, OSError) and e.strerror):
      words = ' '.join(str(e).split()) or type(e).__name__
      raise config_lib.UnavailableError(f'the bucket: {words}; {advice}') from e
    if e.filename is None:
      raise
    raise config_lib.UserError(
        f'{e.filename}: {e.strerror}; {advice}') from e


def size(path: Path) -> int | None:
  """Bytes of a file; None if there is none."""
  if not is_remote(path):
    return os.stat(path).st_size if os.path.isfile(path) else None
  try:
    info = _filesystem(path).info(os.fspath(path))
  except FileNotFoundError:
    return None
  return info['size'] if info['type'] == 'file' else None


def matching(directory: Path, pattern: str) -> list[epath.Path]:
  """Files and folders directly in `directory`, by name; none if it is missing.

  In `pattern`, such as `*.json`, a leading dot is a letter like others.
  """
  directory = epath.Path(directory)
  try:
    names = [child.name for child in directory.iterdir()]
  except FileNotFoundError:
    return []
  return [directory / n for n in sorted(fnmatch.filter(names, pattern))]


def sha256(path: Path) -> str:
  """Hex digest of a file's content."""
  with epath.Path(path).open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def scratch(path: Path) -> pathlib.Path:
  """Where to write what `publish` then puts at `path`: a local file's name."""
  if not is_remote(path):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f'.{path.name}.tmp-{os.getpid()}')
  folder = cache_folder()
  folder.mkdir(parents=True, exist_ok=True)
  name = f'.{epath.Path(path).name}.tmp-'
  for stale in folder.glob(f'{name}*'):
    if not _is_running(int(stale.name.removeprefix(name))):
      stale.unlink(missing_ok=True)
  return folder / f'{name}{os.getpid()}'


def publish(temporary: pathlib.Path, path: Path, digest: str) -> None:
  """Moves a complete, synced local file to `path`, all of it or nothing.

  `digest` is the sha256 of the content: this host will read it, so it need not
  come back from a bucket.
  """
  if is_remote(path):
    _filesystem(path).put_file(str(temporary), os.fspath(path))
    path = cache_folder() / digest
  commit(temporary, path)


def local_copy(path: Path, digest: str) -> pathlib.Path:
  """A local file with the content of `path`: itself, or a copy of the object.

  Copies lie in `cache_folder` under their hash, so that a host fetches an
  object once. Files and copies are checked at every call.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the sha256 of its content is not `digest`.
  """
  wrong = ValueError(f'{path}: its sha256 is not {digest}.')
  if not is_remote(path):
    if sha256(path) != digest:
      raise wrong
    return pathlib.Path(path)
  copy = cache_folder() / digest
  if copy.is_file() and sha256(copy) == digest:
    return copy
  temporary = scratch(path)
  try:
    _filesystem(path).get_file(os.fspath(path), str(temporary))
    if sha256(temporary) != digest:
      raise wrong
    commit(temporary, copy)
  finally:
    temporary.unlink(missing_ok=True)
  return copy


def cache_folder() -> pathlib.Path:
  """Where copies of objects lie on this host; may be deleted between runs."""
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(home) / 'meta_cot'


def remove_temporaries(directory: Path) -> None:
  """Removes what killed writers left below `directory`; nobody may write there.

  A bucket has no temporary files.
  """
  if is_remote(directory):
    return
  for folder, _, names in os.walk(directory):
    for name in filter(_TEMPORARY.fullmatch, names):
      pathlib.Path(folder, name).unlink(missing_ok=True)


class Appender:
  """A file that grows.

  Locally every addition is handed to the system at once. An object cannot
  grow: it is kept in memory and written whole at `sync`, `close`, and by the
  first addition 30 seconds after that.
  """

  def __init__(self, path: Path, data: bytes):
    """Replaces the file by `data`, atomically."""
    self._path = path
    write_atomic(path, data)
    self._file = None if is_remote(path) else open(path, 'ab')
    self._data = bytearray(data if self._file is None else b'')
    self._is_changed, self._written = False, time.monotonic()

  def append(self, data: bytes) -> None:
    """Adds `data` at the end."""
    if self._file is not None:
      with naming(self._path):
        self._file.write(data)
        self._file.flush()
      return
    self._data += data
    self._is_changed = True
    if time.monotonic() - self._written > _UPLOAD_SECONDS:
      self.sync()

  def sync(self) -> None:
    """Makes durable what was added so far."""
    if self._file is not None:
      with naming(self._path):
        os.fsync(self._file.fileno())
    elif self._is_changed:
      write_atomic(self._path, bytes(self._data))
      self._is_changed, self._written = False, time.monotonic()

  def close(self) -> None:
    """Makes everything durable."""
    self.sync()
    if self._file is not None:
      self._file.close()


def _filesystem(path: Path) -> fsspec.AbstractFileSystem:
  return fsspec.core.url_to_fs(os.fspath(path))[0]


def _is_running(process: int) -> bool:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True
