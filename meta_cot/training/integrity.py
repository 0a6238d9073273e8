# SPDX-License-Identifier: Apache-2.0
"""Content hashes of checkpoint steps, and what is wrong with a step.

`seal` writes `hashes.json` into a step that is complete but not yet visible
under its final name, so every finished step has it. `verify` reads a step
again. Nothing here writes to a finished step, and no device is touched.
"""

from collections.abc import Iterator
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import time

from etils import epath

from meta_cot.runtime import files

HASHES = 'hashes.json'
QUARANTINE = 'quarantine'
DELETING = 'deleting'  # old steps are renamed into it before they are removed
_COMMIT = 'commit_success.txt'  # its presence is what counts
_METADATA = '_CHECKPOINT_METADATA'  # names the kind of every item
# Orbax writes these after the step is sealed; `verify` looks at what they say.
_WRITTEN_LAST = (_COMMIT, _METADATA)
_TEMPORARY = '.orbax-checkpoint-tmp'
_CHUNK_BYTES = 1 << 22
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


@dataclasses.dataclass(frozen=True)
class Share:
  """Which part of the files this process reads."""

  index: int = 0
  count: int = 1


def steps(directory: epath.PathLike) -> list[int]:
  """Steps that have a folder in `directory`, oldest first."""
  directory = epath.Path(directory)
  if not directory.exists():
    return []
  names = [p.name for p in directory.iterdir()]
  return sorted(int(name) for name in names if name.isdecimal())


def seal(directory: epath.PathLike, step: int) -> None:
  """Hashes all files of a step that is being saved.

  To be called when all processes have written theirs. The step is looked for
  under its temporary name, then under its final one.

  Args:
    directory: of the checkpoints.
    step: the step being saved.

  Raises:
    FileNotFoundError: no such step.
  """
  directory = epath.Path(directory)
  names = [p.name for p in directory.iterdir()]
  writing = [n for n in names if n.startswith(f'{step}{_TEMPORARY}')]
  if not writing and str(step) not in names:
    raise FileNotFoundError(f'{directory}: step {step} is not being saved.')
  folder = directory / (max(writing) if writing else str(step))
  sizes = _sizes(folder)
  hashed = sorted(sizes.keys() - set(_WRITTEN_LAST))
  digests = _digests(folder, hashed)
  entries = {n: {'bytes': sizes[n], 'sha256': digests[n]} for n in hashed}
  items = _written_items(folder / _METADATA)
  files.write_json(folder / HASHES, dict(
      files=entries, items=items, sha256=_fingerprint(entries, items)))


def verify(
    directory: epath.PathLike, step: int, share: Share = Share()) -> State:
  """Compares a step with its hashes.

  Args:
    directory: of the checkpoints.
    step: the step to read.
    share: contents are hashed of this part of the files only; names and sizes
      are compared of all.

  Returns:
    The state; `problem` names the first damaged file.
  """
  folder = epath.Path(directory) / str(step)
  sizes = _sizes(folder)
  result = functools.partial(State, step, num_bytes=sum(sizes.values()))
  if HASHES not in sizes:
    return result('incomplete', problem=(
        f'{HASHES}: missing, the save was cut off'))
  expected = _read_hashes(folder / HASHES)
  if expected is None:
    return result('damaged', problem=f'{HASHES}: content differs')
  entries, items = expected
  problem = (
      _wrong_names_or_sizes(sizes, entries)
      or _wrong_metadata(folder / _METADATA, items)
      or _wrong_contents(folder, entries, share))
  extra = sorted(sizes.keys() - entries.keys() - {HASHES, *_WRITTEN_LAST})
  return result(
      'damaged' if problem else 'ok', problem=problem, extra=tuple(extra))


def set_aside(directory: epath.PathLike, step: int) -> epath.Path:
  """Moves a step to `quarantine/<step>-<n>`, the first free n.

  On a disk this is one rename. In a bucket the files are copied before any is
  removed, so a second call after an interruption loses nothing.

  Returns:
    Where the step is now.
  """
  directory = epath.Path(directory)
  folder, quarantine = directory / str(step), directory / QUARANTINE
  quarantine.mkdir(parents=True, exist_ok=True)
  n = 1
  while (target := quarantine / f'{step}-{n}').exists():
    n += 1
  if files.is_remote(directory):
    for name in _sizes(folder):
      (target / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / name).copy(target / name)
    folder.rmtree()
  else:
    folder.rename(target)
  return target


def remove_leftovers(directory: epath.PathLike) -> None:
  """Removes what saves and deletions that were cut off have left.

  These are folders under a temporary name, old steps on their way out and, in
  a bucket, where steps have their final name from the start, steps that are
  neither hashed nor committed. A finished step is never touched.
  """
  directory = epath.Path(directory)
  if not directory.exists():
    return
  for path in directory.iterdir():
    is_torn = (
        files.is_remote(directory) and path.name.isdecimal()
        and not (path / HASHES).exists() and not (path / _COMMIT).exists())
    if _TEMPORARY in path.name or path.name == DELETING or is_torn:
      path.rmtree(missing_ok=True)


def _walk(folder: epath.Path, prefix: str = '') -> Iterator[str]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _walk(path, f'{prefix}{path.name}/')
    else:
      yield f'{prefix}{path.name}'


def _sizes(folder: epath.Path) -> dict[str, int]:
  return {name: (folder / name).stat().length for name in _walk(folder)}


def _digest(path: epath.Path) -> str:
  digest = hashlib.sha256()
  with path.open('rb') as f:
    while chunk := f.read(_CHUNK_BYTES):
      digest.update(chunk)
  return digest.hexdigest()


def _digests(folder: epath.Path, names: list[str]) -> dict[str, str]:
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return dict(zip(names, pool.map(lambda n: _digest(folder / n), names)))


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
    metadata = json.loads(path.read_bytes())
    return metadata['item_handlers']
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _fingerprint(entries: dict, items: dict | None) -> str:
  text = json.dumps([entries, items], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _read_hashes(path: epath.Path) -> tuple[dict, dict | None] | None:
  try:
    hashes = json.loads(path.read_bytes())
    entries, items = hashes['files'], hashes['items']
    is_whole = hashes['sha256'] == _fingerprint(entries, items)
  except (ValueError, KeyError, TypeError):
    return None
  return (entries, items) if is_whole else None


def _wrong_names_or_sizes(sizes: dict, entries: dict) -> str | None:
  for name in (*sorted(entries), *_WRITTEN_LAST):
    if name not in sizes:
      return f'{name}: missing'
    if name in entries and sizes[name] != entries[name]['bytes']:
      return f'{name}: {sizes[name]} bytes instead of {entries[name]["bytes"]}'
  return None


def _wrong_metadata(path: epath.Path, items: dict | None) -> str | None:
  return None if _items(path) == items else f'{path.name}: content differs'


def _wrong_contents(
    folder: epath.Path, entries: dict, share: Share) -> str | None:
  names = sorted(entries)[share.index::share.count]
  for name, digest in _digests(folder, names).items():
    if digest != entries[name]['sha256']:
      return f'{name}: content differs'
  return None
