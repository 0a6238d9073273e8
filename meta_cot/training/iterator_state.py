# SPDX-License-Identifier: Apache-2.0
"""The data iterator in a checkpoint: one small JSON file per stream.

A stream is a part of the records that one process reads on its own. Each
process writes those that it holds, and reads those that it holds after a
restart, so the number of processes may change in between.
"""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any, Protocol

from etils import epath
import grain
import jax
import orbax.checkpoint as ocp

from meta_cot.settings import config as config_lib


class Streams(Protocol):
  """An iterator over several streams whose places can be saved."""

  def stream_names(self) -> tuple[str, ...]:
    """Names of the streams of this process, such as '0'."""

  def get_state(self) -> dict[str, Any]:
    """JSON-able state of each of them."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Moves each of them to where it stood."""


def read_places(iterator: Streams | grain.DatasetIterator) -> dict[str, str]:
  """Where the streams of this process stand, as JSON by name."""
  states = _as_streams(iterator).get_state()
  return {name: json.dumps(state) for name, state in states.items()}


def move(iterator: Streams | grain.DatasetIterator, manager, step: int) -> None:
  """Sets `iterator` to where it stood when `step` was saved."""
  streams = _as_streams(iterator)
  restored = manager.restore(step, args=ocp.args.Composite(
      data=StreamsRestore(streams.stream_names())))
  streams.set_state(restored.data)


def _as_streams(iterator: Streams | grain.DatasetIterator) -> Streams:
  is_plain = isinstance(iterator, grain.DatasetIterator)
  return _OneStream(iterator) if is_plain else iterator


@dataclasses.dataclass(frozen=True)
class _OneStream:
  """A plain grain iterator: the only stream of its process."""

  iterator: grain.DatasetIterator

  def stream_names(self) -> tuple[str, ...]:
    return (str(jax.process_index()),)

  def get_state(self) -> dict[str, Any]:
    return {self.stream_names()[0]: self.iterator.get_state()}

  def set_state(self, state: dict[str, Any]) -> None:
    self.iterator.set_state(state[self.stream_names()[0]])


class StreamsHandler(ocp.CheckpointHandler):
  """Writes and reads the files; every process its own."""

  def save(self, directory: epath.Path, args: 'StreamsSave') -> None:
    for name, text in args.places.items():
      (directory / f'{name}.json').write_text(text)

  def restore(
      self, directory: epath.Path, args: 'StreamsRestore') -> dict[str, Any]:
    saved = {path.stem for path in directory.glob('*.json')}
    missing = [name for name in args.names if name not in saved]
    if missing:
      raise config_lib.UserError(
          f'{directory}: no data stream {", ".join(missing)}; this checkpoint '
          f'has {", ".join(sorted(saved))}. Start with as many processes as '
          'it was saved with.')
    return {
        name: json.loads((directory / f'{name}.json').read_text())
        for name in args.names}


@ocp.args.register_with_handler(StreamsHandler, for_save=True)
@dataclasses.dataclass
class StreamsSave(ocp.args.CheckpointArgs):
  """Arguments of a save: JSON by stream."""

  places: dict[str, str]


@ocp.args.register_with_handler(StreamsHandler, for_restore=True)
@dataclasses.dataclass
class StreamsRestore(ocp.args.CheckpointArgs):
  """Arguments of a restore: the streams that this process holds."""

  names: Sequence[str]
