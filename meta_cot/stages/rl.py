# SPDX-License-Identifier: Apache-2.0
"""Stage `rl`: reinforcement learning over episodes, run by run.

Leaves a policy folder for each run, `<objective>/seed<n>/`: checkpoints, the
best one on validation problems in `best/`, metrics.jsonl, tensorboard,
rollouts.jsonl, summary.json.
"""

from collections.abc import Sequence
import dataclasses
import functools
import logging

from etils import epath

from data_pipelines import store
from meta_cot.problem import Problem
from meta_cot.rl import kept
from meta_cot.rl import lagged
from meta_cot.rl import parts as parts_lib
from meta_cot.rl import programs as programs_lib
from meta_cot.rl import qstar
from meta_cot.rl import questions as questions_lib
from meta_cot.rl import settings as settings_lib
from meta_cot.rl import setup as setup_lib
from meta_cot.rollouts import player
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.runtime import status
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.tasks import base as tasks
from meta_cot.traces import record as record_lib
from meta_cot.training import checkpoint
from meta_cot.training import compilation
from meta_cot.training import goodput
from meta_cot.training import integrity
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import optimizer
from meta_cot.training import policy as policy_lib
from meta_cot.training import progress
from meta_cot.training import state as state_lib

Settings = settings_lib.RlConfig


def _leaves(settings: Settings) -> tuple[str, ...]:
  """The policies: `OBJECTIVE/seedN`."""
  return tuple(
      f'{objective}/seed{seed}' for objective in settings.objectives
      for seed in settings.seeds)


def _check(context, settings, name) -> None:
  del name
  for programs in _plan(context, settings).values():
    programs.check()


def _check_devices(context, settings, name) -> None:
  del name
  for programs in _plan(context, settings).values():
    programs.check_split()


def _missing(settings: Settings, directory: epath.Path) -> list[str]:
  """The policies that have not been trained for as long as is asked for."""
  return [
      part for part in _leaves(settings)
      if not _is_trained(directory / part, settings)]


def _is_trained(directory: epath.Path, settings: Settings) -> bool:
  """Raises a UserError where a policy is trained for more than is asked for."""
  path = directory / 'summary.json'
  if not path.exists():
    return False
  done = files.read_json(path, num_iterations=int)['num_iterations']
  _check_growth(directory, settings, done)
  return done == settings.num_iterations


def _check_growth(directory, settings, done: int) -> None:
  if done > settings.num_iterations:
    raise config_lib.UserError(
        f'{directory}: trained for {done} iterations; num_iterations, '
        f'{settings.num_iterations}, may grow but not shrink.')


def _run(context, settings, directory) -> None:
  setup = None
  for part in _missing(settings, directory):
    setup = setup or _make_setup(context, settings)
    objective, _, seed = part.partition('/seed')
    train(settings, setup, objective, int(seed), directory / part,
          context.base(directory / part, settings.start, settings.trained),
          context.policy(settings.start))


def _plan(context, settings) -> dict[str, programs_lib.Programs]:
  """The programs of every objective, before there is a tokenizer."""
  programs = make_programs(
      context, settings, context.planned(settings.start),
      context.first_problems)
  return {name: programs.of(name) for name in settings.objectives}


def make_programs(
    context: base.Context, settings: Settings, start: base.Planned,
    problems: Sequence[Problem],
) -> programs_lib.Programs:
  """Makes the programs of a start, with prompts as wide as the problems need.
  """
  return programs_lib.Programs(
      context.task, start.model, settings,
      lambda: settings.search.depth(context.task, problems), start.tokenizer,
      lambda: start.words(settings.search.step), context.mesh, start.style,
      player.prompt_width(
          start.tokenizer, problems, start.style,
          settings.credit.discount_prompts), settings.episodes.num_episodes)


