# SPDX-License-Identifier: Apache-2.0
"""What two runs of one command left: where they differ, and what is litter.

Everything in a workdir is compared, bit for bit, but for times and for what
depends on times (named below). Checkpoints are read with Orbax alone.
"""

from collections.abc import Iterator
import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from tensorboard.backend.event_processing import event_file_loader

# Columns of metrics.jsonl and TensorBoard; `seconds/step` and so on.
TIMING_COLUMNS = re.compile(
    r'tokens_per_second|model_flops_utilization|programs_compiled|seconds/.+|'
    r'time/.+')
# Keys of summary.json, at any depth, and of the rows of a bench.
TIMING_KEYS = ('seconds',)
# Columns of the tables of report.md begin so; in one table all behind, too.
TIMING_HEADER, TIMING_TABLE = 'seconds', '## Training'
# Folders of a workdir that are compared by what they hold, or not at all.
_CHECKPOINTS = re.compile(r'(.*/)?(checkpoints|best)/')
_TENSORBOARD = re.compile(r'(.*/)?tensorboard/')
_UNCOMPARED = re.compile(r'compilation_cache/|(.*/)?quarantine/')


def differences(
    expected: pathlib.Path, actual: pathlib.Path) -> list[str]:
  """One line per file, checkpoint or row of `actual` that is not as expected.

  Args:
    expected: workdir of an unbroken run.
    actual: workdir of a run of the same command.
  """
  there, here = set(_files(expected)), set(_files(actual))
  lines = [f'{name}: missing' for name in sorted(there - here)]
  lines += [f'{name}: unexpected' for name in sorted(here - there)]
  for name in sorted(there & here):
    reason = _difference(expected / name, actual / name)
    lines += [f'{name}: {reason}'] if reason else []
  for directory in sorted(
      (*expected.rglob('checkpoints'), *expected.rglob('best'))):
    name = directory.relative_to(expected)
    lines += (
        f'{name}/{line}'
        for line in _checkpoint_differences(directory, actual / name))
  for directory in sorted(expected.rglob('tensorboard')):
    name = directory.relative_to(expected)
    reason = _scalar_difference(directory, actual / name)
    lines += [f'{name}: {reason}'] if reason else []
  return lines


def litter(workdir: pathlib.Path) -> list[str]:
  """Temporary files, sidecars and leases that a finished run must not leave."""
  names = (p.relative_to(workdir) for p in sorted(workdir.rglob('*')))
  return [
      str(name) for name in names
      if re.search(r'te?mp|^\.|lease|interrupted', name.name)]


def quarantined(workdir: pathlib.Path) -> list[str]:
  """Checkpoints that were moved aside because they were not whole."""
  return sorted(
      str(path.relative_to(workdir))
      for path in workdir.rglob('quarantine/*'))


def _files(workdir: pathlib.Path) -> Iterator[str]:
  for path in workdir.rglob('*'):
    name = path.relative_to(workdir).as_posix()
    folders = (_CHECKPOINTS, _TENSORBOARD, _UNCOMPARED)
    if path.is_file() and not any(f.match(name) for f in folders):
      yield name


def _difference(expected: pathlib.Path, actual: pathlib.Path) -> str | None:
  """How two files differ, apart from times."""
  if expected.name == 'metrics.jsonl':
    return _row_difference(_rows(expected), _rows(actual))
  if expected.suffix == '.jsonl':  # of a bench
    there, here = (
        [_without_times(json.loads(line))
         for line in p.read_text().splitlines()] for p in (expected, actual))
    return None if there == here else 'content differs'
  if expected.name == 'summary.json':
    there, here = (
        _without_times(json.loads(p.read_text())) for p in (expected, actual))
  elif expected.name == 'report.md':
    there, here = (
        _untimed_report(p.read_text()) for p in (expected, actual))
  else:
    there, here = expected.read_bytes(), actual.read_bytes()
  return None if there == here else 'content differs'


def _rows(path: pathlib.Path) -> list[dict[str, float]]:
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  return [
      {k: v for k, v in row.items() if not TIMING_COLUMNS.fullmatch(k)}
      for row in rows]


def _row_difference(expected: list[dict], actual: list[dict]) -> str | None:
  steps = [[row['step'] for row in rows] for rows in (expected, actual)]
  if steps[0] != steps[1]:
    return f'rows of steps {steps[1]}, expected {steps[0]}'
  for there, here in zip(expected, actual):
    for key in there.keys() | here.keys():
      if there.get(key) != here.get(key):
        return (
            f'step {there["step"]}: {key} is {here.get(key)}, expected '
            f'{there.get(key)}')
  return None


