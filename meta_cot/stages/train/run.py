# SPDX-License-Identifier: Apache-2.0
"""Stage `train`: a policy learns from records, one run per arm and seed.

Leaves a policy folder for each run, `<arm>/` or, where there are seeds,
`<arm>/seed<n>/`: policy.json, tokenizer, checkpoints, metrics.jsonl,
tensorboard, summary.json.
"""

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
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import data
from meta_cot.stages.train import programs as programs_lib
from meta_cot.stages.train.programs import Settings
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


class Run:
  """One arm in training, with one seed."""

  def __init__(
      self, context: base.Context, settings: Settings, name: str,
      directory: epath.Path):
    """Reads what it needs, and writes all of the policy but checkpoints."""
    self.context, self.mesh = context, context.mesh
    self.settings, self.name, self.directory = settings, name, directory
    self.arm, seed = settings.runs[name]
    self.seed = context.seed if seed is None else seed
    self.start = settings.start and context.policy(settings.start)
    origin = self.start or context.shared
    self.model, style = origin.model, settings.style or origin.style
    self.base = context.base(directory, settings.start, settings.trained)
    self.tokenizer = self.start.tokenizer() if self.start else (
        tokenizers.load(context.folder(settings.tokenizer)))
    if self.tokenizer.vocab_size > self.model.vocab_size:
      raise config_lib.UserError(
          f'config.model.vocab_size: got {self.model.vocab_size}; must be at '
          f'least {self.tokenizer.vocab_size}, the pieces of the tokenizer.')
    records = context.folder(settings.records)
    objective = objective_lib.OBJECTIVES[settings.objective]
    self.source = {
        split: store.read(records, split) for split in data.LEARNED}
    num, most = settings.data.num_records, len(self.source[tasks.TRAIN])
    if num is not None and num > most:
      raise config_lib.UserError(
          f'data.num_records: got {num}; must be None or at most {most}, the '
          f'training records in {records}.')
    self.examples = {
        split: objective.example(
            arms.make(self.arm, context.task, style), settings.data,
            self.tokenizer, style, is_training=split == tasks.TRAIN)
        for split in data.LEARNED}
    if distributed.is_primary():
      policy_lib.write(directory, self.model, self.tokenizer, style, dict(
          arm=self.arm, objective=settings.objective,
          longest=self._longest(), **objective.about(settings.data),
          **({} if seed is None else dict(seed=seed))), self.base, self.start)

  def _longest(self) -> int | None:
    """Tokens of the longest text that it is taught, or that its start was."""
    if self.settings.has_reference:  # pairs may have no text to the end
      return self.start.about.get('longest')
    return pipelines.longest(
        self.source[tasks.VALIDATION], self.examples[tasks.VALIDATION],
        self.tokenizer.eos_id)

  @functools.cached_property
  def num_steps(self) -> int:
    """Of the whole run; it follows from how full its rows are."""
    return max(
        1, round(self.settings.amount[1] / self._amount_per_step()))

  def check_profile(self) -> None:
    """Raises a UserError where a step to trace is behind the last one."""
    first, last = self.settings.profile_steps
    if last > self.num_steps:
      raise config_lib.UserError(
          f'--profile: got {first}:{last}; {self.directory} has '
          f'{self.num_steps} steps: name some of these.')

  def train(self) -> None:
    """Trains from the newest checkpoint, if there is one.

    Raises:
      UserError: it is of more steps than are asked for.
      Interrupted: a signal came; what is needed to continue is saved.
    """
    clock, settings, directory = (
        goodput.Clock(), self.settings, self.directory)
    num_steps = self.num_steps
    self._announce(num_steps)
    programs = programs_lib.Programs(
        settings, self.model, self.mesh, num_steps)
    batches = self._batches(pipelines.train_batches, tasks.TRAIN)
    saves = progress.Progress(
        directory, settings.max_to_keep, batches,
        settings=config_lib.bound(settings) | policy_lib.bound(self.base),
        tokenizer=self.tokenizer.fingerprint)
    start = functools.cache(lambda: self.start.params(self.mesh))
    state, writer, pending = self._open(saves, programs, start, clock)
    base = settings.rest(start()) if settings.has_rest else {}
    start.cache_clear()  # what is trained of it is donated
    train_step = programs.jit_train_step()
    with interruption.deferred():
      state = loop.run(
          state, (_to_device(batch, self.mesh) for batch in batches),
          lambda state, batch: train_step(state, batch, base),
          num_steps=num_steps,
          log_every_steps=settings.log_every_steps,
          hooks=self._hooks(programs, base, saves), rates=loop.Rates(
              flops.training_flops_per_token(
                  self.model, settings.data.sequence_length,
                  settings.num_passes),
              flops.peak_per_device() * jax.device_count()),
          writer=writer, clock=clock, pending=pending.rows,
          profile=self._profile(int(state.step)), name=self.name)
      with clock.measure('checkpoint'):
        saves.close()
      writer.close()
      if int(state.step) < num_steps:
        raise interruption.Interrupted
      saves.finish()  # first: an arm that has a summary is not looked at again
      if distributed.is_primary():
        self._finish(state, clock)

  def _profile(self, done: int) -> loop.Profile | None:
    """The steps to trace that are still to come."""
    if not self.settings.profile_steps:
      return None
    first, last = self.settings.profile_steps
    if last <= done:
      logging.warning(
          '%s: no trace; steps %d to %d are done', self.name, first, last)
      return None
    return loop.Profile(
        max(first, done + 1), last, str(self.directory / 'profile'))

  def _open(self, saves, programs, start, clock):
    """The state to go on from, the writer, and metrics that wait for it."""
    state, pending = saves.restore(programs.state)
    if state is None:
      state = state_lib.jit_create(*programs.start)(
          jax.random.key(self.seed))
      if self.start is not None:
        state = state.replace(
            params=self.settings.trained.begin(state.params, start()))
    done, num_steps = int(state.step), programs.num_steps
    if done > num_steps:
      raise config_lib.UserError(
          f'{self.directory}: trained for {done} steps; '
          f'{" ".join(map(str, self.settings.amount))} gives {num_steps}: it '
          'may grow but not shrink.')
    writer = metrics_lib.MetricsWriter(self.directory, done)
    if done:
      logging.info(
          '%s: continues after step %d of %d; %s', self.name, done, num_steps,
          optimizer.describe(self.settings.optimizer, done, num_steps))
      clock.continues(writer.dropped, pending.lap)
      if distributed.is_primary():  # it was of a run with fewer steps
        (self.directory / 'summary.json').unlink(missing_ok=True)
    return state, writer, pending

  def _batches(self, batches, split, share=None):
    host_index, num_hosts = share or sharding.host_share(self.mesh)
    return batches(
        self.source[split], self.examples[split], self.settings.data,
        seed=self.seed, batch_size=self.settings.batch_size,
        host_index=host_index, num_hosts=num_hosts)

  def _amount_per_step(self) -> float:
    """Mean tokens, or examples, of a batch of all hosts; padding is neither.

    Every host looks at the first stream alone, so that they agree.
    """
    is_tokens = self.settings.num_tokens is not None
    num_streams = self.settings.data.num_streams
    stream = self._batches(
        pipelines.train_batches, tasks.TRAIN, (0, num_streams))
    total = 0
    for _ in range(_PROBE_BATCHES):
      segments_BxL = next(stream)['segment_ids']
      total += int(
          (segments_BxL > 0).sum() if is_tokens else
          segments_BxL.max(axis=1).sum())
    stream.close()
    return total / _PROBE_BATCHES * num_streams

  def _hooks(self, programs, base, saves) -> loop.Hooks:
    settings = self.settings
    is_due = lambda step, every: (
        step == programs.num_steps or step % every == 0)
    return loop.Hooks(
        save=saves.save,
        is_save_due=lambda step: is_due(step, settings.save_every_steps),
        evaluate=self._evaluation(programs.jit_loss_sums(), base),
        is_eval_due=lambda step: is_due(step, settings.eval_every_steps),
        is_stopped=interruption.Stop(self.mesh).is_agreed,
        interrupt=lambda state, step, rows, lap: saves.interrupt(
            state, step, progress.Pending(rows, lap)))

  def _evaluation(self, sums_of, base):
    """Makes state -> mean loss and accuracy on the first of validation."""
    batches = [
        _to_device(batch, self.mesh) for _, batch in zip(
            range(self.settings.num_eval_batches),
            self._batches(pipelines.eval_batches, tasks.VALIDATION))]

    def evaluate(state) -> dict[str, float]:
      sums = jax.device_get([
          sums_of(state.params, batch, base) for batch in batches])
      total = lambda name: float(sum(getattr(s, name) for s in sums))
      weight = max(total('weight'), 1e-9)
      return dict(
          eval_loss=total('loss') / weight,
          eval_accuracy=total('correct') / weight)

    return evaluate

  def _announce(self, num_steps) -> None:
    settings, parts = self.settings, sharding.data_parallelism(self.mesh)
    logging.info(
        '%s: %d sequences of %d tokens per step = %d rows/device x %d devices '
        'x %d accumulation; %d steps to a learning rate of %.3g', self.name,
        settings.batch_size, settings.data.sequence_length,
        settings.batch_size // parts // settings.num_accumulation, parts,
        settings.num_accumulation, num_steps,
        settings.optimizer.learning_rate * settings.optimizer.final_fraction)

  def _finish(self, state, clock) -> None:
    """Writes the summary of a finished run."""
    rows = metrics_lib.read_all(self.directory / 'metrics.jsonl')
    last = rows[-1]
    time_spent = goodput.summarise([*rows, clock.lap()])
    logging.info(
        '%s: %s', self.name, ', '.join(
            f'{kind} {seconds:.1f} s' for kind, seconds in time_spent.items()
            if kind != 'goodput') + f'; goodput {time_spent["goodput"]:.0%}')
    files.write_json(self.directory / 'summary.json', dict(
        arm=self.arm, seed=self.seed, asked=dict([self.settings.amount]),
        num_parameters=self.model.num_params(),
        num_trained=sum(x.size for x in jax.tree.leaves(state.params)),
        num_steps=last['step'], tokens=sum(row['tokens'] for row in rows),
        loss=last['loss'], eval_loss=last['eval_loss'],
        eval_accuracy=last['eval_accuracy'], seconds=time_spent))