def _make_setup(context, settings) -> setup_lib.Setup:
  """Reads what the runs share."""
  start = context.policy(settings.start)
  read = functools.partial(context.problems, settings.problems)
  train_problems = read(tasks.TRAIN)
  validation = read(tasks.VALIDATION, settings.num_eval_problems)
  context.check_prompts(start, (*train_problems, *validation))
  return setup_lib.Setup(
      make_programs(context, settings, base.Planned.of(start),
                    [*train_problems, *validation]),
      train_problems, validation, start.params(context.mesh), context.seed,
      _solutions(context, settings, start, train_problems))


def _solutions(context, settings, start, problems) -> qstar.Solutions | None:
  """Those of the data, where an objective learns from them."""
  if not any('solutions' in settings.objective(name).needs
             for name in settings.objectives):
    return None
  folder = context.folder(settings.questions.solutions)
  if (kind := store.read_manifest(folder).kind) != record_lib.KIND:
    raise config_lib.UserError(
        f'{folder}: has records of kind {kind!r}, which have no solutions; '
        "name those of a stage of kind 'traces' or 'search'.")
  source = store.read(folder, tasks.TRAIN)
  return qstar.read(
      (source[i] for i in range(len(source))), problems, start.tokenizer(),
      start.style, settings.questions.solution_length, str(folder),
      context.mesh)


def train(
    settings: Settings, setup: setup_lib.Setup, objective: str, seed: int,
    directory: epath.Path, base: policy_lib.Base | None = None,
    start: policy_lib.Policy | None = None) -> None:
  """Trains one policy, from its newest checkpoint if there is one.

  `base` says where the start is, if only a part is trained; `start` is what it
  says of itself.

  Raises:
    UserError: it is of more iterations than are asked for.
    Interrupted: a signal came; what is needed to continue is saved.
    FloatingPointError: a loss or gradient is not finite.
  """
  clock, learner = goodput.Clock(), setup.learner(objective, seed)
  programs = setup.programs.of(objective)
  evaluate = setup_lib.Evaluation(setup, programs)
  if distributed.is_primary():
    policy_lib.write(
        directory, programs.model, programs.tokenizer, programs.style, dict(
            objective=objective, seed=seed, num_episodes=programs.num_episodes,
            discounts=[*zip(
                settings.credit.discounts, settings.credit.discount_prompts)],
            episodes=dataclasses.asdict(settings.episodes),
            search=dataclasses.asdict(settings.search)), base, start)
  asked = settings.questions
  memory = questions_lib.Memory(
      questions_lib.Questions(
          len(setup.train), seed=seed, min_success=asked.min_success,
          max_success=asked.max_success, rest=asked.rest),
      settings.loss.kl_coefficient)
  saves = progress.Progress(
      directory, settings.max_to_keep, memory,
      settings=config_lib.bound(settings) | policy_lib.bound(base),
      tokenizer=programs.tokenizer.fingerprint)
  state, writer = _open(setup, learner, saves, directory, seed, clock)
  first = int(state.step) // settings.updates.per_iteration
  rollouts = kept.Store(directory, first)
  with interruption.deferred():
    state = _loop(
        learner, programs, evaluate, state, memory, saves, (writer, rollouts),
        clock, first, directory / 'best')
    with clock.measure('checkpoint'):
      saves.close()
    writer.close()
    rollouts.close()
    if int(state.step) < settings.num_updates:
      raise interruption.Interrupted
    saves.finish()
    if distributed.is_primary():
      _finish(directory, objective, seed, memory, clock)


def _open(setup, learner, saves, directory, seed, clock):
  """The state to go on from, and the writer of what follows."""
  settings = learner.config
  state, pending = saves.restore(setup.programs.saved)
  if state is None:
    state = setup.state(seed)
  first = int(state.step) // settings.updates.per_iteration
  _check_growth(directory, settings, first)
  writer = metrics_lib.MetricsWriter(directory, first)
  if first:
    logging.info(
        '%s: continues after iteration %d of %d; %s', learner.name, first,
        settings.num_iterations, optimizer.describe(
            settings.optimizer, int(state.step), settings.num_updates))
    clock.continues(writer.dropped, pending.lap)
    if distributed.is_primary():  # it was of a run with fewer iterations
      (directory / 'summary.json').unlink(missing_ok=True)
  return state, writer


