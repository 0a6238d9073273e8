# SPDX-License-Identifier: Apache-2.0
"""Stage 3: supervised fine-tuning, one run per arm.

Leaves `sft/<arm>/`: checkpoints, metrics.jsonl, tensorboard, summary.json.
"""

from collections.abc import Iterator
import dataclasses
import functools
import logging
import pathlib
import time

import jax

from data_pipelines import arms
from data_pipelines import pipelines
from data_pipelines import store
from data_pipelines import tokenizer as tokenizer_lib
from meta_cot import experiment as experiment_lib
from meta_cot import files
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import transformer
from meta_cot.objectives import sft as objective
from meta_cot.training import checkpoint
from meta_cot.training import flops
from meta_cot.training import loop
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib

_PROBE_BATCHES = 20  # packed batches read to learn how full rows are


def run(
    experiment: experiment_lib.Experiment, workdir: pathlib.Path
) -> None:
  """Trains every arm that has no summary yet."""
  mesh = sharding.make_mesh(experiment.mesh)
  tokenizer = tokenizer_lib.load(workdir / 'tokenizer' / 'tokenizer.model')
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
  output = transformer.forward(
      experiment.model, params, batch.tokens, positions_BxL=batch.positions,
      segment_ids_BxL=batch.segment_ids)
  return objective.loss_sums(output.logits, batch)


def train_arm(experiment, workdir, arm, mesh, tokenizer) -> None:
  """Trains one arm, from its newest checkpoint if there is one."""
  directory = workdir / 'sft' / arm
  data = _Data(experiment, workdir, arm, tokenizer)
  tokens_per_step = data.tokens_per_step()
  num_steps = max(1, round(experiment.train.num_tokens / tokens_per_step))
  _announce(experiment, arm, mesh, num_steps)

  update = optimizer.make(experiment.optimizer, num_steps)
  abstract, placed = state_lib.shardings(init_fn(experiment), update, mesh)
  checkpoints = checkpoint.Checkpoints(
      directory / 'checkpoints', experiment.checkpoint)
  host_batches = data.train(jax.process_index())
  state = checkpoints.restore(abstract, host_batches)
  if state is None:
    state = state_lib.create(
        init_fn(experiment), update, mesh, jax.random.key(experiment.seed))
  else:
    logging.info('%s: continues after step %d', arm, int(state.step))

  train_step = jax.jit(
      step_lib.make_train_step(
          functools.partial(loss_fn, experiment), update,
          optimizer.schedule(experiment.optimizer, num_steps),
          experiment.train.num_accumulation),
      in_shardings=(placed, sharding.batch(mesh)),
      out_shardings=(placed, sharding.replicated(mesh)),
      donate_argnames=('state',))
  hooks = loop.Hooks(
      save=lambda state, step: checkpoints.save(
          state, host_batches, step=step,
          config=dataclasses.asdict(experiment), tokenizer=tokenizer.model),
      is_save_due=lambda step: checkpoints.is_due(step, num_steps),
      evaluate=_Evaluation(experiment, data, mesh, placed),
      is_eval_due=lambda step: (
          step == num_steps
          or step % experiment.train.eval_every_steps == 0))
  writer = metrics_lib.MetricsWriter(directory, int(state.step))
  started = time.perf_counter()
  state = loop.run(
      state, _on_devices(host_batches, mesh), train_step,
      num_steps=num_steps,
      log_every_steps=experiment.train.log_every_steps,
      hooks=hooks, rates=_rates(experiment), writer=writer,
      name=arm)
  checkpoints.close()
  writer.close()
  _summarise(directory, arm, state, num_steps, time.perf_counter() - started)


@dataclasses.dataclass(frozen=True)
class _Data:
  """The batches of one arm on this host."""

  experiment: experiment_lib.Experiment
  workdir: pathlib.Path
  arm: str
  tokenizer: tokenizer_lib.Tokenizer

  def _source(self, split):
    return store.read(self.workdir / 'traces', split)

  def _host_rows(self):
    return self.experiment.train.batch_size // jax.process_count()

  def train(self, host_index: int):
    """Endless training batches; the iterator's state can be saved."""
    return pipelines.train_batches(
        self._source('train'), self.tokenizer, self.experiment.data,
        transform=arms.ARMS[self.arm], seed=self.experiment.seed,
        batch_size=self._host_rows(), host_index=host_index,
        num_hosts=jax.process_count())

  def heldout(self):
    """The first held-out batches, the same every time."""
    batches = pipelines.eval_batches(
        self._source('heldout_numbers'), self.tokenizer,
        self.experiment.data, transform=arms.ARMS[self.arm],
        seed=self.experiment.seed,
        batch_size=self._host_rows(), host_index=jax.process_index(),
        num_hosts=jax.process_count())
    for _, batch in zip(range(self.experiment.train.num_eval_batches), batches):
      yield batch

  def tokens_per_step(self) -> float:
    """Mean tokens of a global batch, padding not counted.

    All hosts look at the rows of the first one, so that they agree.
    """
    iterator = self.train(0)
    total = sum(
        int((next(iterator)['segment_ids'] > 0).sum())
        for _ in range(_PROBE_BATCHES))
    return total / _PROBE_BATCHES * jax.process_count()


class _Evaluation:
  """Mean held-out loss and accuracy of a state."""

  def __init__(self, experiment, data, mesh, placed):
    self._batches = [
        _to_device(batch, mesh) for batch in data.heldout()]
    self._sums = jax.jit(
        functools.partial(loss_fn, experiment),
        in_shardings=(placed.params, sharding.batch(mesh)),
        out_shardings=sharding.replicated(mesh))

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


def _summarise(directory, arm, state, num_steps, seconds) -> None:
  rows = metrics_lib.read(directory / 'metrics.jsonl')
  last = rows[-1]
  files.write_json(directory / 'summary.json', dict(
      arm=arm,
      num_parameters=sum(x.size for x in jax.tree.leaves(state.params)),
      num_steps=num_steps,
      tokens=sum(row['tokens'] for row in rows),
      loss=last['loss'],
      eval_loss=last['eval_loss'],
      eval_accuracy=last['eval_accuracy'],
      seconds_of_this_process=seconds))
