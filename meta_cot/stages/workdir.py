# SPDX-License-Identifier: Apache-2.0
"""The working directory of a run: whose it is, and what is finished in it."""

from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import json
import re

from etils import epath
import ml_collections

from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.runtime import lease
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import base
from meta_cot.training import compilation

# Stages that are done anew where these of their settings have changed.
_SETTINGS = {
    'sft': ('arms',), 'evaluate': ('arms', 'evaluation'),
    'search': ('search',), 'rl': ('rl',)}
DONE = 'done\n'


@contextlib.contextmanager
def full_disk(
    workdir: epath.Path, experiment: experiment_lib.Experiment
) -> Iterator[None]:
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
    needed = experiment_lib.bytes_on_disk(experiment) / 1e6
    words = ' '.join(str(e).split())
    paths = re.findall(r'(?:file|riting:?) "?(/[^";]+)', words)
    name = getattr(e, 'filename', None) or (paths[-1] if paths else words)
    raise config_lib.UserError(
        f'{name}: the disk is full; the checkpoints of this run need about '
        f'{needed:,.1f} MB in {workdir}. Free some and rerun the same command: '
        'what is saved stays.') from e


@contextlib.contextmanager
def opened(
    workdir: files.Path, config: ml_collections.ConfigDict,
    experiment: experiment_lib.Experiment,
) -> Iterator[epath.Path]:
  """The workdir, for this run alone while inside.

  Args:
    workdir: local or in a bucket; made if missing.
    config: of the run, as it is written to `config.json`.
    experiment: the same, typed.

  Raises:
    UserError: it cannot be written, is in use by another run, or belongs to
      another config.
  """
  is_primary = distributed.is_primary()
  if is_primary:
    lease.check_writable(workdir, experiment_lib.bytes_on_disk(experiment))
  with lease.hold(workdir, is_primary=is_primary):
    directory = claim(workdir, config, is_writer=is_primary)
    if is_primary:
      files.remove_temporaries(directory)
    cache = experiment.compilation_cache
    if cache != 'off':
      compilation.use_cache(
          str(directory / 'compilation_cache' if cache == 'workdir'
              else files.path(cache)))
    with full_disk(directory, experiment):
      yield directory


def claim(
    workdir: files.Path, config: ml_collections.ConfigDict, *,
    is_writer: bool = True,
) -> epath.Path:
  """Writes `config.json`, or checks it against the one that is there.

  Args:
    workdir: local or in a bucket; made if missing.
    config: of the run.
    is_writer: False only checks; one process of a run writes.

  Returns:
    The workdir, absolute where it is local.

  Raises:
    ConfigError: the directory belongs to another config; names the first
      differences.
    UserError: it cannot be read or written.
  """
  workdir = files.path(workdir)
  try:
    _check(workdir / 'config.json', config)
    if is_writer:
      files.write_json(workdir / 'config.json', config.to_dict())
  except files.errors() as e:
    raise config_lib.UserError(
        f'--workdir: cannot write in {workdir} ({" ".join(str(e).split())}); '
        'make it writable or use another one.') from e
  return workdir


def _check(path: epath.Path, config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError where the file has another config."""
  if not path.exists():
    return
  theirs = files.read_json(path)
  if not isinstance(theirs, dict):
    raise config_lib.UserError(
        f'{path}: holds no settings; delete the file if this is the workdir of '
        'a run, or use another --workdir.')
  differences = config_lib.differences(
      theirs, config.to_dict(), cls=experiment_lib.Experiment, where='there')
  if differences:
    raise config_lib.ConfigError(
        f'{path}: this workdir was made with another config '
        f'({"; ".join(differences[:3])}); use another --workdir.')


def is_done(workdir: epath.Path, stage: str, mark: str = DONE) -> bool:
  """Whether `stage` has finished here, with the same mark."""
  path = workdir / 'done' / stage
  return path.exists() and path.read_text() == mark


def is_whole(
    workdir: epath.Path, stage: str, experiment: experiment_lib.Experiment
) -> bool:
  """Whether what a finished stage has left is there; data is read through."""
  if stage == 'problems':
    splits = experiment.task.make(experiment.seed).splits
    return all(store.is_whole(workdir / 'problems', s) for s in splits)
  if stage == 'generate_traces':
    return all(store.is_whole(workdir / 'traces', split)
               for split in (base.TRAIN, base.VALIDATION))
  if stage == 'train_tokenizer':
    return tokenizers.is_whole(workdir / 'tokenizer')
  left = {
      'sft': [f'sft/{arm}/summary.json' for arm in experiment.arms],
      'evaluate': ['eval/summary.json', 'eval/report.md'],
      'search': ['search/summary.json', 'search/report.md'],
      'rl': ['rl/report.md']}
  return all((workdir / name).exists() for name in left[stage])


def mark_done(
    workdir: epath.Path, stage: str, mark: str = DONE, *,
    is_writer: bool = True,
) -> None:
  """Records that `stage` has finished; one process of a run writes."""
  if is_writer:
    files.write_atomic(workdir / 'done' / stage, mark)


def forget(workdir: epath.Path, stage: str) -> None:
  """Takes back that `stage` has finished: what it left is about to change."""
  (workdir / 'done' / stage).unlink(missing_ok=True)


def mark(stage: str, experiment: experiment_lib.Experiment) -> str:
  """What is recorded of a finished stage: the settings that are its own."""
  if stage not in _SETTINGS:
    return DONE
  names = _SETTINGS[stage]
  if stage == 'rl' and experiment.rl.episodes.has_search:
    names += ('search',)
  values = dataclasses.asdict(experiment)
  return f'done with {json.dumps({name: values[name] for name in names})}\n'
