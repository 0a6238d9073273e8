# SPDX-License-Identifier: Apache-2.0
"""Stage `rl`: reinforcement learning over episodes, run by run.

Leaves a policy folder for each run, `<objective>/seed<n>/`: checkpoints, the
best one on validation problems in `best/`, metrics.jsonl, tensorboard,
summary.json.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import logging
import sys

from etils import epath
import jax
import tqdm

from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.rl import programs as programs_lib
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import settings as settings_lib
from meta_cot.rl import setup as setup_lib
from meta_cot.rollouts import player
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.solvers import vocabulary
from meta_cot.stages import artifacts
from meta_cot.stages import base
from meta_cot.tasks import base as tasks
from meta_cot.training import checkpoint
from meta_cot.training import compilation
from meta_cot.training import goodput
from meta_cot.training import integrity
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import policy as policy_lib
from meta_cot.training import progress
from meta_cot.training import state as state_lib

_DELIMITER_ID = 2  # of a placeholder's searches

Settings = settings_lib.RlConfig


def leaves(settings: Settings) -> tuple[str, ...]:
  """Lists the policies: `OBJECTIVE/seedN`."""
  return tuple(
      f'{objective}/seed{seed}' for objective in settings.objectives
      for seed in settings.seeds)


def check(context: base.Context, settings: Settings, name: str) -> None:
  """Raises a ConfigError for what training would refuse."""
  del name
  programs = plan(context, settings)
  for objective in settings.objectives:
    programs.of(objective).check()


def check_devices(
    settings: Settings, name: str, mesh: jax.sharding.Mesh) -> None:
  """Raises a ConfigError where questions do not divide over the devices."""
  number, parts = (
      settings.questions.num_questions, sharding.data_parallelism(mesh))
  if number % parts:
    raise base.wrong(
        name, 'questions.num_questions', f'got {number}; must be a multiple of '
        f'{parts}, the data-parallel devices.')


def run(
    context: base.Context, settings: Settings, directory: epath.Path) -> None:
  """Trains every policy that has no summary yet.

  Raises:
    UserError: what it reads is missing, or settings do not go together.
    Interrupted: a signal came; what is needed to continue is saved.
  """
  setup = None
  for part in leaves(settings):
    if not (directory / part / 'summary.json').exists():
      setup = setup or make_setup(context, settings)
      objective, _, seed = part.partition('/seed')
      train(context, settings, setup, objective, int(seed), directory / part)


def plan(
    context: base.Context, settings: Settings) -> programs_lib.Programs:
  """Describes the programs of the start, before there is a tokenizer."""
  start = artifacts.planned(context, settings.start)
  words = vocabulary.Vocabulary(
      pad_id=start.tokenizer.pad_id, eos_ids=start.tokenizer.eos_ids,
      delimiter_ids=(_DELIMITER_ID,), texts=())
  return make_programs(
      context, settings, start.model, start.style, start.tokenizer,
      lambda: words, context.first_problems)


def make_programs(
    context: base.Context, settings: Settings, model: model_config.ModelConfig,
    style: str, tokenizer: tokenizers.Tokenizer,
    make_vocabulary: Callable[[], vocabulary.Vocabulary],
    problems: Sequence[Problem],
) -> programs_lib.Programs:
  """Makes the programs of a start, with prompts as wide as the problems need.
  """
  width = player.prompt_width(
      tokenizer, problems, style, settings.credit.discount_prompts)
  return programs_lib.Programs(
      context.task, model, settings,
      lambda: settings.search.depth(context.task, problems), tokenizer,
      make_vocabulary, context.mesh, style, width,
      settings.episodes.num_episodes)


def make_setup(context: base.Context, settings: Settings) -> setup_lib.Setup:
  """Reads what the runs share.

  Raises:
    UserError: the start or problems are missing, or settings do not go
      together.
  """
  start = artifacts.policy(context, settings.start)
  read = functools.partial(artifacts.problems, context, settings.problems)
  train_problems = read(tasks.TRAIN)
  validation = read(tasks.VALIDATION, settings.num_eval_problems)
  tokenizer = start.tokenizer()
  programs = make_programs(
      context, settings, start.model, start.style, tokenizer,
      functools.partial(
          vocabulary.of, tokenizer, start.model.vocab_size, start.style,
          settings.search.step), [*train_problems, *validation])
  return setup_lib.Setup(
      programs, train_problems, validation, start.params(context.mesh),
      context.seed)


def train(
    context: base.Context, settings: Settings, setup: setup_lib.Setup,
    objective: str, seed: int, directory: epath.Path) -> None:
  """Trains one policy, from its newest checkpoint if there is one.

  Raises:
    Interrupted: a signal came; what is needed to continue is saved.
    FloatingPointError: a loss or gradient is not finite.
  """
  clock, learner = goodput.Clock(), setup.learner(objective, seed)
  programs = setup.programs.of(objective)
  evaluate = setup_lib.Evaluation(setup, programs)
  if jax.process_index() == 0:
    policy_lib.write(
        directory, programs.model, programs.tokenizer, programs.style, dict(
            objective=objective, seed=seed, num_episodes=programs.num_episodes,
            episodes=dataclasses.asdict(settings.episodes),
            search=dataclasses.asdict(settings.search)))
  memory = _memory(settings, setup, seed)
  saves = progress.Progress(
      directory, settings.max_to_keep, memory,
      settings=config_lib.bound(settings),
      tokenizer=programs.tokenizer.fingerprint)
  state, pending = saves.restore(setup.programs.state)
  if state is None:
    state = setup.state(seed)
  first = int(state.step) // settings.updates.per_iteration
  writer = metrics_lib.MetricsWriter(directory, first)
  if first:
    logging.info('%s: continues after iteration %d', learner.name, first)
    clock.continues(writer.dropped, pending.lap)
  with interruption.deferred():
    state = _loop(
        learner, evaluate, state, memory, saves, writer, clock, first,
        interruption.Stop(learner.mesh).is_agreed, directory)
    with clock.measure('checkpoint'):
      saves.close()
    writer.close()
    if int(state.step) < settings.num_updates:
      raise interruption.Interrupted
    saves.finish()
    if jax.process_index() == 0:
      _finish(directory, objective, seed, memory, clock)


def _memory(settings, setup, seed) -> questions_lib.Memory:
  asked = settings.questions
  return questions_lib.Memory(
      questions_lib.Questions(
          len(setup.train), seed=seed, min_success=asked.min_success,
          max_success=asked.max_success, rest=asked.rest),
      settings.loss.kl_coefficient)


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
  return checkpoint.Checkpoints(directory, 1)


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


def _finish(directory, objective, seed, memory, clock) -> None:
  """Writes the summary of a finished run."""
  rows = metrics_lib.read(directory / 'metrics.jsonl')
  files.write_json(directory / 'summary.json', dict(
      objective=objective, seed=seed, num_iterations=rows[-1]['step'],
      tokens=sum(row['tokens'] for row in rows), best=memory.best,
      last={k: v for k, v in rows[-1].items() if k.startswith('validation/')},
      seconds=goodput.summarise([*rows, clock.lap()])))


def programs(context: base.Context, settings: Settings) -> base.Programs:
  """Lists what training compiles: `OBJECTIVE/PART`."""
  start = plan(context, settings)
  found = {}
  for objective in settings.objectives:
    learned = start.of(objective)
    for part in learned.parts:
      found[f'{objective}/{part}'] = functools.partial(
          _build, learned, part, f'{objective}/{part}')
  return found


def _build(learned: programs_lib.Programs, part: str, name: str):
  learned.check()
  learned.check_split()
  return programs_lib.PARTS[part](learned, name)


STAGE = base.Stage(
    Settings=Settings, run=run,
    reads=lambda settings: (settings.start, settings.problems), leaves=leaves,
    check=check, check_devices=check_devices,
    is_whole=lambda context, settings, directory: all(
        (directory / part / 'summary.json').exists()
        for part in leaves(settings)),
    programs=programs)
