# SPDX-License-Identifier: Apache-2.0
"""The training loop: dispatch a step, read the one before, save, evaluate."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import math
from typing import NamedTuple

import jax

from meta_cot.runtime import status
from meta_cot.training import compilation
from meta_cot.training import goodput
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop calls besides the step."""

  save: Callable[[state_lib.TrainState, int], None]
  is_save_due: Callable[[int], bool]
  evaluate: Callable[[state_lib.TrainState], dict[str, float]]
  is_eval_due: Callable[[int], bool]
  is_stopped: Callable[[], bool]  # called once per step
  # (state, step, metrics of the steps since the last row, the clock's lap)
  interrupt: Callable[[state_lib.TrainState, int, list[dict], dict], None]


class Rates(NamedTuple):
  """Constants that turn tokens per second into utilisation."""

  flops_per_token: float
  peak_flops: float  # of all devices together


class Profile(NamedTuple):
  """Steps to trace, and where the trace goes."""

  first: int
  last: int
  directory: str


def run(
    state: state_lib.TrainState, batches: Iterator, train_step: Callable, *,
    num_steps: int,
    log_every_steps: int,
    hooks: Hooks,
    rates: Rates,
    writer: metrics_lib.MetricsWriter,
    clock: goodput.Clock,
    pending: list[dict[str, float]],
    profile: Profile | None,
    name: str,
) -> state_lib.TrainState:
  """Trains from `state.step` to `num_steps`.

  Steps are dispatched ahead of reading their metrics; metrics are fetched
  before every save, so that a non-finite loss is never checkpointed.

  Args:
    state: donated to the step.
    batches: device batches; exactly one is taken per step.
    train_step: jitted (state, batch) -> (state, metrics).
    num_steps: updates of the whole run.
    log_every_steps: metrics are averaged over this many steps per row.
    hooks: saving, evaluation and interruption.
    rates: for the utilisation metric.
    writer: receives the rows.
    clock: is running; its laps go into the rows.
    pending: metrics of the last steps before `state.step` that belong to the
      next row, as `hooks.interrupt` got them.
    profile: steps to trace with the JAX profiler.
    name: of the run, for progress and errors.

  Returns:
    The final state, or that at which `hooks.is_stopped` said so.

  Raises:
    FloatingPointError: the loss or gradient is not finite; names the step.
  """
  first, done, window = int(state.step), list(pending), []
  shown = status.Status(name, num_steps, 'step', first=first)
  clock.switch('step')
  for step in range(first + 1, num_steps + 1):
    with clock.measure('input'):
      batch = next(batches)
    with _profiled(profile, step, window):
      state, metrics = train_step(state, batch)
      window.append(metrics)
    is_log = step % log_every_steps == 0 or step == num_steps
    is_save, is_eval = hooks.is_save_due(step), hooks.is_eval_due(step)
    is_stopped = hooks.is_stopped() and step < num_steps
    shown.update(step)
    if not (is_log or is_save or is_eval or is_stopped):
      continue
    done += _fetch(window, step, name)
    if is_log or is_save or is_eval:
      row = _summary(done)
      if is_eval:
        with clock.measure('evaluation'):
          row |= hooks.evaluate(state)
      row |= _speed(row['tokens'], clock.lap(), rates)
      writer.write(step, row)
      shown.update(step, _words(row))
      done = []
    if is_save or is_stopped:
      with clock.measure('checkpoint'):
        writer.sync()
        if is_save:  # also with a signal: an unbroken run has it too
          hooks.save(state, step)
        else:
          hooks.interrupt(state, step, done, clock.lap())
    if is_stopped:
      break
  shown.close()
  return state


@contextlib.contextmanager
def _profiled(
    profile: Profile | None, step: int, window: list) -> Iterator[None]:
  """Traces the chosen steps, until their metrics are there."""
  if profile is None:
    yield
    return
  if step == profile.first:
    jax.profiler.start_trace(profile.directory)
  with jax.profiler.StepTraceAnnotation('train', step_num=step):
    yield
  if step == profile.last:
    jax.block_until_ready(window)
    jax.profiler.stop_trace()


def _fetch(window: list[dict], step: int, name: str) -> list[dict[str, float]]:
  """Takes the metrics of the last steps, up to `step`, as numbers."""
  rows = [
      {key: float(value) for key, value in row.items()}
      for row in jax.device_get(window)]
  window.clear()
  for number, row in enumerate(rows, step - len(rows) + 1):
    for key in ('loss', 'grad_norm'):
      if not math.isfinite(row[key]):
        raise FloatingPointError(
            f'{name}: {key} is {row[key]} at step {number}; no checkpoint of '
            'it was written. Lower optimizer.learning_rate of its stage or '
            'inspect the data of that step.')
  return rows


def _summary(rows: list[dict[str, float]]) -> dict[str, float]:
  tokens = sum(row['tokens'] for row in rows)
  trained = sum(row['trained_tokens'] for row in rows)
  mean = lambda key: (  # weighted by trained tokens
      sum(row[key] * row['trained_tokens'] for row in rows) / max(trained, 1))
  return dict(
      loss=mean('loss'),
      accuracy=mean('accuracy'),
      grad_norm=sum(row['grad_norm'] for row in rows) / len(rows),
      learning_rate=rows[-1]['learning_rate'],
      tokens=tokens)


def _speed(
    tokens: float, lap: dict[str, float], rates: Rates) -> dict[str, float]:
  """Rates while training, and where the time went."""
  training = lap['seconds/step'] + lap['seconds/input']
  return dict(
      tokens_per_second=tokens / training,
      model_flops_utilization=(
          rates.flops_per_token * tokens / training / rates.peak_flops),
      programs_compiled=compilation.num_programs(), **lap)


def _words(row) -> str:
  """The last numbers, for who watches."""
  words = f'loss {row["loss"]:.4f}  {row["tokens_per_second"]:,.0f} tokens/s'
  if 'eval_loss' in row:
    words += f'  eval loss {row["eval_loss"]:.4f}'
  return words
