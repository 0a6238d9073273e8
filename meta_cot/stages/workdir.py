# SPDX-License-Identifier: Apache-2.0
"""The working directory of a run: opened by one run at a time.

A *mark* says with which settings a stage was made: its own (free ones left
out), the shared ones it uses, and a digest of the mark of everything it reads.
It is written to `begun/NAME.json` before a stage works and to `done/NAME.json`
after. So a changed setting makes its stage run again, and what stands on it,
and nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import errno
import hashlib
import json
import os
import re
from typing import Any

from etils import epath
import ml_collections

from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.runtime import lease
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.training import compilation


@contextlib.contextmanager
def opened(
    workdir: files.Path, config: ml_collections.ConfigDict,
    experiment: experiment_lib.Experiment,
) -> Iterator[epath.Path]:
  """Keeps the workdir for this run alone while inside; made if missing.

  Raises:
    UserError: it cannot be written, is in use by another run, or was made by a
      version that this one cannot continue.
  """
  is_primary = distributed.is_primary()
  if is_primary:
    lease.check_writable(workdir, experiment.num_bytes())
  with lease.hold(workdir) if is_primary else contextlib.nullcontext():
    directory = claim(workdir, config, is_writer=is_primary)
    if is_primary:
      files.remove_temporaries(directory)
    cache = experiment.compilation_cache
    is_named = bool(os.environ.get('JAX_COMPILATION_CACHE_DIR'))
    if cache != 'off' and not (cache == 'workdir' and is_named):
      compilation.use_cache(
          str(directory / 'compilation_cache' if cache == 'workdir'
              else files.path(cache)))
    with no_room(directory, experiment.num_bytes()):
      yield directory


@contextlib.contextmanager
def no_room(workdir: epath.Path, num_bytes: int) -> Iterator[None]:
  """Turns the error of a full disk, or of full memory, into one line.

  Raises:
    UserError: names the file and what the run needs.
  """
  try:
    yield
  except (OSError, RuntimeError, ValueError) as e:  # also of Orbax, ArrayRecord
    words = ' '.join(str(e).split())
    if re.search(
        '(?i)RESOURCE_EXHAUSTED.*(out of memory|attempting to)', words):
      raise config_lib.UserError(
          f'the memory of the devices is full ({words:.120}); lower '
          'batch_size, num_slots or num_questions of the stage, raise its '
          'num_accumulation, or use more devices.') from e
    is_full = getattr(e, 'errno', None) in (
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if not is_full and not re.search(
        'No space left|Disk quota exceeded|File too large', words):
      raise
    paths = re.findall(r'(?:file|riting:?) "?(/[^";]+)', words)
    name = getattr(e, 'filename', None) or (paths[-1] if paths else words)
    raise config_lib.UserError(
        f'{name}: no room on the disk; the checkpoints of this run need about '
        f'{num_bytes / 1e6:,.1f} MB in {workdir}. Free some and rerun the same '
        'command: what is saved stays.') from e


def claim(
    workdir: files.Path, config: ml_collections.ConfigDict, *,
    is_writer: bool = True,
) -> epath.Path:
  """Writes `config.json`; where `is_writer` is False, only checks.

  Returns:
    The workdir, absolute where it is local.

  Raises:
    UserError: it was made by another version, or cannot be read or written.
  """
  workdir = files.path(workdir)
  path, schema = workdir / 'config.json', experiment_lib.SCHEMA
  try:
    there = files.read_json(path) if path.exists() else dict(schema=schema)
    if there.get('schema') != schema:
      raise config_lib.UserError(
          f'{path}: this workdir has schema {there.get("schema", 1)}, this '
          f'version continues {schema}; use another --workdir, or the version '
          'that made it.')
    if is_writer:
      files.write_json(path, config.to_dict())
  except files.errors() as e:
    raise config_lib.UserError(
        f'--workdir: cannot write in {workdir} ({" ".join(str(e).split())}); '
        'make it writable or use another one.') from e
  return workdir


def check_reads(context: base.Context, groups: Sequence[base.Group]) -> None:
  """Makes sure that what stages read is there, or made before they run.

  Raises:
    UserError: something is not.
  """
  before = set()
  for group in groups:
    for part in context.parts(group.stage.reads(group.settings)):
      if part.partition('/')[0] not in before:
        _digest(context, part)
    before.add(group.name)


def make_mark(context: base.Context, group: base.Group) -> dict[str, Any]:
  """Makes the mark of a stage as it is now asked for; JSON values.

  Raises:
    UserError: something that it reads is not there.
  """
  shared, stage, settings = (
      context.shared.bound(), group.stage, group.settings)
  return json.loads(json.dumps(dict(
      settings={group.name: config_lib.bound(settings)},
      shared={field: shared[field] for field in stage.uses},
      grown=stage.grown(settings),
      reads={part: _digest(context, part)
             for part in context.parts(stage.reads(settings))})))


def is_done(workdir: epath.Path, name: str, mark: Mapping[str, Any]) -> bool:
  """Whether a stage has finished with this very mark."""
  return _read(workdir / 'done' / f'{name}.json') == mark


def begin(
    workdir: epath.Path, name: str, mark: Mapping[str, Any],
    check_folder: Callable[[], Any] = lambda: None,
) -> list[str]:
  """Makes the stage's folder ready for work with this mark.

  What was begun with another one goes to `replaced/NAME`, in the place of what
  was there (a bucket keeps nothing, as it cannot rename); `check_folder` may
  refuse to go on with the rest.

  Returns:
    What differs from the mark of what was there, a few words each; empty where
    the stage goes on or is new.
  """
  path = workdir / 'begun' / f'{name}.json'
  before = _read(path)
  reasons = [] if before is None else _differences(before, mark)
  if not reasons:
    check_folder()
  (workdir / 'done' / f'{name}.json').unlink(missing_ok=True)
  if reasons and (workdir / name).exists():
    if files.is_remote(workdir):
      (workdir / name).rmtree()
    else:
      kept = workdir / 'replaced' / name
      if kept.exists():
        kept.rmtree()
      kept.parent.mkdir(parents=True, exist_ok=True)
      (workdir / name).rename(kept)
  files.write_json(path, mark)
  return reasons


def note_machine(
    workdir: epath.Path, name: str, machine: Mapping[str, Any], *,
    is_new: bool,
) -> None:
  """Adds what a stage works on to `machines/NAME.json`, each kind once.

  Args:
    machine: of `hardware.describe`.
    is_new: whether the stage begins anew: what was there counts no more.
  """
  path = workdir / 'machines' / f'{name}.json'
  known = [] if is_new or not path.exists() else files.read_json(
      path, machines=list)['machines']
  if machine not in known:
    files.write_json(path, dict(machines=[*known, machine]))


def finish(workdir: epath.Path, name: str, mark: Mapping[str, Any]) -> None:
  """Records that a stage has finished."""
  files.write_json(workdir / 'done' / f'{name}.json', mark)


def _read(path: epath.Path) -> Any:
  """A mark; None where there is none."""
  return files.read_json(
      path, settings=dict, shared=dict, reads=dict) if path.exists() else None


def _digest(context: base.Context, reference: str) -> str:
  """Of what stands behind a reference: a stage's mark, or a folder's words."""
  folder = context.folder(reference)
  name = reference.partition('/')[0]
  candidates = [folder / 'policy.json', folder / 'manifest.json']
  if folder.is_relative_to(context.workdir):
    candidates = [context.workdir / 'done' / f'{name}.json']
  for path in candidates:
    if path.exists():
      return hashlib.sha256(path.read_bytes()).hexdigest()
  raise config_lib.UserError(
      f'{folder}: nothing finished is there (no {candidates[0].name}); run '
      f'the stage {name} first.')


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  """Settings by name, then what is read."""
  return [
      words for part in ('settings', 'shared')
      for words in config_lib.differences(
          before[part], now[part], where='before')
  ] + [
      f'{reference} was made anew'
      for reference, digest in now['reads'].items()
      if before['reads'].get(reference, digest) != digest]
