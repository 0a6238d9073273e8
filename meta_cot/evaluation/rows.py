# SPDX-License-Identifier: Apache-2.0
"""Rows: one attempt of one policy at one problem, judged, as a line of JSON.

docs/evaluation.md has the schema. A piece is the file of the rows of some
problems; it is written in one go, so that it is whole or not there.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
from typing import Any

from etils import epath
import numpy as np

from meta_cot.problem import Problem
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.traces import record as record_lib

VERSION = 2
_RECORDS = '.records'
WHOLE = 'all.jsonl'  # a piece of several solvers and splits, all problems

_FIELDS = dict(
    version=int, policy=str, seed=int, step=int, solver=str, split=str,
    problem=str, place=int, attempt=int, episode=int, is_correct=bool,
    is_finished=bool, seconds=float, details=dict)

Row = Mapping[str, Any]


def of(
    policy: base.Policy, solver: str, split: str, problems: Sequence[Problem],
    outcomes: base.Outcomes, *, place: int = 0, number: int = 0,
) -> list[dict[str, Any]]:
  """Makes the rows of what came of problems.

  The first of them stands at `place` in its split; `number` is of the round.
  """
  rows, episodes = [], outcomes.num_episodes
  first = number * (outcomes.is_correct.shape[1] // episodes)
  seconds = outcomes.seconds / outcomes.is_correct.size
  plain = lambda x: None if np.isnan(x) else float(x)
  for b, n in np.ndindex(outcomes.is_correct.shape):
    rows.append(dict(
        version=VERSION, policy=policy.label, seed=policy.seed,
        step=policy.step, trained_tokens=policy.trained_tokens, solver=solver,
        split=split, problem=problems[b].id, place=place + b,
        attempt=first + n // episodes, episode=n % episodes + 1,
        is_correct=bool(outcomes.is_correct[b, n]),
        is_finished=bool(outcomes.is_finished[b, n]),
        num_tokens=plain(outcomes.num_tokens[b, n]),
        answer=outcomes.answers[b, n],
        value=None if outcomes.values is None else plain(
            outcomes.values[b, n]),
        seconds=seconds, occupancy=outcomes.occupancy,
        cost=None if outcomes.costs is None else outcomes.costs[b, n],
        details={k: v[b, n] for k, v in outcomes.details.items()}))
  return rows


def write(path: epath.Path, rows: Iterable[Row]) -> None:
  """Writes a piece, all of it or nothing."""
  files.write_atomic(path, ''.join(json.dumps(row) + '\n' for row in rows))


def write_records(
    path: epath.Path, records: Iterable[record_lib.TraceRecord]) -> None:
  """Writes the searches behind the piece `path`, before it."""
  files.write_atomic(
      path.with_suffix(_RECORDS), ''.join(
          record_lib.to_json(record) + '\n' for record in records))


def has_records(path: epath.Path) -> bool:
  """Tells whether the searches behind the piece `path` are there."""
  return path.with_suffix(_RECORDS).exists()


def read(directory: epath.Path) -> list[dict[str, Any]]:
  """Reads the pieces of a folder; by problem, attempt and episode.

  Raises:
    UserError: what is no row, or one of another version; names it.
  """
  rows = []
  for path in files.matching(directory, '*.jsonl'):
    piece = files.read_rows(path, **_FIELDS)
    if piece and piece[-1]['version'] != VERSION:
      raise config_lib.UserError(
          f'{path}: version is {piece[-1]["version"]}, this one reads '
          f'{VERSION}; remove the folder.')
    if path.name == WHOLE:
      rows += piece
      continue
    start, stop = places(path)
    numbers = collections.Counter(row['place'] for row in piece)
    if numbers.keys() != set(range(start, stop)) or (
        len(set(numbers.values())) > 1):
      raise config_lib.UserError(
          f'{path}: some of its rows are missing; delete the file and rerun '
          'the command that wrote it.')
    rows += piece
  return sorted(
      rows, key=lambda row: (row['place'], row['attempt'], row['episode']))


def read_tree(directory: epath.Path) -> list[dict[str, Any]]:
  """Reads the rows of all policies, solvers and splits below a folder."""
  if not directory.is_dir():
    return []
  rows = read(directory)
  for child in sorted(directory.iterdir()):
    if child.is_dir():
      rows += read_tree(child)
  return rows


def places(path: epath.Path) -> tuple[int, int]:
  """Reads off the name of a piece where its problems begin and end."""
  start, stop = map(int, path.name.partition('.')[0].split('-'))
  return start, stop


def records(directory: epath.Path) -> Iterator[record_lib.TraceRecord]:
  """Reads the searches of a folder, in order of the problems."""
  for path in files.matching(directory, f'*{_RECORDS}'):
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
      try:
        yield record_lib.from_json(line)
      except ValueError as e:
        raise config_lib.UserError(
            f'{path}:{number}: {e}; remove the folder and rerun the command '
            'that wrote it.') from e


def group(rows: Iterable[Row], *keys: str) -> dict[tuple, list[Row]]:
  """Groups rows by some fields; the groups in order of appearance."""
  groups = {}
  for row in rows:
    groups.setdefault(tuple(row[k] for k in keys), []).append(row)
  return groups


def outcomes(rows: Sequence[Row]) -> base.Outcomes:
  """Gathers the attempts of one policy and solver at one split, at least one.

  Problems that have more or fewer attempts than the first one are left out.
  """
  by_problem = list(group(rows, 'place').values())
  num_attempts = len(by_problem[0])
  grid = [mine for mine in by_problem if len(mine) == num_attempts]
  column = lambda key, dtype: np.array(
      [[row[key] for row in mine] for mine in grid], dtype)
  values = column('value', np.float64)
  return base.Outcomes(
      is_correct=column('is_correct', bool),
      is_finished=column('is_finished', bool),
      num_tokens=column('num_tokens', np.float64),
      answers=column('answer', object),
      values=None if np.isnan(values).any() else values,
      num_episodes=max(row['episode'] for row in grid[0]),
      seconds=sum(row['seconds'] for mine in grid for row in mine),
      occupancy=float(np.mean([mine[0]['occupancy'] for mine in grid])),
      costs=None if grid[0][0]['cost'] is None else column('cost', object),
      details={
          k: base.objects([[row['details'].get(k) for row in mine]
                           for mine in grid])
          for k in grid[0][0]['details']})
