# SPDX-License-Identifier: Apache-2.0
"""The training loop: dispatch a step, read the one before, save, evaluate."""

from collections.abc import Callable, Iterator
import dataclasses
import logging
import math
import sys
import time

import jax
import tqdm

from meta_cot import config as config_lib
from meta_cot.training import compilation
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Settings of a supervised run."""

  num_tokens: int = config_lib.setting(low=1)
  batch_size: int = config_lib.setting(low=1)
  num_accumulation: int = config_lib.setting(low=1)
  log_every_steps: int = config_lib.setting(low=1)
  eval_every_steps: int = config_lib.setting(low=1)
  num_eval_batches: int = config_lib.setting(low=1)


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop calls besides the step."""

  save: Callable[[state_lib.TrainState, int], None]
  is_save_due: Callable[[int], bool]
  evaluate: Callable[[state_lib.TrainState], dict[str, float]]
  is_eval_due: Callable[[int], bool]


@dataclasses.dataclass(frozen=True)
class Rates:
  """Constants that turn tokens per second into utilisation."""

  flops_per_token: float
  peak_flops: float  # of all devices together


def run(
    state: state_lib.TrainState,
    batches: Iterator,
    train_step: Callable,
    *,
    num_steps: int,
    log_every_steps: int,
    hooks: Hooks,
    rates: Rates,
    writer: metrics_lib.MetricsWriter,
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
    hooks: saving and evaluation.
    rates: for the utilisation metric.
    writer: receives the rows.
    name: of the run, for progress and errors.

  Returns:
    The final state.

  Raises:
    FloatingPointError: the loss or gradient is not finite; names the step.
  """
  first = int(jax.device_get(state.step))
  window, started = [], time.perf_counter()
  bar = tqdm.tqdm(
      total=num_steps, initial=first, desc=name, unit='step',
      disable=not sys.stderr.isatty())
  for step in range(first + 1, num_steps + 1):
    state, metrics = train_step(state, next(batches))
    window.append(metrics)
    is_log = step % log_every_steps == 0 or step == num_steps
    is_save, is_eval = hooks.is_save_due(step), hooks.is_eval_due(step)
    bar.update()
    if not (is_log or is_save or is_eval):
      continue
    rows = jax.device_get(window)
    check_finite(rows, step - len(rows) + 1, name)
    elapsed = time.perf_counter() - started
    row = _summary(rows, elapsed, rates)
    if is_eval:
      row.update(hooks.evaluate(state))
    row['programs_compiled'] = compilation.num_programs()
    writer.write(step, row)
    _report(name, step, num_steps, row, bar)
    if is_save:
      hooks.save(state, step)
    window, started = [], time.perf_counter()
  bar.close()
  return state


def check_finite(rows: list[dict], first_step: int, name: str) -> None:
  """Raises FloatingPointError naming the first step that is not finite."""
  for step, row in enumerate(rows, first_step):
    for key in ('loss', 'grad_norm'):
      if not math.isfinite(row[key]):
        raise FloatingPointError(
            f'{name}: {key} is {row[key]} at step {step}; no checkpoint of it '
            'was written. Lower config.optimizer.learning_rate or inspect the '
            'data of that step.')


def _summary(rows: list[dict], elapsed: float, rates: Rates) -> dict:
  tokens = float(sum(row['tokens'] for row in rows))
  trained = sum(row['trained_tokens'] for row in rows)
  mean = lambda key: float(  # weighted by trained tokens
      sum(row[key] * row['trained_tokens'] for row in rows) / max(trained, 1))
  return dict(
      loss=mean('loss'),
      accuracy=mean('accuracy'),
      grad_norm=float(sum(row['grad_norm'] for row in rows) / len(rows)),
      learning_rate=float(rows[-1]['learning_rate']),
      tokens=tokens,
      tokens_per_second=tokens / elapsed,
      model_flops_utilization=(
          rates.flops_per_token * tokens / elapsed / rates.peak_flops))


def _report(name, step, num_steps, row, bar) -> None:
  words = f'loss {row["loss"]:.4f}  {row["tokens_per_second"]:,.0f} tokens/s'
  if 'eval_loss' in row:
    words += f'  eval loss {row["eval_loss"]:.4f}'
  bar.set_postfix_str(words)
  if bar.disable:
    logging.info('%s step %d/%d  %s', name, step, num_steps, words)
