# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one Orbax composite per step holds all that a run needs.

Items: `state` (parameters, optimiser, step, key data of the stage's RNG),
`data` (where each data stream stands, one JSON file per stream), `config` and
`tokenizer` (JSON; of the tokenizer its fingerprint). Orbax loads a file with a
flipped bit without a word, so every step carries content hashes; they are
compared before anything is loaded.
"""

from collections.abc import Iterable
import dataclasses
import json
import logging
from typing import Any, Protocol

from etils import epath
import jax
import orbax.checkpoint as ocp

from meta_cot import types
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.training import integrity
from meta_cot.training import state as state_lib

_NUM_SHOWN = 3  # differences in an error


class Streams(Protocol):
  """What reads the data streams of this process.

  Each process saves and restores those that it holds, so the number of
  processes may change in between.
  """

  def stream_names(self) -> tuple[str, ...]:
    """Names of the streams of this process, such as '0'."""

  def get_state(self) -> dict[str, Any]:
    """JSON-able state of each of them."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Moves each of them to where it stood."""


class Checkpoints:
  """Saves and restores the composite of a run.

  With several processes, all of them make the same calls in the same order.
  """

  def __init__(
      self, directory: files.Path, max_to_keep: int | None, *,
      host_bytes: int | None = None):
    """Opens a directory, and clears what interrupted saves left in it.

    Args:
      directory: of the run's checkpoints.
      max_to_keep: steps; None: all.
      host_bytes: copied from devices to this host at a time, for `save_params`;
        more than the largest shard. None: all, so that training goes on while
        they are written.
    """
    self._max_to_keep = max_to_keep
    self._host_bytes = host_bytes
    self._directory = files.path(directory)
    self._saving = None  # the step whose files are being written
    if distributed.is_primary():
      integrity.remove_leftovers(self._directory)
    distributed.wait('leftovers')
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        self._directory,
        item_handlers=dict(
            state=self._state_handler(), data=_StreamsHandler(),
            config=ocp.JsonCheckpointHandler(),
            tokenizer=ocp.JsonCheckpointHandler()),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=self._max_to_keep, create=True,
            # A rename cannot be cut off half way, a deletion can.
            todelete_subdir=integrity.DELETING,
            lightweight_initialize=True,  # reads no file of a step
            save_root_metadata=False,
            async_options=ocp.AsyncOptions(
                # Runs in the primary process, when the files of all are there
                # and before the step gets its final name.
                post_finalization_callback=lambda: integrity.seal(
                    self._directory, self._saving))))

  def _state_handler(self) -> ocp.CheckpointHandler:
    """Orbax's; both write the same files."""
    if self._host_bytes is None:
      return ocp.StandardCheckpointHandler()
    return ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=self._host_bytes / 10**9,
        save_device_host_concurrent_gb=self._host_bytes / 10**9,
        # Else the bound is for none of them.
        is_prioritized_key_fn=lambda key: False)

  def steps(self) -> list[int]:
    """Saved steps, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
      self, state: state_lib.TrainState, streams: Streams, *, step: int,
      config: dict[str, Any], tokenizer: str,
  ) -> None:
    """Starts an asynchronous, atomic save of `step`; a saved one stays.

    Args:
      state: may be donated as soon as this returns.
      streams: their places are read now.
      step: the number of updates done.
      config: settings of the run that are bound, for `restore` to compare.
      tokenizer: its fingerprint, for `restore` to compare.
    """
    # Keys are stored as data.
    state = state.replace(rng=jax.random.key_data(state.rng))
    self._save(state, streams.get_state(), step, config, tokenizer)

  def save_params(self, params: types.Params, *, tokenizer: str) -> None:
    """Saves parameters that no run has trained, as step 0; waits for it."""
    self._save(dict(params=params), {}, 0, {}, tokenizer)
    self.wait()

  def _save(self, state, streams, step: int, config, tokenizer: str) -> None:
    self.wait()
    if step in self._manager.all_steps():
      return
    self._saving = step
    save = (ocp.args.StandardSave if self._host_bytes is None
            else ocp.args.PyTreeSave)
    # Forced: the schedule is the caller's, no policy of Orbax has a say.
    self._manager.save(step, force=True, args=ocp.args.Composite(
        state=save(state), data=_StreamsArgs(streams),
        config=ocp.args.JsonSave(config),
        tokenizer=ocp.args.JsonSave({'fingerprint': tokenizer})))

  def restore(
      self, abstract: state_lib.TrainState, streams: Streams, *,
      step: int | None = None, config: dict[str, Any] | None = None,
      tokenizer: str | None = None,
  ) -> state_lib.TrainState | None:
    """Restores a step into the shardings of `abstract`.

    Steps that are incomplete or damaged are moved to `quarantine/` with a
    warning that names the file, and the step before is taken.

    Args:
      abstract: ShapeDtypeStructs with shardings, on any number of devices.
      streams: set to where they stood when the step was saved.
      step: the newest whole one by default.
      config: settings of the run that are bound; not compared if None.
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
    saved = self._restore(
        step, config=ocp.args.JsonRestore(), tokenizer=ocp.args.JsonRestore())
    if config is not None:
      _refuse('settings differ from those of the checkpoint',
              config_lib.differences(
                  saved.config, config, where=f'in checkpoint step {step}'))
    was = saved.tokenizer['fingerprint']
    if tokenizer not in (None, was):
      _refuse('the tokenizer is not that of the checkpoint', [
          f'{was[:12]} in checkpoint step {step}, {tokenizer[:12]} now'])
    streams.set_state(
        self._restore(step, data=_StreamsArgs(streams.stream_names())).data)
    key_data = jax.eval_shape(jax.random.key_data, abstract.rng)
    abstract = abstract.replace(
        rng=key_data.update(sharding=abstract.rng.sharding))
    check_arrays(self._manager.item_metadata(step).state, abstract, step)
    state = self._restore(
        step, state=ocp.args.StandardRestore(abstract)).state
    return state.replace(rng=jax.random.wrap_key_data(state.rng))

  def wait(self) -> None:
    """Returns when the last save is safe; raises what went wrong with it."""
    self._manager.wait_until_finished()
    self._remove_deleted()

  def close(self) -> None:
    """Waits for saves and releases the manager's threads."""
    self._manager.close()
    self._remove_deleted()

  def _remove_deleted(self) -> None:
    if distributed.is_primary():
      (self._directory / integrity.DELETING).rmtree(missing_ok=True)

  def _restore(self, step: int, **items):
    return self._manager.restore(step, args=ocp.args.Composite(**items))

  def _newest_whole(self) -> int | None:
    """The newest step that is whole; those after it are set aside."""
    # Folders, not the manager's list: it leaves out what lacks its last file.
    # Those of the primary process: others may see an older listing.
    folders = distributed.gather_objects(integrity.steps(self._directory))[0]
    while folders:
      state = _verify(self._directory, folders.pop())
      if state.status == 'ok':
        return state.step
      logging.warning(
          '%s: checkpoint step %d is %s (%s); moved to %s/, %s',
          self._directory, state.step, state.status, state.problem,
          integrity.QUARANTINE, f'step {folders[-1]} is tried' if folders
          else 'no step before it')
      self._manager.close()
      if distributed.is_primary():
        integrity.set_aside(self._directory, state.step)
      distributed.wait('set aside')
      self._manager = self._open()
      if not folders:
        logging.warning(
            '%s: no whole checkpoint; starting anew', self._directory)
    return None


