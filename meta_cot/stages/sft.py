# SPDX-License-Identifier: Apache-2.0
"""Stage 4: supervised fine-tuning, one run per arm.

Leaves `sft/<arm>/`: checkpoints, metrics.jsonl, tensorboard, summary.json.
"""

from collections.abc import Iterator
import dataclasses
import functools
import logging
import pathlib

import jax

from data_pipelines import arms
from data_pipelines import pipelines
from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import types
from meta_cot.model import transformer
from meta_cot.objectives import sft as objective
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import base
from meta_cot.training import checkpoint
from meta_cot.training import flops
from meta_cot.training import goodput
from meta_cot.training import loop
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import optimizer
from meta_cot.training import progress
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib

_PROBE_BATCHES = 20  # packed batches read to learn how full rows are


def run(
    experiment: experiment_lib.Experiment, workdir: pathlib.Path
) -> None:
  """Trains every arm that has no summary yet."""
  mesh = sharding.make_mesh(experiment.mesh)
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  with sharding.use_mesh(mesh):
    for arm in experiment.arms:
      directory = workdir / 'sft' / arm
      if not (directory / 'summary.json').exists():
        train_arm(experiment, workdir, arm, mesh, tokenizer)


def init_fn(experiment: experiment_lib.Experiment):
  """rng -> boxed parameters of the experiment's model."""
  return functools.partial(transformer.init, experiment.model)


def loss_fn(experiment, params: types.Params, batch: types.Batch):
  """Totals of the SFT objective on one batch."""
  model, num_chunks = experiment.model, experiment.train.num_loss_chunks
  hidden_BxLxD = transformer.hidden(
      model, params, batch.tokens, positions_BxL=batch.positions,
      segment_ids_BxL=batch.segment_ids)
  read_out = lambda x: transformer.read_out(model, params, x).logits
  if num_chunks == 1:
    return objective.loss_sums(read_out(hidden_BxLxD), batch)
  return objective.chunked_loss_sums(
      read_out, hidden_BxLxD, batch, num_chunks=num_chunks)


def jit_train_step(experiment: experiment_lib.Experiment, mesh, num_steps: int):
  """The update of a run of `num_steps` steps, jitted with its shardings."""
  update = optimizer.make(experiment.optimizer, num_steps)
  _, placed = state_lib.shardings(init_fn(experiment), update, mesh)
  step = step_lib.make_train_step(
      functools.partial(loss_fn, experiment), update,
      optimizer.schedule(experiment.optimizer, num_steps),
      experiment.train.num_accumulation)
  return jax.jit(
      step, in_shardings=(placed, sharding.batch(mesh)),
      out_shardings=(placed, sharding.replicated(mesh)),
      donate_argnames=('state',))


def jit_loss_sums(experiment: experiment_lib.Experiment, mesh):
  """(params, batch) -> totals of the objective, jitted with its shardings."""
  boxed = jax.eval_shape(init_fn(experiment), jax.eval_shape(
      lambda: jax.random.key(0)))
  return jax.jit(
      functools.partial(loss_fn, experiment),
      in_shardings=(sharding.of_params(mesh, boxed), sharding.batch(mesh)),
      out_shardings=sharding.replicated(mesh))


def train_arm(experiment, workdir, arm, mesh, tokenizer) -> None:
  """Trains one arm, from its newest checkpoint if there is one.

  Raises:
    Interrupted: a signal came; what is needed to continue is saved.
  """
  clock = goodput.Clock()
  directory = workdir / 'sft' / arm
  data = _Data(experiment, workdir, arm, tokenizer, mesh)
  num_steps = max(
      1, round(experiment.train.num_tokens / data.tokens_per_step()))
  _announce(experiment, arm, mesh, num_steps)

  update = optimizer.make(experiment.optimizer, num_steps)
  abstract, _ = state_lib.shardings(init_fn(experiment), update, mesh)
  host_batches = data.train()
  saves = progress.Progress(
      directory, experiment.checkpoint, host_batches,
      settings=config_lib.bound(experiment), tokenizer=tokenizer.fingerprint)
  state, pending = saves.restore(abstract)
  if state is None:
    state = state_lib.create(
        init_fn(experiment), update, mesh, jax.random.key(experiment.seed))
  else:
    step = int(state.step)
    logging.info('%s: continues after step %d', arm, step)
    clock.continues(
        [row for row in metrics_lib.read(directory / 'metrics.jsonl')
         if row['step'] > step], pending.lap)
  writer = metrics_lib.MetricsWriter(
      directory, int(state.step), is_writer=jax.process_index() == 0)
  with interruption.deferred():
    state = loop.run(
        state, _on_devices(host_batches, mesh),
        jit_train_step(experiment, mesh, num_steps), num_steps=num_steps,
        log_every_steps=experiment.train.log_every_steps,
        hooks=_hooks(experiment, data, mesh, num_steps, saves),
        rates=_rates(experiment), writer=writer, clock=clock,
        pending=pending.rows, profile=_profile(experiment, directory),
        name=arm)
    with clock.measure('checkpoint'):
      saves.close()
    writer.close()
    if int(state.step) < num_steps:
      raise interruption.Interrupted
    saves.finish()  # first: an arm that has a summary is not looked at again
    if jax.process_index() == 0:
      _finish(directory, arm, state, clock)


