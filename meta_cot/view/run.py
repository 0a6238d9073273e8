# SPDX-License-Identifier: Apache-2.0
"""A workdir as plain values: what ran, and what every stage left.

All values are those of JSON. What a stage has not left yet is left out, so
that a run can be looked at while it goes on.
"""

from collections.abc import Callable, Iterable
import importlib
import importlib.util
import itertools
from typing import Any

from etils import epath

from data_pipelines import store
from meta_cot import traces
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import symbolic
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.training import metrics as metrics_lib
from meta_cot.view import bench
from meta_cot.view import rollouts
from meta_cot.view import searches

_SHARED = ('seed', 'style', 'task', 'model', 'mesh')
_MAX_HEAD = 4000  # letters of a report


def read(
    workdir: epath.Path, *, max_rollouts: int, max_problems: int
) -> dict[str, Any]:
  """Reads a workdir.

  Returns:
    `name`; `shared`, settings as (name, value, default); `stages`, in their
    order, see `_stage`.

  Raises:
    UserError: there is none, or a file of it is damaged; names it.
  """
  path = workdir / 'config.json'
  if not path.exists():
    raise config_lib.UserError(
        f'--workdir: got {workdir}; there is no config.json in it: name the '
        'folder of a run.')
  there = files.read_json(path, stages=list)
  num_policies = max(len(rollouts.kept_by(workdir)), 1)
  limits = dict(
      max_rollouts=max_rollouts // num_policies, max_problems=max_problems,
      style=there.get('style'))
  shared = {k: there[k] for k in _SHARED if k in there}
  stages = [
      _stage(workdir, name, there[name], limits)
      for name in there['stages'] if isinstance(there.get(name), dict)]
  _add_teacher(workdir, stages, limits)
  return dict(
      name=workdir.name, shared=_settings(shared, _defaults('base')),
      stages=stages)


def _add_teacher(workdir, stages, limits) -> None:
  """Puts the teacher's search of a problem beside the searches of a model."""
  wanted = [
      s for s in stages if s.get('searches') and s['kind'] != 'traces']
  for made in wanted:
    records = rows_lib.records(
        workdir / made['name'] / 'rows' / symbolic.POLICY)
    for name in (s['name'] for s in stages if s['kind'] == 'traces'):
      records = itertools.chain(
          records, *_taught(workdir / name, limits).values())
    searches.add_teacher(made['searches'], records, limits['style'])


def _taught(directory, limits) -> dict[str, Iterable[traces.TraceRecord]]:
  """The first records of a stage of kind `traces`, by split."""
  if not (directory / store.MANIFEST).exists():
    return {}
  found = {
      split: store.read(directory, split)
      for split in store.read_manifest(directory).splits}
  return {
      split: (records[i] for i in range(min(
          limits['max_problems'], len(records))))
      for split, records in found.items()}


def _teaching(directory, limits) -> dict[str, Any]:
  return dict(searches=[
      problem for split, records in _taught(directory, limits).items()
      for problem in searches.taught(records, split, limits['style'])])


def _stage(workdir, name, group, limits) -> dict[str, Any]:
  """One stage: `name`, `kind`, `state`, `machines`, `settings`, `head`; and by
  its kind `curves`, `rl`, `evaluation`, `searches` or `quality`."""
  directory, kind = workdir / name, group.get('kind', '')
  state = 'planned'
  for mark, word in (('begun', 'begun'), ('done', 'done')):
    if (workdir / mark / f'{name}.json').exists():
      state = word
  machines = workdir / 'machines' / f'{name}.json'
  made = dict(
      name=name, kind=kind, state=state,
      machines=files.read_json(machines, machines=list)['machines']
      if machines.exists() else [],
      settings=_settings(group, _defaults('kinds', kind)),
      head=_head(directory / 'report.md'))
  if directory.is_dir():
    made |= _READERS.get(kind, lambda directory, limits: {})(directory, limits)
  return made


def _head(path: epath.Path) -> str:
  """What a report says before its first section; '' for none."""
  if not path.exists():
    return ''
  text = path.read_text().partition('\n## ')[0]
  return text.partition('\n')[2].strip()[:_MAX_HEAD]


def _curves(directory: epath.Path) -> list[dict[str, Any]]:
  """Metrics of every policy below a folder: `run`, `rows`, `summary`."""
  found = []
  for path in sorted(_below(directory, 'metrics.jsonl', depth=2)):
    summary = path.parent / 'summary.json'
    run = '/'.join(path.parent.parts[len(directory.parts):])
    found.append(dict(
        run=run, rows=metrics_lib.read(path),
        summary=files.read_json(summary) if summary.exists() else None))
  return found


def _below(directory: epath.Path, name: str, depth: int) -> list[epath.Path]:
  found = [directory / name] if (directory / name).exists() else []
  if depth:
    for child in files.matching(directory, '*'):
      if child.is_dir() and child.name not in ('checkpoints', 'best'):
        found += _below(child, name, depth - 1)
  return found


def _trained(directory, limits) -> dict[str, Any]:
  del limits
  return dict(curves=_curves(directory))


def _rl(directory, limits) -> dict[str, Any]:
  curves = _curves(directory)
  return dict(curves=curves, rl=[
      made for curve in curves if (made := rollouts.read(
          directory / curve['run'], curve['run'], limits['max_rollouts']))])


def _evaluated(directory, limits) -> dict[str, Any]:
  return dict(
      evaluation=bench.read(directory), searches=searches.read(
          directory, limits['max_problems']))


def _searched(directory, limits) -> dict[str, Any]:
  return dict(searches=searches.read(directory, limits['max_problems']))


def _quality(directory, limits) -> dict[str, Any]:
  del limits
  path = directory / 'summary.json'
  return dict(quality=files.read_json(path, sources=dict)) if (
      path.exists()) else {}


_READERS: dict[str, Callable[..., dict[str, Any]]] = {
    'traces': _teaching, 'train': _trained, 'rl': _rl,
    'evaluate': _evaluated, 'search': _searched, 'quality': _quality}


def _defaults(module: str, kind: str | None = None) -> dict[str, Any]:
  """Settings as the configs have them; none where these are not installed."""
  if importlib.util.find_spec('configs') is None:
    return {}
  found = importlib.import_module(f'configs.{module}')
  make = getattr(found, 'get_config' if kind is None else kind, None)
  return make().to_dict() if callable(make) else {}


def _settings(group: dict, defaults: dict) -> list[list]:
  """(name, value, default or None) of all settings, in the order of names."""
  flat, usual = dict(_flat(group)), dict(_flat(defaults))
  return [[name, _word(value), _word(usual[name]) if name in usual else None]
          for name, value in flat.items()]


def _flat(group: dict, before: str = ''):
  for name, value in sorted(group.items()):
    if isinstance(value, dict):
      yield from _flat(value, f'{before}{name}.')
    else:
      yield f'{before}{name}', value


def _word(value: Any) -> str:
  """A setting as it is shown; tuples and lists are the same."""
  return str(list(value) if isinstance(value, tuple) else value)
