# SPDX-License-Identifier: Apache-2.0
"""Stage `search`: a policy's searches or samples, as records to learn from.

Leaves a records folder with the splits train and validation.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import logging

from etils import epath
import jax

from data_pipelines import store
from meta_cot.evaluation import bench
from meta_cot.evaluation import rows as rows_lib
from meta_cot.runtime import distributed
from meta_cot.settings import config as config_lib
from meta_cot.solvers import sampling
from meta_cot.solvers import searching
from meta_cot.solvers import table
from meta_cot.solvers import trees
from meta_cot.stages import base
from meta_cot.stages import solving
from meta_cot.tasks import base as tasks
from meta_cot.traces import record as record_lib


@dataclasses.dataclass(frozen=True)
class Settings:
  """Who answers which problems, and how."""

  policy: str = config_lib.setting()
  problems: str = config_lib.setting()
  solver: str = config_lib.setting(choices=tuple(
      name for name in table.SOLVERS if name != 'revisions'))
  num_train: int = config_lib.setting(low=1)
  num_validation: int = config_lib.setting(low=1)
  samples: sampling.Settings
  search: searching.Settings

  @property
  def policies(self) -> tuple[str, ...]:
    return (self.policy,)

  @property
  def solvers(self) -> tuple[str, ...]:
    return (self.solver,)

  sample_tokens = None  # as many samples as are asked for


def check(context: base.Context, settings: Settings, name: str) -> None:
  """Raises a ConfigError for what the solver would refuse."""
  if context.task.states is None:
    raise base.wrong(
        name, 'kind', f"got 'search'; task {context.shared.task_kind} has no "
        'states, so there are no records of its solutions.')
  solving.check(context, settings, name)


def run(
    context: base.Context, settings: Settings, directory: epath.Path) -> None:
  """Answers what has no answer yet, and writes the records.

  Raises:
    UserError: what it reads is missing, or settings do not go together.
    Interrupted: a signal came; whole pieces are saved.
  """
  asked = solving.Asked(context, settings, settings.policy)
  problems = {
      split: context.problems(settings.problems, split, number)
      for split, number in (
          (tasks.TRAIN, settings.num_train),
          (tasks.VALIDATION, settings.num_validation))}
  policy = asked.at(asked.folder.steps()[-1])
  bench.run(
      [policy], {settings.solver: asked.procedure(settings.solver)},
      problems, directory / 'rows', rng=jax.random.key(context.seed))
  if distributed.is_primary():
    for split, some in problems.items():
      _store(context, settings, directory, policy, split, some)
  distributed.wait(f'{directory.name}: records')


def _store(context, settings, directory, policy, split, problems) -> None:
  """The searches of a split, to be read as those of a teacher are."""
  where = bench.folder(directory / 'rows', policy, settings.solver, split)
  found = list(rows_lib.records(where))[:len(problems)] or [
      _record(context, settings, policy, problems[place], rows)
      for (place,), rows in rows_lib.group(
          rows_lib.read(where), 'place').items() if place < len(problems)]
  logging.info(
      '%s: %d of %d problems of %s solved', directory.name,
      sum(r.is_solved for r in found), len(found), split)
  store.generate(
      directory, functools.partial(_slice, found), kind=record_lib.KIND,
      split=split, num_records=len(found), num_shards=1, num_processes=1,
      arguments=base.arguments(context, settings))


def _record(context, settings, policy, problem, rows) -> record_lib.TraceRecord:
  """Samples of a problem, one after the other."""
  return trees.of_answers(
      context.task, problem, [row['answer'] for row in rows],
      [row['is_correct'] for row in rows], strategy=settings.solver,
      arguments=dataclasses.asdict(settings.samples), seed=context.seed,
      model=f'{policy.label}, step {policy.step}')


def _slice(
    records: Sequence[record_lib.TraceRecord], start: int, stop: int
) -> Iterator[record_lib.TraceRecord]:
  yield from records[start:stop]


STAGE = base.Stage(
    Settings=Settings, run=run,
    reads=lambda settings: (settings.policy, settings.problems),
    check=check,
    is_whole=lambda context, settings, directory: all(
        store.is_whole(directory, split)
        for split in (tasks.TRAIN, tasks.VALIDATION)),
    programs=solving.programs)
