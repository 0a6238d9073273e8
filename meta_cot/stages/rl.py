# SPDX-License-Identifier: Apache-2.0
"""Stage 7: reinforcement learning over episodes, run by run.

Leaves `rl/<objective>/seed<n>/`: checkpoints, the best one in `best/`,
metrics.jsonl, tensorboard, summary.json; and `rl/report.md`.
"""

from collections.abc import Callable, Sequence
import functools
import logging
import sys

from etils import epath
import jax
import tqdm

from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.problem import Problem
from meta_cot.rl import programs as programs_lib
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import setup as setup_lib
from meta_cot.rollouts import player
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.solvers import vocabulary
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import problems as problems_lib
from meta_cot.stages import rl_report
from meta_cot.stages import sft
from meta_cot.tasks import base
from meta_cot.training import checkpoint
from meta_cot.training import compilation
from meta_cot.training import goodput
from meta_cot.training import integrity
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import progress
from meta_cot.training import state as state_lib

# Which runs there are: each has a folder of its own.
_RUNS = ('objectives', 'seeds')
# What the stage `search` alone has.
_OF_SEARCH = ('arm', 'strategies', 'num_problems', 'num_samples')


def run(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Trains every policy that has no summary yet, and writes the report.

  Raises:
    ConfigError: the start was not trained, or settings do not go together.
    Interrupted: a signal came; what is needed to continue is saved.
  """
  mesh = sharding.make_mesh(experiment.mesh)
  with sharding.use_mesh(mesh):
    setup = make_setup(experiment, workdir, mesh)
    for objective in experiment.rl.objectives:
      for seed in experiment.rl.seeds:
        directory = rl_report.folder(workdir, objective, seed)
        if not is_trained(experiment, directory):
          train(experiment, setup, objective, seed, directory)
    rl_report.write(setup, workdir, experiment.checkpoint)


def make_programs(
    experiment: experiment_lib.Experiment, task: base.Task,
    tokenizer: tokenizers.Tokenizer,
    make_vocabulary: Callable[[], vocabulary.Vocabulary],
    problems: Sequence[Problem], mesh: jax.sharding.Mesh,
) -> programs_lib.Programs:
  """Makes the programs of the start, for these problems at most as long.

  Raises:
    ConfigError: settings do not go together.
  """
  config = experiment.rl
  if config.start not in experiment.arms:
    raise config_lib.ConfigError(
        f'config.rl.start: got {config.start!r}; must be one of config.arms, '
        f'{", ".join(experiment.arms)}.')
  width = player.prompt_width(
      tokenizer, problems, experiment.data.style,
      config.credit.discount_prompts)
  depth = lambda: experiment.search.depth(task, experiment_lib.first_problems(
      experiment.task, experiment.seed))
  return programs_lib.Programs(
      task, experiment.model, config, experiment.search, depth, tokenizer,
      make_vocabulary, mesh, experiment.data.style, width,
      config.episodes.num_episodes)


def make_setup(
    experiment: experiment_lib.Experiment, workdir: epath.Path,
    mesh: jax.sharding.Mesh,
) -> setup_lib.Setup:
  """Reads what the runs share.

  Raises:
    ConfigError: the start was not trained, or settings do not go together.
  """
  config = experiment.rl
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  task = tasks.make(experiment.task.kind)
  train_problems = problems_lib.read(workdir, base.TRAIN)
  validation, test = (
      problems_lib.read(workdir, split, config.num_eval_problems)
      for split in (base.VALIDATION, tasks.test_splits(task)[0]))
  programs = make_programs(
      experiment, task, tokenizer, functools.partial(
          vocabulary.of, tokenizer, experiment.model.vocab_size),
      [*train_problems, *validation, *test], mesh)
  _, start = sft.restore(experiment, workdir / 'sft' / config.start, mesh)
  return setup_lib.Setup(
      programs, train_problems, validation, test, start, experiment.seed)


def is_trained(experiment, directory: epath.Path) -> bool:
  """Whether a run has finished there, with these settings.

  Raises:
    UserError: one has, with others.
  """
  path = directory / 'summary.json'
  if not path.exists():
    return False
  differences = config_lib.differences(
      files.read_json(path)['settings'], _of_run(experiment),
      where='there')
  if differences:
    raise config_lib.UserError(
        f'{directory}: this policy was trained with other settings '
        f'({"; ".join(differences[:3])}); remove the folder or use another '
        '--workdir.')
  return True


def _of_run(experiment) -> dict:
  """The settings that a trained policy depends on."""
  kept = lambda config, others: {
      k: v for k, v in config_lib.bound(config).items() if k not in others}
  settings = {'rl': kept(experiment.rl, _RUNS)}
  if experiment.rl.episodes.has_search:
    settings['search'] = kept(experiment.search, _OF_SEARCH)
  return settings


def train(experiment, setup: setup_lib.Setup, objective: str, seed: int,
          directory: epath.Path) -> None:
  """Trains one policy, from its newest checkpoint if there is one.

  Raises:
    Interrupted: a signal came; what is needed to continue is saved.
    FloatingPointError: a loss or gradient is not finite.
  """
  clock, config = goodput.Clock(), experiment.rl
  learner = setup.learner(objective, seed)
  evaluate = setup_lib.Evaluation(
      setup, setup.programs.of(objective), setup.validation)
  memory = questions_lib.Memory(
      questions_lib.Questions(
          len(setup.train), seed=seed,
          min_success=config.questions.min_success,
          max_success=config.questions.max_success,
          rest=config.questions.rest),
      config.loss.kl_coefficient)
  saves = progress.Progress(
      directory, checkpoint.CheckpointConfig(
          save_every_steps=1, max_to_keep=experiment.checkpoint.max_to_keep),
      memory, settings=config_lib.bound(experiment) | {
          'of_run': _of_run(experiment)},
      tokenizer=setup.programs.tokenizer.fingerprint)
  state, pending = saves.restore(setup.programs.state)
  if state is None:
    state = setup.state(seed)
  first = int(state.step) // config.updates.per_iteration
  if first:
    logging.info('%s: continues after iteration %d', learner.name, first)
    clock.continues(
        [row for row in metrics_lib.read(directory / 'metrics.jsonl')
         if row['step'] > first], pending.lap)
  writer = metrics_lib.MetricsWriter(
      directory, first, is_writer=jax.process_index() == 0)
  with interruption.deferred():
    state = _loop(
        learner, evaluate, state, memory, saves, writer, clock, first,
        interruption.Stop(learner.mesh).is_agreed, directory)
    with clock.measure('checkpoint'):
      saves.close()
    writer.close()
    if int(state.step) < config.num_updates:
      raise interruption.Interrupted
    saves.finish()
    if jax.process_index() == 0:
      _finish(directory, objective, seed, memory, clock, experiment)


def _loop(learner, evaluate, state, memory, saves, writer, clock, first,
          is_stopped, directory) -> state_lib.TrainState:
  """Iterations, from `first` on; returns early where `is_stopped` says so."""
  config, name = learner.config, learner.name
  best = _open_best(directory / 'best')
  bar = tqdm.tqdm(
      total=config.num_iterations, initial=first, desc=name, unit='iteration',
      disable=not sys.stderr.isatty())
  clock.switch('step')
  for iteration in range(first, config.num_iterations):
    state, row = learner.iterate(state, memory, iteration)
    done = iteration + 1
    is_last = done == config.num_iterations
    if is_last or done % config.eval_every == 0:
      with clock.measure('evaluation'):
        row |= evaluate(state.params)
      _keep_best(best, state, memory, row, done, saves)
    row |= clock.lap() | dict(programs_compiled=compilation.num_programs())
    writer.write(done, row)
    _report(name, done, config.num_iterations, row, bar)
    is_over = is_stopped() and not is_last
    if is_over or is_last or done % config.save_every == 0:
      with clock.measure('checkpoint'):
        writer.sync()
        best.wait()  # a checkpoint names the best one: it must be there
        if is_over:
          saves.interrupt(
              state, int(state.step), progress.Pending([], clock.lap()))
          break
        saves.save(state, int(state.step))
  bar.close()
  best.close()
  return state


def _open_best(directory: epath.Path) -> checkpoint.Checkpoints:
  """Keeps one checkpoint; of several that a kill left only the newest."""
  if jax.process_index() == 0:
    integrity.remove_leftovers(directory)
    for step in integrity.steps(directory)[:-1]:
      (directory / str(step)).rmtree()
  return checkpoint.Checkpoints(directory, checkpoint.CheckpointConfig(
      save_every_steps=1, max_to_keep=1))


def _keep_best(best, state, memory, row, done, saves) -> None:
  """Saves the best policy on validation problems so far."""
  success = row['validation/success']
  if memory.best is None or success > memory.best['success']:
    memory.best = dict(iteration=done, success=success)
    best.save(state, memory, step=done, **saves.identity)


def _report(name, done, total, row, bar) -> None:
  words = (
      f'success {row["success"]:.3f}  entropy {row["entropy"]:.3f}  '
      f'{row["tokens_per_trajectory"]:.0f} tokens')
  if 'kl_k3' in row:
    words += f'  kl {row["kl_k3"]:.4f}'
  if 'validation/success' in row:
    words += f'  validation {row["validation/success"]:.3f}'
  bar.update()
  bar.set_postfix_str(words)
  if bar.disable:
    logging.info('%s iteration %d/%d  %s', name, done, total, words)


def _finish(directory, objective, seed, memory, clock, experiment) -> None:
  """Writes the summary of a finished run."""
  rows = metrics_lib.read(directory / 'metrics.jsonl')
  files.write_json(directory / 'summary.json', dict(
      objective=objective, seed=seed, settings=_of_run(experiment),
      num_iterations=rows[-1]['step'],
      tokens=sum(row['tokens'] for row in rows), best=memory.best,
      last={k: v for k, v in rows[-1].items() if k.startswith('validation/')},
      seconds=goodput.summarise([*rows, clock.lap()])))
