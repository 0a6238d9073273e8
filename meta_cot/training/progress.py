# SPDX-License-Identifier: Apache-2.0
"""How far a run is: checkpoints of the schedule, and one left by a signal.

A signal may come at any step. What it leaves is kept apart from the scheduled
checkpoints (`interrupted/` beside `checkpoints/`) and goes when the run ends,
so that an interrupted run leaves what an unbroken one leaves. Metrics that
wait for their row are kept with it, so that the rows are the same too.
"""

from typing import Any, NamedTuple

from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.training import checkpoint
from meta_cot.training import state as state_lib


class Pending(NamedTuple):
  """Metrics of the steps between the last row and an interruption."""

  rows: list[dict[str, float]]
  lap: dict[str, float]  # columns `seconds/...` of those steps


class Progress:
  """Saves and restores one run; `identity` is what its checkpoints say of it.
  """

  def __init__(
      self, directory: files.Path, max_to_keep: int | None,
      streams: checkpoint.Streams, *, settings: dict[str, Any], tokenizer: str,
  ):
    """Opens a run.

    Args:
      directory: of the run.
      max_to_keep: scheduled checkpoints.
      streams: the run's data; saved and restored with the state.
      settings: of the experiment; must be the same when it continues.
      tokenizer: fingerprint; must be the same when it continues.
    """
    directory = files.path(directory)
    self.identity = dict(config=settings, tokenizer=tokenizer)
    self._interrupted = directory / 'interrupted'
    self._streams = streams
    self._scheduled = checkpoint.Checkpoints(
        directory / 'checkpoints', max_to_keep)

  def restore(
      self, abstract: state_lib.TrainState
  ) -> tuple[state_lib.TrainState | None, Pending]:
    """The newest state that is whole, and the metrics that wait there.

    Args and errors as of `Checkpoints.restore`; no state where nothing has
    been saved.
    """
    if self._interrupted.exists():
      extra = checkpoint.Checkpoints(self._interrupted, 1)
      state = None
      if max(extra.steps(), default=-1) > max(
          self._scheduled.steps(), default=-1):
        state = extra.restore(abstract, self._streams, **self.identity)
      extra.close()
      if state is not None:
        return state, Pending(**files.read_json(
            self._pending(int(state.step)), rows=list, lap=dict))
    state = self._scheduled.restore(abstract, self._streams, **self.identity)
    return state, Pending([], {})

  def save(self, state: state_lib.TrainState, step: int) -> None:
    """Starts the save of a scheduled step."""
    self._scheduled.save(state, self._streams, step=step, **self.identity)

  def interrupt(
      self, state: state_lib.TrainState, step: int, pending: Pending
  ) -> None:
    """Saves what the same command continues from; returns when it is safe."""
    if distributed.is_primary():
      files.write_json(self._pending(step), pending._asdict())
    extra = checkpoint.Checkpoints(self._interrupted, 1)
    extra.save(state, self._streams, step=step, **self.identity)
    extra.close()

  def close(self) -> None:
    """Waits for saves."""
    self._scheduled.close()

  def finish(self) -> None:
    """Removes what only an unfinished run needs; call it after `close`."""
    if distributed.is_primary():
      self._interrupted.rmtree(missing_ok=True)

  def _pending(self, step: int) -> files.Path:
    return self._interrupted / f'pending-{step}.json'
