# SPDX-License-Identifier: Apache-2.0
"""Grain pipelines: trace records -> packed batches of tokens.

Targets are shifted and weighed per example, before packing, so nothing crosses
from one example to its neighbour in a row. The state of a returned iterator is
small and restores it exactly, in the middle of a set of packed rows too. The
records are dealt to a fixed number of streams, which the hosts share, so that
no batch depends on the number of hosts.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import json
import logging
from typing import Any, Protocol

from absl import flags
import grain
from grain import experimental as grain_experimental
import numpy as np

from data_pipelines import examples as examples_lib
from data_pipelines import pairs
from meta_cot.settings import config as config_lib
from meta_cot.traces import record as record_lib

CACHE_POSITIONS = 1 << 24  # kept in memory per process: 192 MiB
CACHE_NODES = 1 << 18  # of parsed records, for random arms: about 100 MiB

Batch = dict[str, np.ndarray]  # the fields of meta_cot.types.Batch, [B, L]
Source = Sequence[record_lib.TraceRecord]  # such as `store.Source`


class Example(Protocol):
  """Makes a training sequence of a record; picklable."""

  is_random: bool  # whether `rng` matters; if not, sequences are kept

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator
  ) -> np.ndarray | None:
    """Returns `examples.POSITION` [n]; None for a record without one."""


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
          f'state of stream {", ".join(absent)} missing; there are '
          f'{", ".join(sorted(state, key=int)) or "none"}. data.num_streams '
          'must be that of the run that saved it.')
    for name, iterator in self._iterators.items():
      iterator.set_state(state[name])

  def close(self) -> None:
    """Ends the worker processes, if there are any."""
    for iterator in self._iterators.values():
      iterator.close()


def train_batches(
    source: Source, example: Example, config: examples_lib.DataConfig, *,
    seed: int, batch_size: int, num_hosts: int, host_index: int,
) -> Streams:
  """Endless batches; every epoch has its own order, all from `seed`.

  Stream s of S reads every S-th record of that order from the s-th on, packs
  them and gives B/S rows of each batch. A host reads the streams of its share.
  So each record is read once per epoch, and the batches of all hosts together
  are the same for any number of hosts; they do depend on S. Examples longer
  than a row are dropped, and counted in the log.

  Args:
    source: random access to at least one record.
    example: makes a sequence of a record.
    config: number of records, length of a row, packing, number of streams.
    seed: of the order, the packing and the sequences.
    batch_size: rows B per batch of all hosts together; a multiple of S.
    num_hosts: hosts that share the streams; divides S.
    host_index: which of them this is; it has rows host_index * B / num_hosts
      and on.

  Returns:
    Batches of B / num_hosts rows. Close it if there are worker processes.

  Raises:
    UserError: later, from the iterator, if no record gives an example.
  """
  num_streams = config.num_streams
  examples = _Examples(source, example, config.sequence_length)
  indices = grain.MapDataset.range(
      config.num_records or len(source)).seed(seed).shuffle().repeat()
  dataset = indices.random_map(examples)

  def stream(number):
    rows = _pack(dataset[number::num_streams], config, seed, shuffle=True)
    batches = rows.batch(
        batch_size // num_streams, drop_remainder=True).map(_as_batch)
    if config.num_workers:
      batches = batches.mp_prefetch(
          grain.MultiprocessingOptions(num_workers=config.num_workers))
    return iter(batches)

  if config.num_workers and not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain reads one; there is no absl.app here
  share = num_streams // num_hosts
  own = range(host_index * share, (host_index + 1) * share)
  return Streams({number: stream(number) for number in own})


def eval_batches(
    source: Source, example: Example, config: examples_lib.DataConfig, *,
    seed: int, batch_size: int, num_hosts: int, host_index: int,
) -> Iterator[Batch]:
  """One pass in a fixed order; zero rows fill the last batch.

  Every host packs all the records and takes its rows of each batch, so that
  all hosts see the same number of batches, and there are no streams. Arguments
  as of `train_batches`; `seed` matters only to random examples.
  """
  examples = _Examples(source, example, config.sequence_length)
  indices = grain.MapDataset.range(len(source)).seed(seed)
  rows = _pack(
      indices.random_map(examples), config, seed, shuffle=False)
  share = batch_size // num_hosts

  def stack(elements):
    zeros = {k: np.zeros_like(v) for k, v in elements[0].items()}
    padded = [*elements, *[zeros] * (batch_size - len(elements))]
    own = padded[host_index * share:(host_index + 1) * share]
    return {k: np.stack([e[k] for e in own]) for k in zeros}

  return iter(rows.batch(batch_size, batch_fn=stack).map(_as_batch))


def longest(source: Source, example: Example, eos_id: int) -> int | None:
  """Counts the tokens of the longest attempt behind a prompt; None: none."""
  rng, lengths = np.random.default_rng(0), []
  for index in range(len(source)):
    made = example(source[index], rng)
    if made is not None and made['weights'].any():
      targets = made['targets'][int(np.argmax(made['weights'] > 0)):]
      ends = np.flatnonzero(targets == eos_id)
      lengths.append(int(np.diff(ends, prepend=-1).max(initial=0)))
  return max(lengths, default=None)


class _Examples:
  """Record index -> POSITION array [n], or None for a dropped record.

  While memory allows it keeps the sequences, or the records of random ones.
  """

  def __init__(self, source, example, length):
    self._arguments = source, example, length
    self._source, self._example, self._length = source, example, length
    self._kept, self._size = {}, 0
    self._has_example = False
    self._dropped = collections.Counter()

  def __reduce__(self):
    return _Examples, self._arguments  # without what it keeps

  def __call__(self, index: int, rng: np.random.Generator):
    if self._example.is_random:
      example = self._make(self._keep(
          index, lambda: self._source[index], lambda x: len(x.nodes),
          CACHE_NODES), rng)
    else:
      example = self._keep(
          index, lambda: self._make(self._source[index], rng), len,
          CACHE_POSITIONS)
    self._has_example |= len(example) > 0
    return example if len(example) else None

  def _keep(
      self, index: int, make: Callable[[], Any], size: Callable[[Any], int],
      limit: int) -> Any:
    """What `make` gives, or gave for this index."""
    if index in self._kept:
      return self._kept[index]
    made = make()
    if self._size < limit:
      self._kept[index] = made
      self._size += size(made)
    return made

  def _make(
      self, record: record_lib.TraceRecord, rng: np.random.Generator
  ) -> np.ndarray:
    """The example of a record; empty if it is dropped."""
    example = self._example(record, rng)
    if example is None:
      return self._drop('without text', record.problem.id)
    if len(example) > self._length:
      return self._drop(
          'too long', f'{record.problem.id}: {len(example) + 1} tokens in rows '
          f'of {self._length}')
    return example

  def _drop(self, reason: str, what: str) -> np.ndarray:
    """Counts a dropped record; logs each time the count has doubled."""
    self._dropped[reason] += 1
    count = self._dropped[reason]
    if count & (count - 1) == 0:
      logging.info('dropped %d records %s; latest %s', count, reason, what)
    if not self._has_example and self._dropped.total() >= len(self._source):
      raise config_lib.UserError(
          f'no record gives an example: {dict(self._dropped)}, latest {what}; '
          'raise data.sequence_length, or use another arm or more records.')
    return np.empty(0, examples_lib.POSITION)


def _pack(
    dataset: grain.MapDataset, config: examples_lib.DataConfig, seed: int, *,
    shuffle: bool,
) -> grain.IterDataset:
  """Rows of several examples each; they do not see one another."""
  # In line: a Python thread costs more here than it hides, and one that is
  # reading while the interpreter ends aborts the process.
  read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return grain_experimental.FirstFitPackIterDataset(
      dataset.map(lambda x: None if x is None else {'example': x})
      .to_iter_dataset(read),
      length_struct={'example': config.sequence_length},
      num_packing_bins=config.packing_bins, seed=seed, shuffle_bins=shuffle)


def _as_batch(rows: Mapping[str, np.ndarray]) -> Batch:
  """Packed rows -> the fields of `types.Batch`."""
  example_BxL = rows['example']
  names = example_BxL.dtype.names
  field = lambda name: np.ascontiguousarray(example_BxL[name])
  positions_BxL, segments_BxL = (
      rows['example_positions'], rows['example_segment_ids'])
  if 'is_second' in names:  # two texts that do not see one another
    positions_BxL = field('place')
    segments_BxL = np.where(
        segments_BxL > 0, 2 * segments_BxL - 1 + field('is_second'), 0)
  return {
      'tokens': field('tokens'), 'targets': field('targets'),
      'positions': positions_BxL,
      'segment_ids': segments_BxL.astype(np.int32),
      'loss_mask': field('weights'),
      **{name: field(name) for name in names
         if name not in pairs.POSITION.names}}
