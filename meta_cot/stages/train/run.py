# SPDX-License-Identifier: Apache-2.0
"""One arm in training, from records to a policy folder."""

from collections.abc import Iterator
import dataclasses
import functools
import logging

from etils import epath
import jax

from data_pipelines import arms
from data_pipelines import pipelines
from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages.train import programs as programs_lib
from meta_cot.stages.train import settings as settings_lib
from meta_cot.stages.train.settings import Settings
from meta_cot.tasks import base as tasks
from meta_cot.training import flops
from meta_cot.training import goodput
from meta_cot.training import loop
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import objective as objective_lib
from meta_cot.training import optimizer
from meta_cot.training import policy as policy_lib
from meta_cot.training import progress
from meta_cot.training import state as state_lib

_PROBE_BATCHES = 20  # packed batches read to learn how full rows are


@dataclasses.dataclass(frozen=True)
class Run:
  """One arm in training."""

  context: base.Context
  settings: Settings
  arm: str
  directory: epath.Path
  model: model_config.ModelConfig
  start: policy_lib.Policy | None
  tokenizer: tokenizers.Tokenizer
  source: dict[str, store.Source]
  examples: dict[str, pipelines.Example]  # by split

  @classmethod
  def of(cls, context, settings, arm, directory) -> 'Run':
    """Reads what it needs, and writes all of the policy but checkpoints."""
    start = settings.start and policy_lib.read(context.folder(settings.start))
    model = start.model if start else context.shared.model
    style = start.style if start else context.shared.style
    tokenizer = start.tokenizer() if start else tokenizers.load(
        context.folder(settings.tokenizer))
    if tokenizer.vocab_size > model.vocab_size:
      raise config_lib.UserError(
          f'config.model.vocab_size: got {model.vocab_size}; must be at least '
          f'{tokenizer.vocab_size}, the pieces of the tokenizer.')
    records = context.folder(settings.records)
    objective = objective_lib.OBJECTIVES[settings.objective]
    made = cls(
        context, settings, arm, directory, model, start, tokenizer,
        {split: store.read(records, split)
         for split in (tasks.TRAIN, tasks.VALIDATION)},
        {split: objective.example(
            arms.make(arm, context.task), settings.data, tokenizer, style,
            is_training=split == tasks.TRAIN)
         for split in (tasks.TRAIN, tasks.VALIDATION)})
    if jax.process_index() == 0:
      policy_lib.write(directory, model, tokenizer, style, dict(
          arm=arm, objective=settings.objective, longest=pipelines.longest(
              made.source[tasks.VALIDATION], made.examples[tasks.VALIDATION],
              tokenizer.eos_id)))
    return made

  @property
  def mesh(self) -> jax.sharding.Mesh:
    return self.context.mesh

  def train(self) -> None:
    """Trains from the newest checkpoint, if there is one."""
    clock = goodput.Clock()
    settings, mesh, directory = self.settings, self.mesh, self.directory
    num_steps = max(1, round(settings.num_tokens / self._tokens_per_step()))
    self._announce(num_steps)
    batches = self._batches(pipelines.train_batches, tasks.TRAIN)
    saves = progress.Progress(
        directory, settings.max_to_keep, batches,
        settings=config_lib.bound(settings),
        tokenizer=self.tokenizer.fingerprint)
    state, pending = self._restore(saves, num_steps)
    writer = metrics_lib.MetricsWriter(directory, int(state.step))
    if int(state.step):
      logging.info('%s: continues after step %d', self.arm, int(state.step))
      clock.continues(writer.dropped, pending.lap)
    with interruption.deferred():
      state = loop.run(
          state, _on_devices(batches, mesh),
          programs_lib.jit_train_step(self.model, settings, mesh, num_steps),
          num_steps=num_steps, log_every_steps=settings.log_every_steps,
          hooks=self._hooks(num_steps, saves), rates=self._rates(),
          writer=writer, clock=clock, pending=pending.rows,
          profile=self._profile(), name=self.arm)
      with clock.measure('checkpoint'):
        saves.close()
      writer.close()
      if int(state.step) < num_steps:
        raise interruption.Interrupted
      saves.finish()  # first: an arm that has a summary is not looked at again
      if jax.process_index() == 0:
        self._finish(state, clock)

  def _restore(self, saves, num_steps):
    """The state to go on from, and metrics that wait for their row."""
    init = functools.partial(transformer.init, self.model)
    update = optimizer.make(self.settings.optimizer, num_steps)
    abstract, _ = state_lib.shardings(init, update, self.mesh)
    state, pending = saves.restore(abstract)
    if state is None:
      state = state_lib.jit_create(init, update, self.mesh)(
          jax.random.key(self.context.seed))
      if self.start is not None:
        state = state.replace(params=self.start.params(self.mesh))
    return state, pending

  def _batches(self, batches, split, share=None):
    host_index, num_hosts = share or sharding.host_share(self.mesh)
    return batches(
        self.source[split], self.examples[split], self.settings.data,
        seed=self.context.seed, batch_size=self.settings.batch_size,
        host_index=host_index, num_hosts=num_hosts)

  def _tokens_per_step(self) -> float:
    """Mean tokens of a batch of all hosts, padding not counted.

    Every host looks at the first stream alone, so that they agree.
    """
    num_streams = self.settings.data.num_streams
    stream = self._batches(
        pipelines.train_batches, tasks.TRAIN, (0, num_streams))
    total = sum(
        int((next(stream)['segment_ids'] > 0).sum())
        for _ in range(_PROBE_BATCHES))
    stream.close()
    return total / _PROBE_BATCHES * num_streams

  def _hooks(self, num_steps, saves) -> loop.Hooks:
    settings = self.settings
    is_due = lambda step, every: step == num_steps or step % every == 0
    return loop.Hooks(
        save=saves.save,
        is_save_due=lambda step: is_due(step, settings.save_every_steps),
        evaluate=self._evaluation(),
        is_eval_due=lambda step: is_due(step, settings.eval_every_steps),
        is_stopped=interruption.Stop(self.mesh).is_agreed,
        interrupt=lambda state, step, rows, lap: saves.interrupt(
            state, step, progress.Pending(rows, lap)))

  def _evaluation(self):
    """Makes state -> mean loss and accuracy on the first of validation."""
    batches = [
        _to_device(batch, self.mesh) for _, batch in zip(
            range(self.settings.num_eval_batches),
            self._batches(pipelines.eval_batches, tasks.VALIDATION))]
    sums_of = programs_lib.jit_loss_sums(self.model, self.settings, self.mesh)

    def evaluate(state) -> dict[str, float]:
      sums = jax.device_get([sums_of(state.params, b) for b in batches])
      total = lambda name: float(sum(getattr(s, name) for s in sums))
      weight = max(total('weight'), 1e-9)
      return dict(
          eval_loss=total('loss') / weight,
          eval_accuracy=total('correct') / weight)

    return evaluate

  def _profile(self) -> loop.Profile | None:
    if not self.settings.profile_steps:
      return None
    first, last = self.settings.profile_steps
    return loop.Profile(first, last, str(self.directory / 'profile'))

  def _rates(self) -> loop.Rates:
    return loop.Rates(
        flops_per_token=flops.training_flops_per_token(
            self.model, self.settings.data.sequence_length),
        peak_flops=flops.peak_per_device() * jax.device_count())

  def _announce(self, num_steps) -> None:
    settings = self.settings
    logging.info(
        '%s: %d sequences of %d tokens per step = %d rows/device x %d devices '
        'x %d accumulation; %d steps to a learning rate of %.3g', self.arm,
        settings.batch_size, settings.data.sequence_length,
        settings_lib.check_devices(
            settings, self.directory.parent.name, self.mesh),
        sharding.data_parallelism(self.mesh), settings.num_accumulation,
        num_steps,
        settings.optimizer.learning_rate * settings.optimizer.final_fraction)

  def _finish(self, state, clock) -> None:
    """Writes the summary of a finished run."""
    rows = metrics_lib.read(self.directory / 'metrics.jsonl')
    last = rows[-1]
    time_spent = goodput.summarise([*rows, clock.lap()])
    logging.info(
        '%s: %s', self.arm, ', '.join(
            f'{kind} {seconds:.1f} s' for kind, seconds in time_spent.items()
            if kind != 'goodput') + f'; goodput {time_spent["goodput"]:.0%}')
    files.write_json(self.directory / 'summary.json', dict(
        arm=self.arm, num_tokens_asked=self.settings.num_tokens,
        num_parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        num_steps=last['step'],
        tokens=sum(row['tokens'] for row in rows),
        loss=last['loss'],
        eval_loss=last['eval_loss'],
        eval_accuracy=last['eval_accuracy'],
        seconds=time_spent))


def _to_device(batch: dict, mesh) -> types.Batch:
  return types.Batch(**sharding.put_batch(batch, mesh))


def _on_devices(host_batches: Iterator, mesh) -> Iterator[types.Batch]:
  for batch in host_batches:
    yield _to_device(batch, mesh)