def _without_times(value: Any) -> Any:
  if isinstance(value, dict):
    return {
        k: _without_times(v) for k, v in value.items()
        if k not in TIMING_KEYS}
  if isinstance(value, list):
    return [_without_times(x) for x in value]
  return value


def _untimed_report(text: str) -> str:
  """The report, its tables without times."""
  lines, heading, timed = [], '', set()
  for line in text.splitlines():
    if line.startswith('#'):
      heading = line
    if line.startswith('|'):
      cells = line.split('|')
      if not (lines and lines[-1].startswith('|')):
        timed = _timed_columns(cells, heading)
      line = '|' + '|'.join(
          cell for i, cell in enumerate(cells) if i not in timed)
    lines.append(line)
  return '\n'.join(lines)


def _timed_columns(header: list[str], heading: str) -> set[int]:
  timed = {
      i for i, cell in enumerate(header)
      if cell.strip().startswith(TIMING_HEADER)}
  if timed and heading.startswith(TIMING_TABLE):
    timed = set(range(min(timed), len(header)))
  return timed


def _steps(directory: pathlib.Path) -> list[int]:
  return sorted(
      int(p.name) for p in directory.iterdir() if p.name.isdigit())


def _checkpoint_differences(
    expected: pathlib.Path, actual: pathlib.Path) -> Iterator[str]:
  """Differs in steps, arrays, data position, settings or tokenizer."""
  if not actual.is_dir():
    yield 'missing'
    return
  there, here = _steps(expected), _steps(actual)
  if there != here:
    yield f'steps {here}, expected {there}'
  with ocp.PyTreeCheckpointer() as checkpointer:
    for step in sorted(set(there) & set(here)):
      trees = [
          _restore(checkpointer, (d / str(step) / 'state').absolute())
          for d in (expected, actual)]
      yield from (f'{step}/state{x}' for x in _array_differences(*trees))
      yield from (
          f'{step}/{x}' for x in _item_differences(
              expected / str(step), actual / str(step)))


def _restore(checkpointer: ocp.PyTreeCheckpointer, path: pathlib.Path) -> Any:
  """A tree of NumPy arrays, of however many processes."""
  arrays = checkpointer.metadata(path).item_metadata.tree
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  return checkpointer.restore(path, args=ocp.args.PyTreeRestore(
      restore_args=jax.tree.map(lambda _: as_numpy, arrays)))


def _array_differences(expected: Any, actual: Any) -> Iterator[str]:
  there, here = (
      {jax.tree_util.keystr(path): np.asarray(leaf)
       for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
      for tree in (expected, actual))
  for key in sorted(there.keys() | here.keys()):
    if key not in there or key not in here:
      yield f'{key}: only in one of them'
    elif (there[key].dtype != here[key].dtype
          or there[key].shape != here[key].shape
          or there[key].tobytes() != here[key].tobytes()):
      yield f'{key}: bits differ'


def _item_differences(
    expected: pathlib.Path, actual: pathlib.Path) -> Iterator[str]:
  """The files of a step's items that are not arrays."""
  for item in expected.iterdir():
    if not item.is_dir() or item.name == 'state':
      continue
    for path in item.rglob('*'):
      name = path.relative_to(expected)
      if not path.is_file() or path.name == 'commit_success.txt':
        continue  # Orbax writes the path of the step into that one
      if not (actual / name).is_file():
        yield f'{name}: missing'
      elif path.read_bytes() != (actual / name).read_bytes():
        yield f'{name}: content differs'


def _scalars(directory: pathlib.Path) -> list[tuple[int, str, float]]:
  """(step, tag, value) of all event files, without times, in order."""
  found = []
  for path in directory.rglob('events*'):
    for event in event_file_loader.EventFileLoader(str(path)).Load():
      for value in event.summary.value:
        if not TIMING_COLUMNS.fullmatch(value.tag):
          found.append((event.step, value.tag, value.tensor.float_val[0]))
  return sorted(found)


def _scalar_difference(
    expected: pathlib.Path, actual: pathlib.Path) -> str | None:
  there, here = _scalars(expected), _scalars(actual)
  for one, another in zip(here, here[1:]):
    if one[:2] == another[:2]:
      return f'{one[1]} of step {one[0]} is there twice'
  for pair in zip(there, here):
    if pair[0] != pair[1]:
      return f'scalar {pair[1]}, expected {pair[0]}'
  if len(there) != len(here):
    return f'{len(here)} scalars, expected {len(there)}'
  return None
