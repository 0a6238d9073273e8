# SPDX-License-Identifier: Apache-2.0
"""Several grain iterators read side by side, as one."""

from collections.abc import Iterable, Iterator, Mapping
import json
from typing import Any

import grain
import numpy as np

Batch = dict[str, np.ndarray]  # the fields of meta_cot.types.Batch, [B, L]


class Streams(Iterator[Batch]):
  """Batches of a host: the rows of its streams, one stream after the other.

  The streams of a run are numbered over all hosts. The state has an entry for
  each, so that another number of hosts can share them out anew.
  """

  def __init__(self, iterators: Mapping[int, grain.DatasetIterator]):
    """Takes the iterators by the number of their stream, in order."""
    self._iterators = {str(i): x for i, x in iterators.items()}

  def __next__(self) -> Batch:
    batches = [next(iterator) for iterator in self._iterators.values()]
    if len(batches) == 1:
      return batches[0]
    return {
        name: np.concatenate([batch[name] for batch in batches])
        for name in batches[0]}

  def stream_names(self) -> tuple[str, ...]:
    """Names of the streams that this host reads."""
    return tuple(self._iterators)

  def get_state(self) -> dict[str, Any]:
    """Where each stream of this host stands: name -> JSON value."""
    return {
        name: json.loads(json.dumps(iterator.get_state()))
        for name, iterator in self._iterators.items()}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Puts each stream of this host where `state` says; others are ignored.

    Raises:
      ValueError: a stream is not there.
    """
    absent = [name for name in self._iterators if name not in state]
    if absent:
      raise ValueError(
          f'state of stream {_names(absent)} missing; there are '
          f'{_names(state) or "none"}. data.num_streams must be that of '
          'the run that saved it.')
    for name, iterator in self._iterators.items():
      iterator.set_state(state[name])

  def close(self) -> None:
    """Ends the worker processes, if there are any."""
    for iterator in self._iterators.values():
      iterator.close()


def _names(names: Iterable[str]) -> str:
  return ', '.join(sorted(names, key=int))
