# SPDX-License-Identifier: Apache-2.0
"""Stage `quality`: how good values of states are, beside their labels.

Leaves summary.json, report.md and plots. What models say of the validation
records of a stage `label` is compared with their targets.
"""

from collections.abc import Sequence
import dataclasses
import functools

import numpy as np

from data_pipelines import store
from meta_cot import traces
from meta_cot.evaluation import quality
from meta_cot.evaluation import report_quality
from meta_cot.rollouts import player
from meta_cot.runtime import distributed
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.solvers import scoring
from meta_cot.solvers import states as states_lib
from meta_cot.solvers import targets as targets_lib
from meta_cot.stages import base
from meta_cot.stages import label
from meta_cot.tasks import base as tasks
from meta_cot.traces import from_tree


@dataclasses.dataclass(frozen=True)
class Settings:
  """Whose values, of which states."""

  judges: tuple[str, ...] = config_lib.setting(min_items=1, is_unique=True)
  records: str = config_lib.setting()
  policy: str = config_lib.setting()
  num_records: int | None = config_lib.setting(low=1)
  max_tokens: int = config_lib.setting(low=1)
  batch_size: int = config_lib.setting(low=1, is_free=True)


def _width(context, settings, tokenizer, style: str, problems) -> int:
  return settings.max_tokens + player.prompt_width(tokenizer, problems, style)


def _planned(context, settings) -> tuple[base.Planned, int]:
  """The policy, and slots for a question and its steps."""
  there = context.planned(settings.policy)
  return there, _width(
      context, settings, there.tokenizer, there.style, context.first_problems)


def _check(context, settings, name) -> None:
  group = context.groups.get(settings.records.partition('/')[0])
  if group is not None and group.stage is not label.STAGE:
    raise base.wrong(
        name, 'records', f'got {settings.records!r}; must be a stage of kind '
        'label, whose records have targets.')
  there, width = _planned(context, settings)
  if width > there.model.max_length:
    raise base.wrong(
        name, 'max_tokens', f'got {settings.max_tokens}; texts of {width} '
        'tokens, questions included, must be at most the max_length of '
        f'{settings.policy}, {there.model.max_length}.')
  for reference in context.parts(settings.judges):
    try:
      scoring.check(context.planned(reference), there.style, width)
    except config_lib.ConfigError as e:
      raise base.wrong(name, 'judges', f'got {reference!r}; {e}') from None


def _programs(context, settings) -> base.Programs:
  """Lists what is compiled: for the likelihood, and for every model."""
  policy, width = _planned(context, settings)
  build = lambda of, there: functools.partial(
      scoring.program_of, of=of, model=there.model, mesh=context.mesh,
      width=width, batch_size=settings.batch_size)
  readers = {scoring.LIKELIHOOD: build(scoring.log_probs, policy)} | {
      f'value/{reference.strip("/")}': build(
          scoring.values, context.planned(reference))
      for reference in context.parts(settings.judges)}
  return {name: functools.partial(read, name) for name, read in readers.items()}


@dataclasses.dataclass
class _Texts:
  """Texts to read, and which state of which record ends where in them."""

  tokens: list[list[int]] = dataclasses.field(default_factory=list)
  # (text, tokens of the question, tokens up to the end of the state)
  places: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
  rows: list[dict] = dataclasses.field(default_factory=list)  # of the states
  num_too_long: int = 0

  def add(
      self, problem: int, question: Sequence[int], record: traces.TraceRecord,
      reachable: Sequence[float], longest: int,
  ) -> None:
    """Adds the texts of a record whose attempts are merged, and its states."""
    nodes, seen = record.nodes, set()
    parents = {node.parent for node in nodes}
    written = states_lib.written(record)
    for leaf in sorted(set(range(len(nodes))) - parents):
      self.tokens.append([*question, *written[leaf][:longest]])
      way = from_tree.path(nodes, leaf)
      for depth, i in enumerate(way):
        if i in seen or nodes[i].value is None:
          continue
        seen.add(i)
        if len(written[i]) > longest:
          self.num_too_long += 1
          continue
        self.places.append((
            len(self.tokens) - 1, len(question),
            len(question) + len(written[i])))
        self.rows.append(dict(
            problems=problem, depths=depth, targets=nodes[i].value,
            is_end=nodes[i].is_terminal, visits=nodes[i].visits,
            reachable=reachable[i]))

  def states(self, *, has_oracle: bool) -> quality.States:
    """Puts the states into arrays."""
    columns = {
        name: np.array([row[name] for row in self.rows])
        for name in self.rows[0]}
    if not has_oracle:
      columns['reachable'] = None
    return quality.States(**columns)


def _texts(context, settings, tokenizer, style, records) -> _Texts:
  """Reads the states of records, each problem once.

  Raises:
    UserError: a record has no targets, or those of other tokens.
  """
  made, has_oracle = _Texts(), context.task.oracle is not None
  folder, numbers = context.folder(settings.records), {}
  for record in records:
    if 'base_rate' not in record.arguments:
      raise config_lib.UserError(
          f'{folder}: that of problem {record.problem.id!r} has no targets; '
          'name the records of a stage of kind label.')
    if record.arguments['tokenizer'] != tokenizer.fingerprint:
      raise config_lib.UserError(
          f'{folder}: its states are of another tokenizer than that of '
          f'{settings.policy}; name the policy that was labelled.')
    reachable = targets_lib.oracle(targets_lib.Known(
        context.task, record)) if has_oracle else [None] * len(record.nodes)
    made.add(
        numbers.setdefault(record.problem.id, len(numbers)),
        tokenizer.encode_prompt(traces.prompt(record.problem, style=style)),
        record, reachable, settings.max_tokens)
  if not made.rows:
    raise config_lib.UserError(
        f'{folder}: no state has a target and at most {settings.max_tokens} '
        'tokens of steps.')
  return made


def _run(context, settings, directory) -> None:
  """Reads all values, and writes the table."""
  there = context.policy(settings.policy)
  reader = functools.partial(
      scoring.reader, mesh=context.mesh, fingerprint=there.fingerprint)
  policy = reader(settings.policy, there)
  source = store.read(context.folder(settings.records), tasks.VALIDATION)
  records = [source[i] for i in range(len(source))[:settings.num_records]]
  made = _texts(context, settings, policy.tokenizer, policy.style, records)
  read = functools.partial(
      scoring.read, texts=made.tokens, mesh=context.mesh,
      batch_size=settings.batch_size, width=_width(
          context, settings, policy.tokenizer, policy.style,
          [record.problem for record in records]))
  given = read(scoring.log_probs, policy)
  values = {scoring.LIKELIHOOD: np.array([
      np.exp(given[text][question:end].mean()) if end > question else 1.0
      for text, question, end in made.places])}
  for reference in context.parts(settings.judges):
    interruption.check()
    found = read(
        scoring.values, reader(reference, context.policy(reference)))
    values[reference] = np.array([
        found[text][end - 1] for text, _, end in made.places])
  if distributed.is_primary():
    summary = quality.summarise(
        made.states(has_oracle=context.task.oracle is not None), values)
    report_quality.write(
        directory, f'Values: {directory.name}',
        dict(summary, num_too_long=made.num_too_long))
  distributed.wait(f'{directory.name}: report')


STAGE = base.Stage(
    Settings=Settings, run=_run,
    reads=lambda settings: (
        *settings.judges, settings.records, settings.policy),
    check=_check,
    is_whole=lambda context, settings, directory: all(
        (directory / name).exists() for name in ('summary.json', 'report.md')),
    programs=_programs)
