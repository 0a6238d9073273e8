# SPDX-License-Identifier: Apache-2.0
"""Stage `search`: a policy's searches or samples, as records to learn from.

Leaves a records folder with the splits train and validation.
"""

import dataclasses
import logging

import jax

from data_pipelines import store
from meta_cot import traces
from meta_cot.evaluation import bench
from meta_cot.evaluation import rows as rows_lib
from meta_cot.runtime import distributed
from meta_cot.settings import config as config_lib
from meta_cot.solvers import prompting
from meta_cot.solvers import sampling
from meta_cot.solvers import sizing
from meta_cot.solvers import spawning
from meta_cot.solvers import strategies
from meta_cot.solvers import table
from meta_cot.solvers import trees
from meta_cot.solvers import vocabulary
from meta_cot.stages import base
from meta_cot.stages import data
from meta_cot.stages import solving
from meta_cot.traces import format as format_lib
from meta_cot.traces import record as record_lib
from meta_cot.traces import telling

# Of the samples of a problem, those that a record is made of: all answers, or
# the search that one right text tells, the first such or the shortest.
_KEPT = {
    'answers': None, 'first_text': lambda row: row['attempt'],
    'shortest_text': lambda row: (row['num_tokens'], row['attempt'])}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Who answers which problems, and how."""

  policy: str = config_lib.setting()
  problems: str = config_lib.setting()
  solver: str = config_lib.setting(choices=tuple(
      name for name in table.SOLVERS
      if name not in (
          'revisions', spawning.NAME, *prompting.STRATEGIES)))
  num_train: int = config_lib.setting(low=1)
  num_validation: int = config_lib.setting(low=1)
  kept: str = config_lib.setting(choices=tuple(_KEPT))
  samples: sampling.Settings
  search: strategies.Settings

  @property
  def policies(self) -> tuple[str, ...]:
    return (self.policy,)

  @property
  def solvers(self) -> tuple[str, ...]:
    return (self.solver,)

  keeps_tokens = True
  # As many as are asked for.
  budget = sizing.Settings(
      tokens=None, num_problems=1, block=1, sample_tokens=None)


def _check(context, settings, name) -> None:
  if context.task.states is None:
    raise base.wrong(
        name, 'kind', f"got 'search'; task {context.shared.task_kind} has no "
        'states, so there are no records of its solutions.')
  if settings.kept != 'answers' and settings.solver != 'samples':
    raise base.wrong(
        name, 'kept', f"got {settings.kept!r} with solver {settings.solver!r}, "
        "whose trees are kept as they are; must be 'answers'.")
  style = context.planned(settings.policy).style
  if settings.kept != 'answers' and not format_lib.STYLES[style].EVENT_ENDS:
    raise base.wrong(
        name, 'kept', f'got {settings.kept!r}; style {style!r} writes no '
        "searches; must be 'answers'.")
  solving.check(context, settings, name)


def _run(context, settings, directory) -> None:
  """Answers what has no answer yet, and writes the records."""
  asked = solving.Asked(context, settings, settings.policy)
  numbers = settings.num_train, settings.num_validation
  problems = {
      split: context.problems(settings.problems, split, number)
      for split, number in zip(data.LEARNED, numbers)}
  for some in problems.values():
    context.check_prompts(asked.folder, some)
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
  words = vocabulary.of(
      policy.tokenizer, policy.model.vocab_size, policy.style)
  found = list(rows_lib.records(where))[:len(problems)] or [
      _record(context, settings, policy, words, problems[place], rows)
      for (place,), rows in rows_lib.group(
          rows_lib.read(where), 'place').items() if place < len(problems)]
  logging.info(
      '%s: %d of %d problems of %s solved', directory.name,
      sum(r.is_solved for r in found), len(found), split)
  store.generate(
      directory, lambda start, stop: found[start:stop], kind=record_lib.KIND,
      split=split, num_records=len(found), num_shards=1, num_processes=1,
      arguments=base.arguments(context, settings))


def _record(
    context, settings, policy, words, problem, rows) -> record_lib.TraceRecord:
  """Samples of a problem, one after the other; or the search of one."""
  about = dict(
      strategy=settings.solver, seed=context.seed,
      arguments=dataclasses.asdict(settings.samples),
      model=f'{policy.label}, step {policy.step}')
  if settings.kept != 'answers':
    return kept_text(context, settings, policy, problem, rows, about)
  return trees.of_answers(
      context.task, problem, [row['answer'] for row in rows],
      [row['is_correct'] for row in rows],
      [words.cut(row['details']['tokens']) for row in rows], **about)


def kept_text(
    context, settings, policy, problem, rows, about
) -> record_lib.TraceRecord:
  """Reads the search of one right text, see `_KEPT`; the root without one."""
  prompt = traces.prompt(problem, style=policy.style)
  state = context.task.states.first(problem)
  for row in sorted(rows, key=_KEPT[settings.kept]):
    if not row['is_correct']:
      continue
    *tokens, _ = row['details']['tokens']  # behind it the text ends
    record = telling.from_text(
        problem, prompt + policy.tokenizer.decode(tokens), policy.style,
        **about)
    if record is not None and record.is_solved:
      root = dataclasses.replace(record.nodes[0], state=state)
      return dataclasses.replace(record, nodes=(root, *record.nodes[1:]))
  return record_lib.TraceRecord(
      problem=problem, nodes=(record_lib.Node(-1, '', state, 0),), solution=(),
      traversal='depth_first', **about)


STAGE = base.Stage(
    Settings=Settings, run=_run,
    reads=lambda settings: (
        settings.policy, settings.problems, *solving.judges(settings)),
    check=_check,
    is_whole=lambda context, settings, directory: all(
        store.is_whole(directory, split) for split in data.LEARNED),
    programs=solving.programs)