def _loop(learner, programs, evaluate, state, memory, saves, writers, clock,
          first, directory) -> state_lib.TrainState:
  """Iterations, from `first` on; returns early after a signal."""
  config, name, (writer, rollouts) = learner.config, learner.name, writers
  keep = kept.Keeper(learner, programs.keep(), rollouts) if (
      programs.keeps) else None
  best, stop = _open_best(directory), interruption.Stop(learner.mesh)
  shown = status.Status(
      name, config.num_iterations, 'iteration', first=first)
  iterate = (
      lagged.Iterations(learner) if config.lag else learner).iterate
  clock.switch('step')
  for iteration in range(first, config.num_iterations):
    state, row = iterate(state, memory, iteration, keep)
    done = iteration + 1
    is_last = done == config.num_iterations
    if is_last or done % config.eval_every == 0:
      with clock.measure('evaluation'):
        row |= evaluate(learner.whole(state))
      _keep_best(best, state, memory, row, done, saves)
    row |= clock.lap() | dict(programs_compiled=compilation.num_programs())
    writer.write(done, row)
    shown.update(done, _words(row))
    is_over = stop.is_agreed() and not is_last
    is_save = is_last or done % config.save_every == 0
    if is_over or is_save:
      with clock.measure('checkpoint'):
        writer.sync()
        rollouts.sync()
        best.wait()  # a checkpoint names the best one: it must be there
        if is_save:  # also with a signal: an unbroken run has it too
          saves.save(state, int(state.step))
        else:
          saves.interrupt(
              state, int(state.step), progress.Pending([], clock.lap()))
    if is_over:
      break
  shown.close()
  best.close()
  return state


def _open_best(directory: epath.Path) -> checkpoint.Checkpoints:
  """Keeps one checkpoint; of several that a kill left only the newest."""
  if distributed.is_primary():
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


def _words(row) -> str:
  """The last numbers, for who watches."""
  words = (
      f'success {row["success"]:.3f}  entropy {row["entropy"]:.3f}  '
      f'{row["tokens_per_trajectory"]:.0f} tokens')
  if 'kl_k3' in row:
    words += f'  kl {row["kl_k3"]:.4f}'
  if 'validation/success' in row:
    words += f'  validation {row["validation/success"]:.3f}'
  return words


def _finish(directory, objective, seed, memory, clock) -> None:
  """Writes the summary of a finished run."""
  rows = metrics_lib.read_all(directory / 'metrics.jsonl')
  files.write_json(directory / 'summary.json', dict(
      objective=objective, seed=seed, num_iterations=rows[-1]['step'],
      tokens=sum(row['tokens'] for row in rows), best=memory.best,
      last={k: v for k, v in rows[-1].items() if k.startswith('validation/')},
      seconds=goodput.summarise([*rows, clock.lap()])))


def _programs(context, settings) -> base.Programs:
  """Lists what training compiles: `OBJECTIVE/PART`."""
  return {
      f'{objective}/{part}': functools.partial(
          parts_lib.PARTS[part], programs, f'{objective}/{part}')
      for objective, programs in _plan(context, settings).items()
      for part in programs.parts}


STAGE = base.Stage(
    Settings=Settings, run=_run,
    reads=lambda settings: (
        settings.start, settings.problems,
        *filter(None, [settings.questions.solutions])), leaves=_leaves,
    grown=lambda settings: dict(num_iterations=settings.num_iterations),
    check=_check, check_devices=_check_devices, check_folder=_missing,
    is_whole=lambda context, settings, directory: not _missing(
        settings, directory),
    programs=_programs)
