# SPDX-License-Identifier: Apache-2.0
"""Stage `evaluate`: the one bench, policies x solvers on test problems.

Leaves `rows/` (docs/evaluation.md), and summary.json, report.md and PNG plots
made of them. Rows that are there are not computed again. All hosts answer and
judge; the first one writes.
"""

import dataclasses
import functools
import logging
from typing import Any

from etils import epath
import jax

from data_pipelines import tokenizers
from meta_cot.evaluation import bench
from meta_cot.evaluation import report
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import summary as summary_lib
from meta_cot.evaluation import symbolic
from meta_cot.evaluation import trees
from meta_cot.problem import Problem
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import opening as opening_lib
from meta_cot.solvers import prompting as prompting_lib
from meta_cot.solvers import sampling
from meta_cot.solvers import scoring
from meta_cot.solvers import sizing
from meta_cot.solvers import spawning
from meta_cot.solvers import strategies
from meta_cot.solvers import table
from meta_cot.stages import base
from meta_cot.stages import budgeted
from meta_cot.stages import data
from meta_cot.stages import prompted
from meta_cot.stages import solving
from meta_cot.tasks import base as tasks
from meta_cot.training import metrics as metrics_lib

_setting = functools.partial(config_lib.setting, is_free=True)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Who is asked what, and how; rows of other settings are made anew."""

  policies: tuple[str, ...] = _setting(min_items=1, is_unique=True)
  problems: str = config_lib.setting()
  splits: tuple[str, ...] = _setting(is_unique=True)
  solvers: tuple[str, ...] = _setting(
      choices=tuple(table.SOLVERS), min_items=1, is_unique=True)
  reference: str | None = _setting()
  start: str | None = _setting()
  teacher: str | None = _setting()
  num_problems: int = _setting(low=1)
  num_curve_problems: int = _setting(low=0)
  curve_solvers: tuple[str, ...] = _setting(
      choices=('greedy', 'samples'), is_unique=True)
  num_choice_problems: int = _setting(low=0)
  num_rounds: int = _setting(low=1)
  discounts: tuple[float, ...] = _setting(above=0.0, high=1.0, is_unique=True)
  token_grid: tuple[int, ...] = _setting(low=1, is_unique=True)
  exploration: str = _setting(choices=('policy', *strategies.STRATEGIES))
  budget: sizing.Settings = _setting()
  samples: sampling.Settings = _setting()
  search: strategies.Settings = _setting()
  episodes: spawning.Settings = _setting()
  prompting: prompting_lib.Settings = _setting()
  keeps_tokens = False


def _check(context, settings, name) -> None:
  policies = context.parts(settings.policies)
  for field in ('reference', 'start'):
    value = getattr(settings, field)
    if value is not None and value not in policies:
      raise base.wrong(
          name, field, f'got {value!r}; '
          f'{config_lib.nearest(value, policies)}, the policies.')
  if settings.start is not None and 'revisions' in settings.solvers and (
      'samples' not in settings.solvers):
    raise base.wrong(
        name, 'start', f'got {settings.start!r}; episodes are compared with '
        'its samples: add samples to solvers, or set it to None.')
  allowed = (*tasks.test_splits(context.task), tasks.VALIDATION)
  for i, split in enumerate(settings.splits):
    if split not in allowed:
      raise base.wrong(
          name, f'splits[{i}]', f'got {split!r}; must be one of '
          f'{", ".join(allowed)}: problems to report on or to choose by.')
  teacher = context.task.teacher
  strategies = teacher.strategies if teacher else ()
  if settings.teacher is not None and settings.teacher not in strategies:
    raise base.wrong(
        name, 'teacher', f'got {settings.teacher!r}; must be None or one of '
        f'{", ".join(strategies) or "none"}.')
  budgeted.check(settings, name)
  solving.check(context, budgeted.smallest(settings), name)


def _run(context, settings, directory) -> None:
  """Asks all policies, and writes the report."""
  read = functools.partial(context.problems, settings.problems)
  splits = settings.splits or tuple(
      s for s in tasks.test_splits(context.task) if context.task.size(s))
  problems = {split: read(split, settings.num_problems) for split in splits}
  numbers = dict(
      greedy=settings.num_curve_problems, samples=settings.num_choice_problems)
  if 'samples' in settings.curve_solvers:
    numbers['samples'] = max(numbers.values())
  validation = {
      name: read(tasks.VALIDATION, number) if number else []
      for name, number in numbers.items()}
  rows, training, labels, bought = [], {}, {}, {}
  for reference in context.parts(settings.policies):
    asked = _Asked(context, settings, reference)
    labels[reference] = asked.label
    for some in (*problems.values(), *validation.values()):
      context.check_prompts(asked.folder, some)
      prompted.check_prompts(context, settings, asked.folder, some)
    for opening in asked.openings.items():
      one = dataclasses.replace(asked, opening=opening)
      rows += one.rows(directory, problems, validation)
      bought |= one.bought
    training |= asked.training()
  if distributed.is_primary():
    _write(
        context, settings, directory, rows, training, labels, problems, bought)
  distributed.wait(f'{directory.name}: report')


@dataclasses.dataclass(frozen=True)
class _Asked(solving.Asked):
  """One policy, asked by all solvers, with a text in front of questions."""

  opening: tuple[str, str] = ('', '')  # name and text

  @functools.cached_property
  def bought(self) -> dict[tuple[str, int, str], budgeted.Bought]:
    """What the budget has bought so far; of this one alone."""
    return {}

  @property
  def openings(self) -> dict[str, str]:
    """What may stand in front, by name: discounts, budgets, strategies."""
    return opening_lib.named(self.folder.about)

  @property
  def label(self) -> str:
    return f'{super().label} {self.opening[0]}'.strip()

  @functools.cached_property
  def metrics(self) -> list[dict[str, Any]]:
    path = self.folder.directory / 'metrics.jsonl'
    return metrics_lib.read(path) if path.exists() else []

  @functools.cached_property
  def newest(self) -> solvers_base.Policy:
    """Read once for all solvers."""
    return self._at(self.folder.steps()[-1])

  def _at(self, step: int) -> solvers_base.Policy:
    tokens = sum(r['tokens'] for r in self.metrics if r['step'] <= step)
    policy = self.at(step, tokens if self.metrics else None)
    _, text = self.opening
    return policy if not text else dataclasses.replace(
        policy, tokenizer=tokenizers.Opened(policy.tokenizer, text))

  def rows(
      self, directory: epath.Path, problems: dict[str, list[Problem]],
      validation: dict[str, list[Problem]],
  ) -> list[rows_lib.Row]:
    """Answers of the newest step, and the learning curve.

    `validation` has problems by solver: answers of the curve's are asked of
    every checkpoint, with samples of the newest choices are made.
    """
    ask = functools.partial(self._ask, directory)
    steps, curve = self.folder.steps(), []
    if not steps:
      self.folder.params(self.context.mesh)  # says what is missing
    shown = {tasks.VALIDATION: validation['greedy']}
    asked = [
        name for name in self.settings.curve_solvers
        if validation['greedy'] and name in self.settings.solvers and (
            self.is_asked(name))]
    if 'greedy' in asked:
      curve = ask(steps, 'greedy', shown)
    last = [r for r in curve if r['step'] == steps[-1]]
    tokens = sum(r['num_tokens'] for r in last) / len(last) if last else None
    if 'samples' in asked:  # of the newest step below: choices are made by them
      curve += ask(steps[:-1], 'samples', shown, tokens)
    rows = []
    for name in filter(self.is_asked, self.settings.solvers):
      some = problems if name == 'greedy' else dict([*problems.items()][:1])
      if name == 'samples' and validation[name]:
        some = some | {tasks.VALIDATION: validation[name]}
      rows += ask(steps[-1:], name, some, tokens)
    return rows + curve

  def _ask(self, directory, steps, name, problems, tokens=None):
    policies = (
        self.newest if step == self.folder.steps()[-1] else self._at(step)
        for step in steps)
    if self.settings.budget.tokens is not None and name in sizing.NAMES:
      return self._ask_within(directory, name, problems)
    return self._run(
        directory, policies, name, self.procedure(name, tokens), problems)

  def _ask_within(self, directory, name, problems):
    """As much as the budget buys, every split for itself."""
    policy, rows = self.newest, []
    one = self.bought[self.label, policy.seed, name] = budgeted.buy(
        self, name, policy, directory)
    for split, some in problems.items():
      where = bench.folder(directory / 'rows', policy, name, split)
      rows += self._run(
          directory, [policy], name, one.procedure(where), {split: some})
    return rows

  def _run(self, directory, policies, name, procedure, problems):
    procedure = bench.graded(
        procedure, functools.partial(tasks.difficulty, self.context.task))
    return bench.run(
        policies, {name: procedure}, problems, directory / 'rows',
        rng=jax.random.key(self.context.seed),
        num_rounds=self.settings.num_rounds if name == 'samples' else 1)

  def training(self) -> dict[str, dict]:
    """What supervised training left: summary, and loss by tokens seen."""
    path = self.folder.directory / 'summary.json'
    if 'arm' not in self.folder.about or not path.exists():
      return {}
    total, losses = 0.0, []
    for row in self.metrics:
      total += row['tokens']
      if 'eval_loss' in row:
        losses.append([total, row['eval_loss']])
    summary = files.read_json(
        path, num_parameters=int, num_steps=int, tokens=(int, float),
        loss=float, eval_loss=float, seconds=dict)
    return {self.reference: dict(summary, losses=losses)}


def _write(
    context, settings, directory, rows, training, labels, problems, bought):
  """The report; on the first host."""
  first = next(iter(problems))
  policy, taught = context.policy(next(iter(labels))), {}
  if settings.teacher is not None:
    taught = {
        split: list(data.search(
            context.task.teacher, settings.teacher, context.seed, mine, 0,
            len(mine)))
        for split, mine in problems.items()}
    rows = rows + symbolic.write(
        directory / 'rows', context.task.teacher, taught, policy.tokenizer(),
        policy.style, seed=context.seed)
  reference = labels.get(settings.reference)
  budget = budgeted.entries(rows, bought, settings.budget.tokens)
  rows = budgeted.even(rows, bought)
  summary = summary_lib.of_rows(
      rows, start=labels.get(settings.start),
      reference=reference and (reference, 'greedy'),
      judges=_judges(settings, labels), discounts=settings.discounts,
      token_grid=sorted(settings.token_grid))
  report.write(
      directory, f'Evaluation: {directory.name}', summary, training=training,
      budget=budget, drawn=_drawn(
          rows, reference, first, taught.get(first, ()), policy.style),
      texts={  # a solved search of every strategy
          row['solver']: row['details']['text'] for row in reversed(rows)
          if row['solver'] in strategies.STRATEGIES and row['is_correct']
          and row['policy'] != symbolic.POLICY})  # its strategies have any name
  logging.info('report: %s', directory / 'report.md')


def _judges(settings, labels) -> dict[str, str]:
  """By policy, the judge of samples that guides its searches too, if any."""
  search = settings.search
  if search.judge is not None:
    return dict.fromkeys(labels.values(), search.judge)
  if 'head' in search.sources:
    return {label: reference for reference, label in labels.items()}
  return dict.fromkeys(labels.values(), scoring.LIKELIHOOD) if (
      search.sources == ('likelihood',)) else {}


def _drawn(rows, label, split: str, taught, style: str) -> list[trees.Tree]:
  """Two searches to draw, a short and a longer one.

  They are the reference's own; the teacher's where it wrote none well.
  """
  rendered = (
      trees.from_text(row['details']['text'], style) for row in rows
      if (row['policy'], row['solver'], row['split']) == (
          label, 'greedy', split) and row['is_correct'])
  drawn = [t for t in rendered if t is not None and len(t.nodes) > 1] or [
      trees.from_record(r) for r in taught if r.is_solved]
  drawn.sort(key=lambda tree: len(tree.nodes))
  return drawn and [drawn[len(drawn) // 4], drawn[len(drawn) * 3 // 4]]


STAGE = base.Stage(
    Settings=Settings, run=_run,
    reads=lambda settings: (
        *settings.policies, settings.problems, *solving.judges(settings)),
    grown=lambda settings: dataclasses.asdict(settings), check=_check,
    is_whole=lambda context, settings, directory: all(
        (directory / name).exists() for name in ('summary.json', 'report.md')),
    programs=lambda context, settings: solving.programs(
        context, budgeted.smallest(settings)))
