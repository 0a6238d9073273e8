# SPDX-License-Identifier: Apache-2.0
"""The one bench: policies x solvers x splits give rows, each computed once.

Choosers and budgets come later: one sampling of N serves all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import json
import logging
from typing import Any, NamedTuple

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot.evaluation import rows as rows_lib
from meta_cot.problem import Problem
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import table
from meta_cot.tasks import base as base_task
from meta_cot.types import Params, PRNGKey


class Procedure(NamedTuple):
  """A solver and what it depends on."""

  settings: Any  # a dataclass, or JSON values
  solver: base.Solver


def make(
    name: str, settings: Any, task: base_task.Task, mesh: jax.sharding.Mesh
) -> Procedure:
  """Makes the procedure of a solver of `table.SOLVERS`."""
  return Procedure(settings, table.SOLVERS[name](settings, task, mesh))


def graded(
    procedure: Procedure, difficulty: Callable[[Problem], float | None]
) -> Procedure:
  """Adds to the details of every attempt how difficult its problem is.

  Where that is known of none, nothing is added.
  """

  def solve(policy, problems, rng, *, first=0) -> base.Outcomes:
    outcomes = procedure.solver(policy, problems, rng, first=first)
    copies = outcomes.is_correct.shape[1]
    said = [difficulty(problem) for problem in problems]
    return outcomes if {*said} == {None} else dataclasses.replace(
        outcomes, details=dict(outcomes.details, difficulty=base.objects(
            [[value] * copies for value in said])))

  return procedure._replace(solver=solve)


def run(
    policies: Iterable[base.Policy], procedures: Mapping[str, Procedure],
    problems: Mapping[str, Sequence[Problem]], directory: epath.Path, *,
    rng: PRNGKey, num_rounds: int = 1, piece_size: int = 1024,
) -> list[rows_lib.Row]:
  """Answers all problems with all solvers, as all of the policies.

  Rows that are there are not computed again: with more problems, or more
  rounds, only what is missing is. Rows of other settings are removed.

  Args:
    policies: read one after the other, so that one is in memory at a time.
    procedures: by the name of the solver.
    problems: by the name of their split, in the order of the split.
    num_rounds: how often a solver is asked; the attempts of later rounds follow
      those of earlier ones.
    piece_size: problems whose rows are written together.

  Returns:
    The rows of all that was asked for.

  Raises:
    Interrupted: a signal came between two pieces; whole pieces are saved.
  """
  asked = []
  for policy in policies:
    for name, procedure in procedures.items():
      for split, some in problems.items():
        where = folder(directory, policy, name, split)
        _claim(where, policy, procedure.settings, rng)
        for number in range(num_rounds):
          _round(policy, name, procedure, split, some, where, rng, number,
                 piece_size)
        asked.append((where, len(some)))
  distributed.wait(f'{directory.name}: rows')
  return [
      row for where, number in asked for row in rows_lib.read(where)
      if row['place'] < number]


def folder(
    directory: epath.Path, policy: base.Policy, solver: str, split: str
) -> epath.Path:
  """Names where the rows of a policy, solver and split are."""
  label = policy.label.replace('://', '/').strip('/')  # of a folder anywhere
  return (directory / label / f'seed{policy.seed}-step{policy.step}'
          / solver / split)


def _claim(
    where: epath.Path, policy: base.Policy, settings: Any, rng: PRNGKey
) -> None:
  """Removes rows that were made in another way."""
  path = where / 'identity.json'
  if dataclasses.is_dataclass(settings):
    settings = dataclasses.asdict(settings)
  found = json.loads(json.dumps(dict(
      identity(policy), version=rows_lib.VERSION,
      draws=jax.random.key_data(rng).reshape(-1).tolist(), settings=settings)))
  if distributed.is_primary():
    differences = path.exists() and config_lib.differences(
        files.read_json(path), found, where='there')
    if differences:
      logging.info(
          '%s: made anew, as %s', where, '; '.join(differences[:3]))
      for piece in where.iterdir():  # a kill in here leaves no piece unnamed
        if piece.name != path.name:
          piece.unlink()
    if differences or not path.exists():
      files.write_json(path, found)
  distributed.wait(f'{where.name}: claimed')


def identity(policy: base.Policy) -> dict[str, Any]:
  """Says which policy it is; JSON values, but for tuples."""
  return dict(
      step=policy.step, params=int(_checksum(policy.params)),
      style=policy.style, model=dataclasses.asdict(policy.model))


@jax.jit
def _checksum(params: Params) -> jax.Array:
  """[] uint32, of all bits; the same however devices hold them."""
  words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
  bits = (
      jax.lax.bitcast_convert_type(x, words[x.dtype.itemsize])
      for x in jax.tree.leaves(params))
  return sum(
      jnp.sum(x.astype(jnp.uint32), dtype=jnp.uint32) for x in bits)


def _round(policy, name, procedure, split, problems, where, rng, number,
           piece_size) -> None:
  """Computes what is missing of one round."""
  if number:
    rng = jax.random.fold_in(rng, number)
  for start, stop in _missing(where, number, len(problems), piece_size):
    interruption.check()
    some = problems[start:stop]
    outcomes = procedure.solver(policy, some, rng, first=start)
    logging.info(
        '%s, step %d, %s, %s %d-%d: %.1f%% right, %.0f tokens, %.1f s, '
        'occupancy %.0f%%', policy.label, policy.step, name, split, start,
        stop, 100 * outcomes.is_correct.mean(), outcomes.mean_tokens,
        outcomes.seconds, 100 * outcomes.occupancy)
    if distributed.is_primary():
      path = where / f'{start:07d}-{stop:07d}.{number}.jsonl'
      if outcomes.records is not None:
        rows_lib.write_records(path, outcomes.records.reshape(-1))
      rows_lib.write(path, rows_lib.of(
          policy, name, split, some, outcomes, place=start, number=number))


def _missing(
    where: epath.Path, number: int, num_problems: int, piece_size: int
) -> Iterator[tuple[int, int]]:
  """Pieces of problems that have no rows of this round yet."""
  is_missing = np.ones(num_problems, bool)
  for path in files.matching(where, f'*.{number}.jsonl'):
    is_missing[slice(*rows_lib.places(path))] = False
  places = np.flatnonzero(is_missing)
  for gap in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
    for start in gap[::piece_size].tolist():
      yield start, min(start + piece_size, int(gap[-1]) + 1)
