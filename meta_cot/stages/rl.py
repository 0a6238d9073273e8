# SPDX-License-Identifier: Apache-2.0
"""Stage 7: reinforcement learning over episodes, run by run.

Leaves `rl/<objective>/seed<n>/`: checkpoints, the best one in `best/`,
metrics.jsonl, tensorboard, summary.json; and `rl/report.md`.
"""

import dataclasses
import logging
import sys

from etils import epath
import jax
import tqdm

from meta_cot import sharding
from meta_cot.rl import learner as learner_lib
from meta_cot.rl import questions as questions_lib
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.stages import evaluate
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import rl_material
from meta_cot.stages import sft
from meta_cot.training import checkpoint
from meta_cot.training import compilation
from meta_cot.training import goodput
from meta_cot.training import integrity
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import progress
from meta_cot.training import state as state_lib

# Which runs there are, and how they are looked at.
_FREE = (
    'objectives', 'seeds', 'num_slots', 'eval_every', 'num_eval_problems',
    'num_eval_samples', 'save_every', 'num_accumulation', 'num_loss_chunks')
# What the stage `search` alone has.
_FREE_SEARCH = (
    'arm', 'strategies', 'num_problems', 'num_slots', 'chunk_steps',
    'num_samples')


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
    material = rl_material.Material.of(experiment, workdir, mesh)
    for objective in experiment.rl.objectives:
      for seed in experiment.rl.seeds:
        directory = rl_material.folder(workdir, objective, seed)
        if not is_trained(experiment, directory):
          train(experiment, material, objective, seed, directory)
    evaluate.run_episodes(experiment, workdir, material)


def is_trained(experiment, directory: epath.Path) -> bool:
  """Whether a run has finished there, with these settings.

  Raises:
    UserError: one has, with others.
  """
  path = directory / 'summary.json'
  if not path.exists():
    return False
  differences = config_lib.differences(
      files.read_json(path)['settings'], _of_run(experiment), free=(),
      where='there')
  if differences:
    raise config_lib.UserError(
        f'{directory}: this policy was trained with other settings '
        f'({"; ".join(differences[:3])}); remove the folder or use another '
        '--workdir.')
  return True


def _of_run(experiment) -> dict:
  """The settings that a trained policy depends on."""
  kept = lambda config, free: {
      k: v for k, v in dataclasses.asdict(config).items() if k not in free}
  settings = {'rl': kept(experiment.rl, _FREE)}
  if experiment.rl.exploration != 'policy':
    settings['search'] = kept(experiment.search, _FREE_SEARCH)
  return settings


def train(experiment, material: rl_material.Material, objective: str, seed: int,
          directory: epath.Path) -> None:
  """Trains one policy, from its newest checkpoint if there is one.

  Raises:
    Interrupted: a signal came; what is needed to continue is saved.
    FloatingPointError: a loss or gradient is not finite.
  """
  clock, config = goodput.Clock(), experiment.rl
  name = f'{objective}, seed {seed}'
  learner, evaluate = make_learner(experiment, material, objective, seed)
  memory = questions_lib.Memory(
      questions_lib.Questions(
          len(material.train), seed=seed, min_success=config.min_success,
          max_success=config.max_success, rest=config.rest),
      config.kl_coefficient)
  saves = progress.Progress(
      directory, checkpoint.CheckpointConfig(
          save_every_steps=1, max_to_keep=experiment.checkpoint.max_to_keep),
      memory, settings=dataclasses.asdict(experiment) | {
          'of_run': _of_run(experiment)},
      tokenizer=material.tokenizer.fingerprint)
  state, pending = saves.restore(
      rl_material.abstract(experiment, material.mesh))
  if state is None:
    state = _begin(experiment, material, seed)
  first = int(state.step) // config.updates_per_iteration()
  if first:
    logging.info('%s: continues after iteration %d', name, first)
    clock.continues(
        [row for row in metrics_lib.read(directory / 'metrics.jsonl')
         if row['step'] > first], pending.lap)
  writer = metrics_lib.MetricsWriter(
      directory, first, is_writer=jax.process_index() == 0)
  with interruption.deferred():
    state = _loop(
        learner, evaluate, state, memory, saves, writer, clock, first,
        interruption.Stop(material.mesh).is_agreed, directory)
    with clock.measure('checkpoint'):
      saves.close()
    writer.close()
    if int(state.step) < config.num_iterations * config.updates_per_iteration():
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


def make_learner(
    experiment, material: rl_material.Material, objective: str, seed: int):
  """The learner of a run, and what evaluates its policy.

  Returns:
    (`learner.Learner`, params -> row of metrics).

  Raises:
    ConfigError: settings that do not go together.
  """
  config, mesh = experiment.rl, material.mesh
  rules = rl_material.make_rules(experiment, objective, material.tokenizer)
  rl_material.check_split(experiment, rules, mesh)
  steps = rl_material.make_steps(experiment, material.tokenizer)
  player = material.player(objective, config.num_samples)
  learner = learner_lib.Learner(
      config=config, objective=objective, name=f'{objective}, seed {seed}',
      problems=material.train, player=player, judge=material.judge,
      reference=material.start,
      prepare=learner_lib.jit_prepare(
          experiment.model, config, objective, material.tokenizer.pad_id,
          steps),
      update=rl_material.jit_update(experiment, rules, mesh),
      vine=rl_material.make_vine(material, player, steps),
      explore=material.explore(objective),
      rng=jax.random.fold_in(jax.random.key(experiment.seed), seed), mesh=mesh)
  return learner, rl_material.Evaluation(
      material, objective, material.validation)


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


def _begin(experiment, material, seed) -> state_lib.TrainState:
  """A new state that holds a copy of the start's parameters."""
  state = state_lib.create(
      sft.init_fn(experiment), rl_material.update(experiment.rl), material.mesh,
      jax.random.key(seed))
  return state.replace(
      params=jax.tree.map(lambda x: x.copy(), material.start))


def _report(name, done, total, row, bar) -> None:
  words = (
      f'success {row["success"]:.3f}  kl {row["kl_k3"]:.4f}  entropy '
      f'{row["entropy"]:.3f}  {row["tokens_per_trajectory"]:.0f} tokens')
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
