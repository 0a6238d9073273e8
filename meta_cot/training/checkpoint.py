# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one Orbax composite per step holds all that a run needs.

Items: `state` (parameters, optimiser, step, key data of the stage's RNG),
`data` (where each data stream stands), `config` and `tokenizer` (JSON; of the
tokenizer its fingerprint). Orbax loads a file with a flipped bit without a
word, so every step carries content hashes; they are compared before anything is
loaded.
"""

import dataclasses
import logging
import os
from typing import Any

import grain
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.training import compatibility
from meta_cot.training import integrity
from meta_cot.training import iterator_state
from meta_cot.training import state as state_lib

Iterator = iterator_state.Streams | grain.DatasetIterator


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Settings of `Checkpoints`."""

  save_every_steps: int = config_lib.setting(low=1)
  max_to_keep: int | None = config_lib.setting(low=1)


def handlers(
    state: ocp.CheckpointHandler) -> dict[str, ocp.CheckpointHandler]:
  """Names what reads the items of a step; `state` reads the arrays."""
  return dict(
      state=state, data=iterator_state.StreamsHandler(),
      config=ocp.JsonCheckpointHandler(), tokenizer=ocp.JsonCheckpointHandler())


def verify(directory: files.Path, step: int) -> integrity.State:
  """Compares a step with its hashes; every process reads a part of the files.

  All processes get to the same status; each names what it has seen itself.
  """
  share = integrity.Share(jax.process_index(), jax.process_count())
  state = integrity.verify(directory, step, share)
  bad = _gather(state.status != 'ok')
  if state.status == 'ok' and bad.any():
    problem = f'see the log of process {int(bad.argmax())}'
    return dataclasses.replace(state, status='damaged', problem=problem)
  return state


def check_whole(directory: files.Path, step: int) -> None:
  """Raises a UserError where a step is not whole; names the file."""
  state = verify(directory, step)
  if state.status != 'ok':
    raise config_lib.UserError(
        f'{files.path(directory) / str(step)}: this checkpoint is '
        f'{state.status} ({state.problem}); move it away, or restore it from '
        'a copy.')


class Checkpoints:
  """Saves and restores the composite of a run.

  With several processes, all of them make the same calls in the same order.
  """

  def __init__(self, directory: str | os.PathLike, config: CheckpointConfig):
    """Opens a directory, and clears what interrupted saves left in it.

    Args:
      directory: a folder of this machine, or of a bucket (`gs://...`).
      config: how many steps are kept.
    """
    self._config = config
    self._directory = files.path(directory)
    self._saving = None  # the step whose files are being written
    self._remove_leftovers()
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        self._directory,
        item_handlers=handlers(ocp.StandardCheckpointHandler()),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=self._config.max_to_keep, create=True,
            # A rename cannot be cut off half way, a deletion can.
            todelete_subdir=integrity.DELETING,
            lightweight_initialize=True,  # reads no file of a step
            save_root_metadata=False,
            async_options=ocp.AsyncOptions(
                # Runs in the primary process, when the files of all are there
                # and before the step gets its final name.
                post_finalization_callback=self._seal)))

  def _seal(self) -> None:
    integrity.seal(self._directory, self._saving)

  def _remove_leftovers(self) -> None:
    if jax.process_index() == 0:
      integrity.remove_leftovers(self._directory)
    _wait_for_all('leftovers')

  def steps(self) -> list[int]:
    """Saved steps, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
      self, state: state_lib.TrainState, iterator: Iterator, *,
      step: int, config: dict[str, Any], tokenizer: str,
  ) -> None:
    """Starts an asynchronous, atomic save of `step`; a saved one stays.

    Args:
      state: may be donated as soon as this returns.
      iterator: its place is read now.
      step: the number of updates done.
      config: settings of the run, for `restore` to compare.
      tokenizer: its fingerprint, for `restore` to compare.
    """
    self.wait()
    if step in self._manager.all_steps():
      return
    self._saving = step
    # Forced: the schedule is the caller's, no policy of Orbax has a say.
    self._manager.save(step, force=True, args=ocp.args.Composite(
        state=ocp.args.StandardSave(_with_key_data(state)),
        data=iterator_state.StreamsSave(iterator_state.read_places(iterator)),
        config=ocp.args.JsonSave(config),
        tokenizer=ocp.args.JsonSave({'fingerprint': tokenizer})))

  def restore(
      self, abstract: state_lib.TrainState, iterator: Iterator, *,
      step: int | None = None, config: dict[str, Any] | None = None,
      tokenizer: str | None = None,
  ) -> state_lib.TrainState | None:
    """Restores a step into the shardings of `abstract`.

    Steps that are incomplete or damaged are moved to `quarantine/` with a
    warning that names the file, and the step before is taken.

    Args:
      abstract: ShapeDtypeStructs with shardings, on any number of devices.
      iterator: set to where it stood when the step was saved.
      step: the newest whole one by default.
      config: settings of the run; not compared if None.
      tokenizer: its fingerprint; not compared if None.

    Returns:
      The state, or None where nothing (whole) has been saved.

    Raises:
      UserError: the chosen `step` is damaged, or a checkpoint was saved with
        another config, another tokenizer or other arrays.
    """
    if step is None:
      step = self._newest_whole()
    else:
      check_whole(self._directory, step)
    if step is None:
      return None
    if config is not None:
      saved = self._restore_items(step, config=ocp.args.JsonRestore())
      compatibility.check_config(saved.config, config, step)
    if tokenizer is not None:
      saved = self._restore_items(step, tokenizer=ocp.args.JsonRestore())
      compatibility.check_tokenizer(
          saved.tokenizer['fingerprint'], tokenizer, step)
    iterator_state.move(iterator, self._manager, step)
    return self._restore_state(abstract, step)

  def wait(self) -> None:
    """Returns when the last save is safe; raises what went wrong with it."""
    self._manager.wait_until_finished()
    self._remove_deleted()

  def close(self) -> None:
    """Waits for saves and releases the manager's threads."""
    self._manager.close()
    self._remove_deleted()

  def _remove_deleted(self) -> None:
    if jax.process_index() == 0:
      (self._directory / integrity.DELETING).rmtree(missing_ok=True)

  def _restore_items(self, step: int, **items):
    return self._manager.restore(step, args=ocp.args.Composite(**items))

  def _restore_state(self, abstract, step) -> state_lib.TrainState:
    abstract = _abstract_with_key_data(abstract)
    compatibility.check_arrays(
        self._manager.item_metadata(step).state, abstract, step)
    restored = self._restore_items(
        step, state=ocp.args.StandardRestore(abstract))
    return restored.state.replace(
        rng=jax.random.wrap_key_data(restored.state.rng))

  def _newest_whole(self) -> int | None:
    """The newest step that is whole; those after it are set aside."""
    # Folders, not the manager's list: it leaves out what lacks its last file.
    folders = _of_primary(integrity.steps(self._directory))
    num_bad = 0
    while folders:
      state = verify(self._directory, folders[-1])
      if state.status == 'ok':
        return folders[-1]
      num_bad += 1
      self._set_aside(state, folders[:-1])
      folders.pop()
    if num_bad:
      logging.warning(
          '%s: no whole checkpoint; starting anew', self._directory)
    return None

  def _set_aside(self, state: integrity.State, older: list[int]) -> None:
    then = f'step {older[-1]} is tried' if older else 'no step before it'
    logging.warning(
        '%s: checkpoint step %d is %s (%s); moved to %s/, %s',
        self._directory, state.step, state.status, state.problem,
        integrity.QUARANTINE, then)
    self._manager.close()
    if jax.process_index() == 0:
      integrity.set_aside(self._directory, state.step)
    _wait_for_all('set aside')
    self._manager = self._open()


def _with_key_data(state: state_lib.TrainState) -> state_lib.TrainState:
  """The state with its RNG key as plain integers, which Orbax stores."""
  return state.replace(rng=jax.random.key_data(state.rng))


def _abstract_with_key_data(abstract):
  data = jax.eval_shape(jax.random.key_data, abstract.rng)
  return abstract.replace(rng=jax.ShapeDtypeStruct(
      data.shape, data.dtype, sharding=abstract.rng.sharding))


def _wait_for_all(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _gather(flag: bool) -> np.ndarray:
  """The flag of every process, bool [processes]."""
  if jax.process_count() == 1:
    return np.array([flag])
  return multihost_utils.process_allgather(np.array(flag)).reshape(-1)


def _of_primary(steps: list[int]) -> list[int]:
  """The list of the primary process; others may see an older listing."""
  if jax.process_count() == 1:
    return steps
  count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
  padded = np.resize(np.array(steps or [0], np.int32), count)
  return [int(s) for s in multihost_utils.broadcast_one_to_all(padded)]
