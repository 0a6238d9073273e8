# SPDX-License-Identifier: Apache-2.0
"""How far a run is: checkpoints of the schedule, and one left by a signal.

A signal may come at any step. What it leaves is kept apart from the scheduled
checkpoints (`interrupted/` beside `checkpoints/`) and goes when the run ends,
so that an interrupted run leaves what an unbroken one leaves. Metrics that
wait for their row are kept with it, so that the rows are the same too.
"""

import os
from typing import Any, NamedTuple

import grain
import jax

from meta_cot.runtime import files
from meta_cot.training import checkpoint
from meta_cot.training import state as state_lib


class Pending(NamedTuple):
  """Metrics of the steps between the last row and an interruption."""

  rows: list[dict[str, float]]
  lap: dict[str, float]  # columns `seconds/...` of those steps


class Progress:
  """Saves and restores one run."""

  def __init__(
      self, directory: str | os.PathLike, config: checkpoint.CheckpointConfig,
      iterator: grain.DatasetIterator, *, settings: dict[str, Any],
      tokenizer: str,
  ):
    """Opens a run.

    Args:
      directory: of the run.
      config: schedule of the checkpoints.
      iterator: the run's data; saved and restored with the state.
      settings: of the experiment; must be the same when it continues.
      tokenizer: fingerprint; must be the same when it continues.
    """
    self._directory = files.path(directory)
    self._interrupted = self._directory / 'interrupted'
    self._iterator = iterator
    self._identity = dict(config=settings, tokenizer=tokenizer)
    self._scheduled = checkpoint.Checkpoints(
        self._directory / 'checkpoints', config)

  def restore(
      self, abstract: state_lib.TrainState
  ) -> tuple[state_lib.TrainState | None, Pending]:
    """The newest state that is whole, and the metrics that wait there.

    Args:
      abstract: ShapeDtypeStructs with shardings.

    Returns:
      The state, or None where nothing has been saved.

    Raises:
      UserError: the checkpoints are of another config or tokenizer.
    """
    newest = max(self._scheduled.steps(), default=-1)
    if self._interrupted.exists():
      extra = self._extra()
      state = None
      if max(extra.steps(), default=-1) > newest:
        state = extra.restore(abstract, self._iterator, **self._identity)
      extra.close()
      if state is not None:
        return state, self._pending(int(state.step))
    state = self._scheduled.restore(
        abstract, self._iterator, **self._identity)
    return state, Pending([], {})

  @property
  def identity(self) -> dict[str, Any]:
    """What checkpoints of this run are compared with; for other folders."""
    return self._identity

  def save(self, state: state_lib.TrainState, step: int) -> None:
    """Starts the save of a scheduled step."""
    self._scheduled.save(
        state, self._iterator, step=step, **self._identity)

  def interrupt(
      self, state: state_lib.TrainState, step: int, pending: Pending
  ) -> None:
    """Saves what the same command continues from; returns when it is safe."""
    if jax.process_index() == 0:
      files.write_json(
          self._interrupted / f'pending-{step}.json',
          pending._asdict())
    extra = self._extra()
    extra.save(state, self._iterator, step=step, **self._identity)
    extra.close()

  def close(self) -> None:
    """Waits for saves."""
    self._scheduled.close()

  def finish(self) -> None:
    """Removes what only an unfinished run needs; call it after `close`."""
    if jax.process_index() == 0 and self._interrupted.exists():
      self._interrupted.rmtree()

  def _extra(self) -> checkpoint.Checkpoints:
    return checkpoint.Checkpoints(
        self._interrupted,
        checkpoint.CheckpointConfig(save_every_steps=1, max_to_keep=1))

  def _pending(self, step: int) -> Pending:
    path = self._interrupted / f'pending-{step}.json'
    return Pending(**files.read_json(path))
