# SPDX-License-Identifier: Apache-2.0
"""Kept rollouts of a policy of RL: those a page shows, and all for others."""

from collections.abc import Callable, Iterable
import itertools
import json
from typing import Any

from etils import epath

from data_pipelines import tokenizers
from meta_cot.rl import atif
from meta_cot.rl import kept
from meta_cot.runtime import files
from meta_cot.training import policy as policy_lib


def read(
    directory: epath.Path, run: str, max_rollouts: int
) -> dict[str, Any] | None:
  """Reads a policy's folder.

  Returns:
    `run`; `rows`, as in `kept.FIELDS`, of evenly spaced iterations;
    `num_rows`, of how many; `pieces`, the text of every token by its id. None
    where nothing was kept.

  Raises:
    UserError: a row or the policy is damaged.
  """
  rows = kept.read(directory / kept.NAME)
  if not rows:
    return None
  some = _some(rows, max_rollouts)
  tokenizer = policy_lib.read(directory).tokenizer()
  ids = sorted({token for row in some for token in row['tokens']})
  return dict(
      run=run, rows=some, num_rows=len(rows),
      pieces={str(i): _piece(tokenizer, i) for i in ids})


def _some(rows: list[dict], max_rollouts: int) -> list[dict]:
  """All rows of as many iterations, evenly spaced, as have so many rows."""
  steps = sorted({row['step'] for row in rows})
  number = len(steps) * max_rollouts // max(len(rows), max_rollouts, 1)
  if number >= len(steps):
    return rows
  wanted = {
      steps[i * (len(steps) - 1) // max(number - 1, 1)] for i in range(number)}
  return [row for row in rows if row['step'] in wanted]


def _piece(tokenizer: tokenizers.Tokenizer, token: int) -> str:
  """The text of one token; a name in brackets where it has none."""
  if token in tokenizer.eos_ids:
    return '⟨end⟩'
  return tokenizer.decode([token]) or f'⟨{token}⟩'


def export(workdir: epath.Path, folder: epath.Path) -> int:
  """Writes all kept rollouts of a workdir as ATIF: how many there were."""
  number = 0
  for path in kept_by(workdir):
    there = path.parent
    name = '/'.join(there.parts[len(workdir.parts):])
    decode = policy_lib.read(there).tokenizer().decode
    for trajectory in trajectories(kept.read(path), decode, name):
      words = trajectory['trajectory_id'].split('/')
      target = folder.joinpath(*words[:-3], f'{"-".join(words[-3:])}.json')
      target.parent.mkdir(parents=True, exist_ok=True)
      files.write_atomic(target, json.dumps(trajectory) + '\n')
      number += 1
  return number


def trajectories(
    rows: Iterable[dict[str, Any]], decode: Callable[..., str], model: str
) -> Iterable[dict[str, Any]]:
  """Makes the object of every trajectory of rows, in their order."""
  key = lambda row: (row['step'], row['question'], row['sample'])
  for _, group in itertools.groupby(rows, key):
    yield atif.trajectory(list(group), decode, model=model)


def kept_by(workdir: epath.Path) -> list[epath.Path]:
  """Lists the files of all policies: STAGE/OBJECTIVE/SEED/NAME."""
  inside = lambda folder: [
      path for path in files.matching(folder, '*') if path.is_dir()]
  return sorted(
      seed / kept.NAME for stage in inside(workdir)
      if stage.name != 'replaced' for objective in inside(stage)
      for seed in inside(objective) if (seed / kept.NAME).exists())