def _verify(directory: files.Path, step: int) -> integrity.State:
  """Compares a step with its hashes; every process reads a part of the files.

  All processes get to the same status; each names what it has seen itself.
  """
  state = integrity.verify(
      directory, step, distributed.process_index(), distributed.num_processes())
  is_ok = distributed.gather_objects(state.status == 'ok')
  if state.status == 'ok' and not all(is_ok):
    problem = f'see the log of process {is_ok.index(False)}'
    return dataclasses.replace(state, status='damaged', problem=problem)
  return state


def check_whole(directory: files.Path, step: int) -> None:
  """Raises a UserError where a step is not whole; names the file."""
  state = _verify(directory, step)
  if state.status != 'ok':
    raise config_lib.UserError(
        f'{files.path(directory) / str(step)}: this checkpoint is '
        f'{state.status} ({state.problem}); move it away, or restore it from '
        'a copy.')


def check_arrays(saved: Any, now: Any, step: int) -> None:
  """Raises UserError with the first arrays whose shape or type differ.

  Args:
    saved: tree of what the checkpoint holds, leaves with `shape` and `dtype`.
    now: tree of what it will be restored into.
    step: for the message.
  """
  theirs, mine = _arrays(saved), _arrays(now)
  shown = lambda arrays, name: arrays.get(name, 'absent')
  names = sorted(  # the optimiser's follow from the parameters
      theirs.keys() | mine.keys(), key=lambda n: (n.startswith('opt'), n))
  _refuse('arrays differ from those of the checkpoint', [
      f'{name}: {shown(theirs, name)} in checkpoint step {step}, '
      f'{shown(mine, name)} now'
      for name in names if shown(theirs, name) != shown(mine, name)])


def _arrays(tree: Any) -> dict[str, str]:
  """'params/embed' -> 'float32 [97, 16]'."""
  return {
      jax.tree_util.keystr(path, simple=True, separator='/'):
          f'{leaf.dtype} {list(leaf.shape)}'
      for path, leaf in jax.tree.leaves_with_path(tree)}


def _refuse(what: str, differences: list[str]) -> None:
  if not differences:
    return
  more = len(differences) - _NUM_SHOWN
  tail = f'; and {more} more' if more > 0 else ''
  raise config_lib.UserError(
      f'{what} ({"; ".join(differences[:_NUM_SHOWN])}{tail}); continue with '
      'the same settings, or start in another --workdir.')


class _StreamsHandler(ocp.CheckpointHandler):
  """Writes and reads the places of streams, a file each."""

  def save(self, directory: epath.Path, args: '_StreamsArgs') -> None:
    for name, state in args.streams.items():
      (directory / f'{name}.json').write_text(json.dumps(state))

  def restore(
      self, directory: epath.Path, args: '_StreamsArgs') -> dict[str, Any]:
    saved = {path.stem: path for path in files.matching(directory, '*.json')}
    missing = [name for name in args.streams if name not in saved]
    if missing:
      raise config_lib.UserError(
          f'{directory}: no data stream {", ".join(missing)}; this checkpoint '
          f'has {", ".join(sorted(saved))}. Start with as many processes as '
          'it was saved with.')
    return {name: json.loads(saved[name].read_text()) for name in args.streams}


@ocp.args.register_with_handler(
    _StreamsHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _StreamsArgs(ocp.args.CheckpointArgs):
  """Of a save: states by name; of a restore: the names."""

  streams: dict[str, Any] | Iterable[str]