def _to_device(batch: dict, mesh) -> types.Batch:
  return types.Batch(**sharding.put_batch(batch, mesh))


def _is_trained(directory: epath.Path, settings: Settings) -> bool:
  """Raises a UserError where a run is trained on more than is asked for."""
  path = directory / 'summary.json'
  if not path.exists():
    return False
  asked = files.read_json(path, asked=dict)['asked']
  name, amount = settings.amount
  if not isinstance(asked.get(name), int) or asked[name] > amount:
    raise config_lib.UserError(
        f'{directory}: trained with '
        f'{" ".join(f"{k} {v}" for k, v in asked.items()) or "nothing"}, now '
        f'it is {name} '
        f'{amount}; it may grow but not shrink.')
  return asked[name] == amount


def _missing(settings: Settings, directory: epath.Path) -> list[str]:
  """The runs that are not trained for as much as is asked for."""
  return [
      name for name in settings.runs
      if not _is_trained(directory / name, settings)]


def _run(context, settings, directory) -> None:
  """Trains every run that is not trained for as much as is asked for."""
  missing = _missing(settings, directory)
  run = lambda name: Run(context, settings, name, directory / name)
  for name in missing if settings.profile_steps else ():
    run(name).check_profile()
  for name in missing:
    run(name).train()


STAGE = base.Stage(
    Settings=Settings, run=_run,
    uses=('seed', 'task', 'model', 'style'),
    reads=lambda settings: (
        settings.records,
        settings.tokenizer if settings.start is None else settings.start),
    grown=lambda settings: dict([settings.amount]),
    leaves=lambda settings: tuple(settings.runs),
    check=programs_lib.check, check_devices=programs_lib.check_devices,
    check_folder=_missing, num_bytes=programs_lib.num_bytes,
    is_whole=lambda context, settings, directory: not _missing(
        settings, directory),
    programs=programs_lib.programs)
