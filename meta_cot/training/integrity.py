# SPDX-License-Identifier: Apache-2.0
"""Content hashes of checkpoint steps, and what is wrong with a step.

`seal` writes `hashes.json` into a step that is complete but not yet visible
under its final name, so every finished step has it. `verify` reads a step
again. Nothing here writes to a finished step, and no device is touched.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import time

from etils import epath

from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

HASHES = 'hashes.json'
QUARANTINE = 'quarantine'
DELETING = 'deleting'  # old steps are renamed into it before they are removed
_COMMIT = 'commit_success.txt'  # its presence is what counts
_METADATA = '_CHECKPOINT_METADATA'  # names the kind of every item
# Orbax writes these after the step is sealed; `verify` looks at what they say.
_WRITTEN_LAST = (_COMMIT, _METADATA)
_METADATA_FIELDS = dict(
    metrics=dict, performance_metrics=dict, init_timestamp_nsecs=int,
    commit_timestamp_nsecs=int, custom_metadata=dict)
_TEMPORARY = '.orbax-checkpoint-tmp'
_NUM_THREADS = 8
_METADATA_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class State:
  """What `verify` found."""

  step: int
  status: str  # 'ok', 'incomplete' (the save was cut off) or 'damaged'
  num_bytes: int  # of all files there
  problem: str | None = None  # first damaged file, and how
  extra: tuple[str, ...] = ()  # files that nobody expects; they do no harm


def steps(directory: files.Path) -> list[int]:
  """Steps that have a folder in `directory`, oldest first."""
  names = [path.name for path in files.matching(directory, '*')]
  return sorted(int(name) for name in names if name.isdecimal())


def seal(directory: epath.PathLike, step: int) -> None:
  """Hashes all files of a step that is being saved.

  To be called when all processes have written theirs. The step is looked for
  under its temporary name, then under its final one (in a bucket).
  """
  writing = files.matching(directory, f'{step}{_TEMPORARY}*')
  folder = writing[-1] if writing else epath.Path(directory) / str(step)
  sizes = _sizes(folder)
  hashed = sorted(sizes.keys() - set(_WRITTEN_LAST))
  digests = _digests(folder, hashed)
  entries = {n: {'bytes': sizes[n], 'sha256': digests[n]} for n in hashed}
  items = _written_items(folder / _METADATA)
  files.write_json(folder / HASHES, dict(
      files=entries, items=items, sha256=_fingerprint(entries, items)))


def verify(
    directory: files.Path, step: int, index: int = 0, count: int = 1) -> State:
  """Compares a step with its hashes.

  Names and sizes are compared of all files, contents of part `index` of `count`
  equal parts.
  """
  folder = epath.Path(directory) / str(step)
  sizes = _sizes(folder)
  result = functools.partial(State, step, num_bytes=sum(sizes.values()))
  if HASHES not in sizes:
    return result(
        'incomplete', problem=f'{HASHES}: missing, the save was cut off')
  expected = _read_hashes(folder / HASHES)
  if expected is None:
    return result('damaged', problem=f'{HASHES}: content differs')
  entries, items = expected
  problem = _problem(
      folder, sizes, entries, items, sorted(entries)[index::count])
  extra = sorted(sizes.keys() - entries.keys() - {HASHES, *_WRITTEN_LAST})
  return result(
      'damaged' if problem else 'ok', problem=problem, extra=tuple(extra))


def set_aside(directory: files.Path, step: int) -> None:
  """Moves a step to `quarantine/<step>-<n>`, the first free n.

  On a disk this is one rename. In a bucket the files are copied before any is
  removed, so a second call after an interruption loses nothing.
  """
  directory = epath.Path(directory)
  folder, quarantine = directory / str(step), directory / QUARANTINE
  quarantine.mkdir(parents=True, exist_ok=True)
  targets = (quarantine / f'{step}-{n}' for n in itertools.count(1))
  target = next(path for path in targets if not path.exists())
  if files.is_remote(directory):
    for name in _sizes(folder):
      (target / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / name).copy(target / name)
    folder.rmtree()
  else:
    folder.rename(target)


def remove_leftovers(directory: files.Path) -> None:
  """Removes what saves and deletions that were cut off have left.

  These are folders under a temporary name, old steps on their way out and, in
  a bucket, where steps have their final name from the start, steps that are
  neither hashed nor committed. A finished step is never touched.
  """
  for path in files.matching(directory, '*'):
    is_torn = (
        files.is_remote(directory) and path.name.isdecimal()
        and not (path / HASHES).exists() and not (path / _COMMIT).exists())
    if _TEMPORARY in path.name or path.name == DELETING or is_torn:
      path.rmtree(missing_ok=True)


def _sizes(folder: epath.Path, prefix: str = '') -> dict[str, int]:
  """Bytes of all files, by their names below the first folder."""
  sizes = {}
  for path in folder.iterdir():
    if path.is_dir():
      sizes |= _sizes(path, f'{prefix}{path.name}/')
    else:
      sizes[f'{prefix}{path.name}'] = path.stat().length
  return sizes


def _digests(folder: epath.Path, names: list[str]) -> dict[str, str]:
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return dict(zip(names, pool.map(lambda n: files.sha256(folder / n), names)))


def _written_items(path: epath.Path) -> dict[str, str]:
  """What Orbax says of the items, as soon as a thread of its own wrote it."""
  deadline = time.monotonic() + _METADATA_SECONDS
  while (items := _items(path)) is None:
    if time.monotonic() > deadline:
      raise TimeoutError(
          f'{path}: names no items after {_METADATA_SECONDS} s; the step is '
          'not saved.')
    time.sleep(0.01)
  return items


def _items(path: epath.Path) -> dict[str, str] | None:
  """Item names and their kinds; times may differ. None: not readable."""
  try:
    metadata = files.read_json(path, item_handlers=dict)
  except (OSError, config_lib.UserError):
    return None
  is_readable = all(  # by Orbax
      metadata.get(name) is None or isinstance(metadata[name], kind)
      for name, kind in _METADATA_FIELDS.items())
  return metadata['item_handlers'] if is_readable else None


def _fingerprint(entries: dict, items: dict | None) -> str:
  text = json.dumps([entries, items], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _read_hashes(path: epath.Path) -> tuple[dict, dict | None] | None:
  try:
    hashes = files.read_json(path, files=dict, items=dict, sha256=str)
  except config_lib.UserError:
    return None
  entries, items = hashes['files'], hashes['items']
  is_whole = hashes['sha256'] == _fingerprint(entries, items)
  return (entries, items) if is_whole else None


def _problem(
    folder: epath.Path, sizes: dict, entries: dict, items: dict | None,
    names: list[str]) -> str | None:
  """The first file that is not as it was, and how; hashes `names` only."""
  for name in (*sorted(entries), *_WRITTEN_LAST):
    if name not in sizes:
      return f'{name}: missing'
    if name in entries and sizes[name] != entries[name]['bytes']:
      return f'{name}: {sizes[name]} bytes instead of {entries[name]["bytes"]}'
  if _items(folder / _METADATA) != items:
    return f'{_METADATA}: content differs'
  for name, digest in _digests(folder, names).items():
    if digest != entries[name]['sha256']:
      return f'{name}: content differs'
  return None
