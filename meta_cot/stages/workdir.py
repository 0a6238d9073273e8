# SPDX-License-Identifier: Apache-2.0
"""The working directory of a run: opened by one run at a time."""

from collections.abc import Iterator
import contextlib

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
  with lease.hold(workdir, is_primary=is_primary):
    directory = claim(workdir, config, is_writer=is_primary)
    if is_primary:
      files.remove_temporaries(directory)
    cache = experiment.compilation_cache
    if cache != 'off':
      compilation.use_cache(
          str(directory / 'compilation_cache') if cache == 'workdir' else cache)
    yield directory


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
  saved = files.read_object(path)
  if saved.get('schema') != experiment_lib.SCHEMA:
    raise config_lib.UserError(
        f'{path}: this workdir has schema {saved.get("schema", 1)}, this '
        f'version continues {experiment_lib.SCHEMA}; use another --workdir, '
        'or the version that made it.')