def restore(
    experiment: experiment_lib.Experiment, directory: pathlib.Path, mesh,
) -> tuple[int, types.Params]:
  """The newest checkpoint of a finished arm: its step and parameters.

  Raises:
    UserError: the arm is not trained.
  """
  if not (directory / 'summary.json').exists():
    raise config_lib.UserError(
        f'{directory}: this arm is not trained; run the stage sft first.')
  num_steps = files.read_json(directory / 'summary.json')['num_steps']
  abstract, _ = state_lib.shardings(
      init_fn(experiment), optimizer.make(experiment.optimizer, num_steps),
      mesh)
  state = checkpoint.restore_newest(
      directory / 'checkpoints', experiment.checkpoint, abstract)
  return int(state.step), state.params


def _hooks(experiment, data, mesh, num_steps, saves) -> loop.Hooks:
  schedule = experiment.checkpoint.save_every_steps
  eval_every = experiment.train.eval_every_steps
  return loop.Hooks(
      save=saves.save,
      is_save_due=lambda step: step == num_steps or step % schedule == 0,
      evaluate=_Evaluation(experiment, data, mesh),
      is_eval_due=lambda step: step == num_steps or step % eval_every == 0,
      is_stopped=interruption.Stop(mesh).is_agreed,
      interrupt=lambda state, step, rows, lap: saves.interrupt(
          state, step, progress.Pending(rows, lap)))


def _profile(experiment, directory) -> loop.Profile | None:
  if not experiment.train.profile_steps:
    return None
  first, last = experiment.train.profile_steps
  return loop.Profile(first, last, str(directory / 'profile'))


@dataclasses.dataclass(frozen=True)
class _Data:
  """The batches of one arm on this host."""

  experiment: experiment_lib.Experiment
  workdir: pathlib.Path
  arm: str
  tokenizer: tokenizers.Tokenizer
  mesh: jax.sharding.Mesh

  @functools.cached_property
  def task(self) -> base.Task:
    """It varies and judges; it need not have problems."""
    return tasks.make(self.experiment.task.kind)

  def _source(self, split):
    return store.read(self.workdir / 'traces', split)

  def _read(self, batches, split, host_index, num_hosts):
    return batches(
        self._source(split), self.tokenizer, self.experiment.data,
        transform=arms.make(self.arm, self.task), seed=self.experiment.seed,
        batch_size=self.experiment.train.batch_size, host_index=host_index,
        num_hosts=num_hosts)

  def train(self):
    """Endless training batches; the iterator's state can be saved."""
    return self._read(
        pipelines.train_batches, base.TRAIN, *sharding.host_share(self.mesh))

  def validation(self):
    """The first validation batches, the same every time."""
    batches = self._read(
        pipelines.eval_batches, base.VALIDATION,
        *sharding.host_share(self.mesh))
    for _, batch in zip(range(self.experiment.train.num_eval_batches), batches):
      yield batch

  def tokens_per_step(self) -> float:
    """Mean tokens of a batch of all hosts, padding not counted.

    Every host looks at the first stream alone, so that they agree.
    """
    num_streams = self.experiment.data.num_streams
    stream = self._read(pipelines.train_batches, base.TRAIN, 0, num_streams)
    total = sum(
        int((next(stream)['segment_ids'] > 0).sum())
        for _ in range(_PROBE_BATCHES))
    stream.close()
    return total / _PROBE_BATCHES * num_streams


class _Evaluation:
  """Mean loss and accuracy of a state on validation problems."""

  def __init__(self, experiment, data, mesh):
    self._batches = [
        _to_device(batch, mesh) for batch in data.validation()]
    self._sums = jit_loss_sums(experiment, mesh)

  def __call__(self, state) -> dict[str, float]:
    sums = jax.device_get([self._sums(state.params, b) for b in self._batches])
    total = lambda name: float(sum(getattr(s, name) for s in sums))
    weight = max(total('weight'), 1e-9)
    return dict(
        eval_loss=total('loss') / weight,
        eval_accuracy=total('correct') / weight)


def _to_device(batch: dict, mesh) -> types.Batch:
  return types.Batch(**sharding.put_batch(batch, mesh))


def _on_devices(host_batches: Iterator, mesh) -> Iterator[types.Batch]:
  for batch in host_batches:
    yield _to_device(batch, mesh)


def _rates(experiment) -> loop.Rates:
  return loop.Rates(
      flops_per_token=flops.training_flops_per_token(
          experiment.model, experiment.data.sequence_length),
      peak_flops=flops.peak_per_device() * jax.device_count())


def _announce(experiment, arm, mesh, num_steps) -> None:
  rows = experiment_lib.rows_per_device(experiment, mesh)
  logging.info(
      '%s: %d sequences of %d tokens per step = %d rows/device x %d devices x '
      '%d accumulation; %d steps', arm, experiment.train.batch_size,
      experiment.data.sequence_length, rows, sharding.data_parallelism(mesh),
      experiment.train.num_accumulation, num_steps)


def _finish(directory, arm, state, clock) -> None:
  """Writes the summary of a finished run."""
  rows = metrics_lib.read(directory / 'metrics.jsonl')
  last = rows[-1]
  time_spent = goodput.summarise([*rows, clock.lap()])
  logging.info(
      '%s: %s', arm, ', '.join(
          f'{kind} {seconds:.1f} s' for kind, seconds in time_spent.items()
          if kind != 'goodput') + f'; goodput {time_spent["goodput"]:.0%}')
  files.write_json(directory / 'summary.json', dict(
      arm=arm,
      num_parameters=sum(x.size for x in jax.tree.leaves(state.params)),
      num_steps=last['step'],
      tokens=sum(row['tokens'] for row in rows),
      loss=last['loss'],
      eval_loss=last['eval_loss'],
      eval_accuracy=last['eval_accuracy'],
      seconds=time_spent))
