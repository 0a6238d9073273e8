# SPDX-License-Identifier: Apache-2.0
"""The working directory of a run: opened by one run at a time."""

from collections.abc import Iterator
import contextlib
import errno
import re

from etils import epath
import ml_collections

from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.runtime import lease
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.training import compilation


@contextlib.contextmanager
def opened(
    workdir: files.Path, config: ml_collections.ConfigDict,
    experiment: experiment_lib.Experiment,
) -> Iterator[epath.Path]:
  """Keeps the workdir for this run alone while inside.

  Args:
    workdir: local or in a bucket; made if missing.
    config: of the run, as it is written to `config.json`.
    experiment: the same, typed.

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
    if cache != 'off':
      compilation.use_cache(
          str(directory / 'compilation_cache' if cache == 'workdir'
              else files.path(cache)))
    with full_disk(directory, experiment.num_bytes()):
      yield directory


@contextlib.contextmanager
def full_disk(workdir: epath.Path, num_bytes: int) -> Iterator[None]:
  """Turns the error of a full disk into one line.

  Raises:
    UserError: names the file and what the run needs.
  """
  try:
    yield
  except (OSError, RuntimeError, ValueError) as e:  # also of Orbax, ArrayRecord
    is_full = getattr(e, 'errno', None) in (errno.ENOSPC, errno.EDQUOT)
    if not is_full and not re.search(
        'RESOURCE_EXHAUSTED|No space left|Disk quota exceeded', str(e)):
      raise
    words = ' '.join(str(e).split())
    paths = re.findall(r'(?:file|riting:?) "?(/[^";]+)', words)
    name = getattr(e, 'filename', None) or (paths[-1] if paths else words)
    raise config_lib.UserError(
        f'{name}: the disk is full; the checkpoints of this run need about '
        f'{num_bytes / 1e6:,.1f} MB in {workdir}. Free some and rerun the same '
        'command: what is saved stays.') from e


def claim(
    workdir: files.Path, config: ml_collections.ConfigDict, *,
    is_writer: bool = True,
) -> epath.Path:
  """Writes `config.json` into a workdir of this version.

  Args:
    workdir: local or in a bucket; made if missing.
    config: of the run.
    is_writer: False only checks; one process of a run writes.

  Returns:
    The workdir, absolute where it is local.

  Raises:
    UserError: it was made by another version, or cannot be read or written.
  """
  workdir = files.path(workdir)
  try:
    _check(workdir / 'config.json')
    if is_writer:
      files.write_json(workdir / 'config.json', config.to_dict())
  except files.errors() as e:
    raise config_lib.UserError(
        f'--workdir: cannot write in {workdir} ({" ".join(str(e).split())}); '
        'make it writable or use another one.') from e
  return workdir


def _check(path: epath.Path) -> None:
  """Raises UserError where a workdir has another schema."""
  if not path.exists():
    return
  saved = files.read_json(path)
  if not isinstance(saved, dict):
    raise config_lib.UserError(
        f'{path}: holds no settings; delete the file if this is the workdir of '
        'a run, or use another --workdir.')
  if saved.get('schema') != experiment_lib.SCHEMA:
    raise config_lib.UserError(
        f'{path}: this workdir has schema {saved.get("schema", 1)}, this '
        f'version continues {experiment_lib.SCHEMA}; use another --workdir, '
        'or the version that made it.')
