# SPDX-License-Identifier: Apache-2.0
"""The bench on what was trained: arms, searches over them, policies of RL.

Leaves `eval/`, `search/` and `rl/`: `rows/` (docs/evaluation.md), summary.json,
report.md and PNG plots made of them; `search/<strategy>/` has the searches, to
be read as `traces/` is. All hosts answer and judge; the first one writes.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import logging

from etils import epath
import jax

from data_pipelines import arms
from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import traces
from meta_cot import types
from meta_cot.evaluation import bench
from meta_cot.evaluation import episodes_report
from meta_cot.evaluation import report
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import summary as summary_lib
from meta_cot.evaluation import symbolic
from meta_cot.evaluation import trees
from meta_cot.rl import programs as programs_lib
from meta_cot.rl import setup as setup_lib
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import revising
from meta_cot.solvers import sampling
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import generate_traces
from meta_cot.stages import problems as problems_lib
from meta_cot.stages import sft
from meta_cot.stages import workdir as workdir_lib
from meta_cot.tasks import base as base_task
from meta_cot.traces import record as record_lib
from meta_cot.training import checkpoint
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib

_START = 'sft'  # the policy that reinforcement learning started from


def run(experiment: experiment_lib.Experiment, workdir: epath.Path) -> None:
  """Evaluates every arm on the test splits and writes the report.

  What chooses (the learning curve, how long an answer may be) looks at the
  validation split.
  """
  mesh = sharding.make_mesh(experiment.mesh)
  task = experiment.task.make(experiment.seed)
  problems = {
      split: problems_lib.read(
          workdir, split, experiment.evaluation.num_problems)
      for split in (base_task.VALIDATION, *tasks.test_splits(task))
      if task.size(split)}
  validation = problems.pop(base_task.VALIDATION)
  taught = functools.partial(_taught, experiment, task)
  rows, training, examples = [], {}, taught(validation)
  with sharding.use_mesh(mesh):
    for arm in experiment.arms:
      saved = _Saved(experiment, workdir, arm, mesh)
      longest = max(map(saved.reference_length, examples), default=0)
      rows += _of_arm(
          experiment, saved, task, longest, problems, validation,
          workdir / 'eval' / 'rows')
      training[arm] = saved.training()
      saved.close()
  if distributed.is_primary():
    directory = workdir / 'eval'
    searches = {split: taught(some) for split, some in problems.items()}
    if task.teacher is not None:
      rows += symbolic.write(
          directory / 'rows', task.teacher, searches, _tokenizer(workdir),
          experiment.data.style, seed=experiment.seed)
    report.write(
        directory, 'What the models learned', summary_lib.of_rows(
            rows, reference=('traces', 'greedy')), training=training,
        drawn=_drawn(
            rows, *next(iter(searches.items())), experiment.data.style))
    logging.info('report: %s', directory / 'report.md')
  distributed.wait('evaluate')


def _taught(experiment, task, problems) -> list[traces.TraceRecord]:
  """The teacher's searches of problems; none without a teacher."""
  if task.teacher is None:
    return []
  return list(generate_traces.search(
      task.teacher, experiment.traces.strategies, experiment.seed, problems, 0,
      len(problems)))


def _of_arm(experiment, saved: '_Saved', task, longest, problems, validation,
            directory) -> list:
  """Greedy success per split, samples, and the learning curve."""
  evaluation = experiment.evaluation
  settings = sampling.Settings(
      batch_size=evaluation.batch_size,
      max_new_tokens=min(
          2 * longest or evaluation.max_new_tokens, evaluation.max_new_tokens),
      num_samples=evaluation.num_samples, temperature=evaluation.temperature,
      top_k=evaluation.top_k, top_p=evaluation.top_p)
  split, sampled = next(iter(problems.items()))
  if saved.arm == 'traces':  # a few long traces
    settings = dataclasses.replace(
        settings, num_samples=evaluation.num_trace_samples)
    sampled = sampled[:evaluation.num_curve_problems]
  made = {name: bench.make(name, settings, task, saved.mesh)
          for name in ('greedy', 'samples')}
  ask = lambda steps, name, problems: bench.run(
      map(saved.policy, steps), {name: made[name]}, problems, directory,
      rng=jax.random.key(experiment.seed))
  steps = saved.steps()
  return (
      ask(steps[-1:], 'greedy', problems)
      + ask(steps[-1:], 'samples', {split: sampled})
      + ask(steps, 'greedy', {
          base_task.VALIDATION: validation[:evaluation.num_curve_problems]}))


