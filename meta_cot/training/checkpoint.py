# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one Orbax composite per step holds all that a run needs.

Items: `state` (parameters, optimiser, step, key data of the stage's RNG),
`data` (grain iterator, one file per host), `config` and `tokenizer` (JSON).
"""

import base64
import dataclasses
import os
import pathlib
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from meta_cot import config as config_lib
from meta_cot.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Settings of `Checkpoints`."""

  save_every_steps: int = config_lib.setting(low=1)
  max_to_keep: int | None = config_lib.setting(low=1)


def _with_key_data(state: state_lib.TrainState) -> state_lib.TrainState:
  """The state with its RNG key as plain integers, which Orbax stores."""
  return state.replace(rng=jax.random.key_data(state.rng))


class Checkpoints:
  """Saves and restores the composite of a run."""

  def __init__(self, directory: str | os.PathLike, config: CheckpointConfig):
    self._config = config
    self._directory = pathlib.Path(directory).absolute()
    self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=config.max_to_keep, create=True))

  def steps(self) -> list[int]:
    """Saved steps, oldest first."""
    return sorted(self._manager.all_steps())

  def is_due(self, step: int, num_steps: int) -> bool:
    """Whether `step` is one to save."""
    return step == num_steps or step % self._config.save_every_steps == 0

  def save(
      self, state: state_lib.TrainState, iterator: grain.DatasetIterator, *,
      step: int, config: dict[str, Any], tokenizer: bytes,
  ) -> None:
    """Starts an asynchronous, atomic save of `step`."""
    self._manager.save(step, args=ocp.args.Composite(
        state=ocp.args.StandardSave(_with_key_data(state)),
        data=grain.checkpoint.CheckpointSave(iterator),
        config=ocp.args.JsonSave(config),
        tokenizer=ocp.args.JsonSave(
            {'model': base64.b64encode(tokenizer).decode()})))

  def restore(
      self, abstract: state_lib.TrainState, iterator: grain.DatasetIterator, *,
      step: int | None = None,
  ) -> state_lib.TrainState | None:
    """Restores a step into the shardings of `abstract`.

    Args:
      abstract: ShapeDtypeStructs with shardings, on any number of devices.
      iterator: set to where it stood when the step was saved.
      step: the newest by default.

    Returns:
      The state, or None where nothing has been saved.
    """
    step = self._manager.latest_step() if step is None else step
    if step is None:
      return None
    return self._restore(
        abstract, step, data=grain.checkpoint.CheckpointRestore(iterator))

  def restore_state(
      self, abstract: state_lib.TrainState, step: int
  ) -> state_lib.TrainState:
    """Restores only the arrays of `step` (evaluation needs no iterator)."""
    return self._restore(abstract, step)

  def _restore(self, abstract, step, **items) -> state_lib.TrainState:
    restored = self._manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(_abstract_with_key_data(abstract)),
        **items))
    return restored.state.replace(
        rng=jax.random.wrap_key_data(restored.state.rng))

  def restore_tokenizer(self, step: int) -> bytes:
    """The tokenizer's model that `step` was trained with."""
    restored = self._manager.restore(step, args=ocp.args.Composite(
        tokenizer=ocp.args.JsonRestore()))
    return base64.b64decode(restored.tokenizer['model'])

  def close(self) -> None:
    """Waits for saves and releases the manager's threads."""
    self._manager.close()


def _abstract_with_key_data(abstract):
  data = jax.eval_shape(jax.random.key_data, abstract.rng)
  return abstract.replace(rng=jax.ShapeDtypeStruct(
      data.shape, data.dtype, sharding=abstract.rng.sharding))
