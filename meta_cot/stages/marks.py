# SPDX-License-Identifier: Apache-2.0
"""What is finished in a workdir, and with which settings it was made.

A mark is the settings of a stage (free ones left out), the shared settings it
uses, and a digest of the mark of everything it reads. It is written to
`begun/NAME.json` before a stage works and to `done/NAME.json` after. So a
changed setting makes its stage run again, and what stands on it, and nothing
else.
"""

from collections.abc import Callable, Mapping
import hashlib
import json
from typing import Any

from etils import epath

from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base

_REPLACED = 'replaced'


def make(
    context: base.Context, name: str, stage: base.Stage, settings: Any
) -> dict[str, Any]:
  """Makes the mark of a stage as it is now asked for; JSON values.

  Raises:
    UserError: something that it reads is not there.
  """
  shared = context.shared.bound()
  return json.loads(json.dumps(dict(
      settings={name: config_lib.bound(settings)},
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
  was there; `check_folder` may refuse to go on with the rest.

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
    _replace(workdir, name)
  files.write_json(path, mark)
  return reasons


def _replace(workdir: epath.Path, name: str) -> None:
  """Makes room for a stage; a bucket keeps nothing, as it cannot rename."""
  kept = workdir / _REPLACED / name
  if files.is_remote(workdir):
    (workdir / name).rmtree()
    return
  if kept.exists():
    kept.rmtree()
  kept.parent.mkdir(parents=True, exist_ok=True)
  (workdir / name).rename(kept)


def finish(workdir: epath.Path, name: str, mark: Mapping[str, Any]) -> None:
  """Records that a stage has finished."""
  files.write_json(workdir / 'done' / f'{name}.json', mark)


def _read(path: epath.Path) -> Any:
  return files.read_json(path) if path.exists() else None


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
  found = []
  for part in ('settings', 'shared'):
    found += config_lib.differences(
        before[part], now[part], where='before')
  changed = [
      reference for reference, digest in now['reads'].items()
      if before['reads'].get(reference, digest) != digest]
  found += [f'{reference} was made anew' for reference in changed]
  return found