def _drawn(rows, split: str, taught, style: str) -> list[trees.Tree]:
  """Two searches to draw, a short and a longer one.

  They are the trace model's own; the teacher's where it wrote none well.
  """
  told = [
      trees.from_text(row['details']['text'], style) for row in rows
      if (row['policy'], row['solver'], row['split']) == (
          'traces', 'greedy', split) and row['is_correct']]
  drawn = [tree for tree in told if tree is not None] or [
      trees.from_record(r) for r in taught if r.is_solved]
  drawn.sort(key=lambda tree: len(tree.nodes))
  return drawn and [drawn[len(drawn) // 4], drawn[len(drawn) * 3 // 4]]


def run_search(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Searches test problems with every strategy and writes the report.

  Raises:
    ConfigError: the arm was not trained, task or style have no such steps, or
      the settings allow no search.
  """
  check_search(experiment)
  mesh, settings = sharding.make_mesh(experiment.mesh), experiment.search
  task, directory = tasks.make(experiment.task.kind), workdir / 'search'
  split = tasks.test_splits(task)[0]
  problems = problems_lib.read(workdir, split, settings.num_problems)
  with sharding.use_mesh(mesh):
    made = _searches(experiment, task, mesh, problems)
    policy = _newest(experiment, workdir, mesh, problems, made)
    rows = bench.run(
        [policy], made, {split: problems}, directory / 'rows',
        rng=jax.random.key(experiment.seed))
  if distributed.is_primary():
    # A run that is killed in here must not look finished, with any settings.
    workdir_lib.forget(workdir, 'search')
    _forget(directory)
    for name in settings.strategies:
      _store(directory, policy, name, split, experiment)
    texts = {
        row['solver']: row['details']['text'] for row in reversed(rows)
        if row['solver'] in settings.strategies and row['is_correct']}
    report.write(
        directory, 'Searching over steps', summary_lib.of_rows(
            rows, reference=(settings.arm, 'greedy')), texts=texts, note=(
                f'`{settings.arm}` after {policy.step} steps of training. A '
                f'step of a tree is one {settings.step}; the search follows '
                f'the {settings.value}, and what ends is worth what the '
                f'{settings.outcome} says.'))
    logging.info('report: %s', directory / 'report.md')
  distributed.wait('search')


def check_search(experiment: experiment_lib.Experiment) -> None:
  """Raises a ConfigError where no arm can be searched with these settings."""
  if experiment.search.arm not in experiment.arms:
    raise config_lib.ConfigError(
        f'config.search.arm: got {experiment.search.arm!r}; must be one of '
        f'config.arms, {", ".join(experiment.arms)}.')
  if experiment.search.step == 'solution' and tasks.make(
      experiment.task.kind).states is None:
    raise config_lib.ConfigError(
        f'config.task.kind: got {experiment.task.kind!r}; the stage search '
        'needs a task that has states where config.search.step is solution.')


def _searches(experiment, task, mesh, problems) -> dict[str, bench.Procedure]:
  """Greedy decoding, samples of whole texts, and every strategy."""
  settings = experiment.search
  depth = settings.depth(task, problems)
  whole = sampling.Settings(
      batch_size=experiment.evaluation.batch_size,
      max_new_tokens=depth * settings.step_length,
      num_samples=settings.num_samples, temperature=settings.temperature,
      top_k=settings.top_k, top_p=settings.top_p)
  return {
      name: bench.make(name, whole, task, mesh)
      for name in ('greedy', 'samples')} | {
          name: bench.make(name, settings.of_trees(), task, mesh)
          for name in settings.strategies}


def _newest(experiment, workdir, mesh, problems, made) -> base.Policy:
  """The arm that is searched, when all strategies can."""
  policy = base.Policy(
      experiment.search.arm, experiment.model, None, _tokenizer(workdir),
      experiment.data.style)
  for name in experiment.search.strategies:
    made[name].solver.check(policy, problems)
  step, params = sft.restore(
      experiment, workdir / 'sft' / experiment.search.arm, mesh)
  return dataclasses.replace(policy, params=params, step=step)


def _forget(directory: epath.Path) -> None:
  """Removes searches of earlier settings; rows know theirs."""
  for path in directory.iterdir():
    if path.is_dir() and path.name != 'rows':
      path.rmtree()


def _store(directory, policy, name: str, split: str, experiment) -> None:
  """The searches of a strategy, to be read as traces are."""
  found = list(rows_lib.records(
      bench.folder(directory / 'rows', policy, name, split)))
  found = found[:experiment.search.num_problems]
  store.generate(
      directory / name, functools.partial(_slice, found),
      kind=record_lib.KIND, split=split,
      num_records=len(found), num_shards=1, num_processes=1, arguments=dict(
          seed=experiment.seed, strategy=name,
          **dataclasses.asdict(experiment.search)))


def _slice(
    records: Sequence[traces.TraceRecord], start: int, stop: int
) -> Iterator[traces.TraceRecord]:
  yield from records[start:stop]


def trained_folder(
    workdir: epath.Path, objective: str, seed: int) -> epath.Path:
  """Names where a run of reinforcement learning leaves its files."""
  return workdir / 'rl' / objective / f'seed{seed}'


def run_episodes(
    experiment: experiment_lib.Experiment, workdir: epath.Path,
    setup: setup_lib.Setup,
) -> None:
  """Plays test problems with all policies of RL and writes the report."""
  rows = _of_episodes(experiment, workdir, setup)
  directory = workdir / 'rl'
  if distributed.is_primary():
    summary = summary_lib.of_rows(rows, start=_START)
    report.write(directory, 'Reinforcement learning', summary)
    report.add_section(
        workdir / 'eval' / 'report.md', 'Reinforcement learning',
        episodes_report.section(summary['episodes'], folder='../rl'))
    logging.info('report: %s', directory / 'report.md')
  distributed.wait('rl')


def _of_episodes(experiment, workdir, setup) -> list:
  """Samples of the start, its episodes, and those of every policy."""
  programs, config = setup.programs, experiment.rl
  problems = {tasks.test_splits(programs.task)[0]: setup.test}
  ask = lambda policies, name, procedure: bench.run(
      policies, {name: procedure}, problems, workdir / 'rl' / 'rows',
      rng=setup.evaluation_rng)
  start = [policy_of(setup, _START, setup.start)]
  rows = ask(start, 'samples', playing(
      dataclasses.replace(programs, num_episodes=1),
      programs.num_start_samples))
  rows += ask(start, 'revisions', playing(programs, config.num_eval_samples))
  for objective in config.objectives:
    trained = (
        policy_of(setup, objective, state.params, seed, int(state.step))
        for seed in config.seeds
        for state in [checkpoint.restore_newest(
            trained_folder(workdir, objective, seed) / 'checkpoints',
            experiment.checkpoint, programs.state)])
    rows += ask(trained, 'revisions', playing(
        programs.of(objective), config.num_eval_samples))
  return rows


def policy_of(
    setup: setup_lib.Setup, label: str, params: types.Params, seed: int = 0,
    step: int = 0,
) -> base.Policy:
  """Makes a policy of the parameters of a run."""
  programs = setup.programs
  return base.Policy(
      label, programs.model, params, programs.tokenizer, programs.style,
      seed=seed, step=step)


def playing(
    programs: programs_lib.Programs, num_samples: int) -> bench.Procedure:
  """Makes the procedure of playing episodes as they are trained on.

  Raises:
    ConfigError: a trajectory does not fit the model.
  """
  programs.check()
  config, rules = programs.settings, programs.rules
  episodes = {k: v for k, v in dataclasses.asdict(config.episodes).items()
              if k not in ('num_episodes', 'exploration')}
  settings = revising.Settings(
      num_questions=config.questions.num_questions, num_samples=num_samples,
      num_slots=programs.num_slots, num_episodes=rules.num_episodes, **episodes)
  search = programs.search and dict(
      name=config.episodes.exploration, attempts=programs.search.num_attempts,
      **dataclasses.asdict(programs.search_settings))
  return bench.Procedure(
      dict(dataclasses.asdict(settings), search=search), revising.Reviser(
          settings, programs.task, programs.mesh, explore=programs.explore(),
          width=programs.question_width))


def _tokenizer(workdir) -> tokenizers.Tokenizer:
  return tokenizers.load(workdir / 'tokenizer')


class _Saved:
  """The checkpoints and metrics that an arm's training left."""

  def __init__(self, experiment, workdir, arm: str, mesh):
    directory = workdir / 'sft' / arm
    self.arm, self.mesh = arm, mesh
    self._experiment = experiment
    self._tokenizer = _tokenizer(workdir)
    self._checkpoints = checkpoint.Checkpoints(
        directory / 'checkpoints', experiment.checkpoint)
    self._summary = files.read_json(directory / 'summary.json')
    self._rows = metrics_lib.read(directory / 'metrics.jsonl')
    self._abstract, _ = state_lib.shardings(
        sft.init_fn(experiment),
        optimizer.make(experiment.optimizer, self._summary['num_steps']), mesh)

  def steps(self) -> list[int]:
    return self._checkpoints.steps()

  def policy(self, step: int) -> base.Policy:
    return base.Policy(
        self.arm, self._experiment.model,
        self._checkpoints.restore_state(self._abstract, step).params,
        self._tokenizer, self._experiment.data.style, step=step,
        trained_tokens=sum(
            row['tokens'] for row in self._rows if row['step'] <= step))

  def reference_length(self, record: traces.TraceRecord) -> int:
    """Tokens of what the arm would be taught to write for a search."""
    events = arms.reference(self.arm, record)
    if events is None:
      return 1
    style = self._experiment.data.style
    text = traces.render(events, style=style)
    prompt = traces.prompt(record.problem, style=style)
    return len(self._tokenizer.encode(text[len(prompt):])) + 1

  def training(self) -> dict:
    """Its summary, and the validation loss by tokens seen."""
    total, losses = 0.0, []
    for row in self._rows:
      total += row['tokens']
      if 'eval_loss' in row:
        losses.append([total, row['eval_loss']])
    return dict(self._summary, losses=losses)

  def close(self) -> None:
    self._checkpoints.close()
