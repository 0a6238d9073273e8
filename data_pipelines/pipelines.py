# SPDX-License-Identifier: Apache-2.0
"""Grain pipelines: trace records -> packed batches of tokens.

Targets are shifted and weighed per example, before packing, so nothing crosses
from one example to its neighbour in a row. The state of a returned iterator is
small and restores it exactly, in the middle of a set of packed rows too. The
records are dealt to a fixed number of streams, which the hosts share, so that
no batch depends on the number of hosts.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import logging
from typing import Protocol

from absl import flags
import grain
from grain import experimental as grain_experimental
import numpy as np

from data_pipelines import examples as examples_lib
from data_pipelines import store
from data_pipelines import streams as streams_lib
from meta_cot.settings import config as config_lib
from meta_cot.traces import record as record_lib

CACHE_POSITIONS = 1 << 24  # kept in memory per process: 192 MiB
CACHE_NODES = 1 << 18  # of parsed records, for random arms: about 100 MiB
Batch = streams_lib.Batch


class Example(Protocol):
  """Makes a training sequence of a record; picklable."""

  is_random: bool  # whether `rng` matters; if not, sequences are kept

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator
  ) -> np.ndarray | None:
    """Returns `examples.POSITION` [n]; None for a record without one."""


def train_batches(
    source: store.Source | Sequence, example: Example,
    config: examples_lib.DataConfig, *,
    seed: int,
    batch_size: int,
    num_hosts: int,
    host_index: int,
) -> streams_lib.Streams:
  """Endless batches; every epoch has its own order, all from `seed`.

  Stream s of S reads every S-th record of that order from the s-th on, packs
  them and gives B/S rows of each batch. A host reads the streams of its share.
  So each record is read once per epoch, and the batches of all hosts together
  are the same for any number of hosts; they do depend on S. Examples longer
  than a row are dropped, and counted in the log.

  Args:
    source: random access to TraceRecords.
    example: makes a sequence of a record.
    config: length of a row, packing, number of streams.
    seed: of the order, the packing and the sequences.
    batch_size: rows B per batch of all hosts together.
    num_hosts: hosts that share the streams.
    host_index: which of them this is; it has rows host_index * B / num_hosts
      and on.

  Returns:
    Iterator over `Batch`, B / num_hosts rows each, with `get_state` and
    `set_state`. Close it if there are worker processes.

  Raises:
    ValueError: no records, no such host, or rows and streams that do not
      divide.
    UserError: later, from the iterator, if no record gives an example.
  """
  if not len(source) or not 0 <= host_index < num_hosts:
    raise ValueError(
        f'{len(source)=}, {host_index=}, {num_hosts=}: there must be records, '
        'and the host must be in 0..num_hosts-1.')
  num_streams = config.num_streams
  if batch_size % num_streams or num_streams % num_hosts:
    raise ValueError(
        f'{batch_size=}, {num_streams=}, {num_hosts=}: streams must divide the '
        'batch, and hosts the streams.')
  examples = _Examples(source, example, config.sequence_length)
  indices = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
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
  return streams_lib.Streams({number: stream(number) for number in own})


def eval_batches(
    source: store.Source | Sequence, example: Example,
    config: examples_lib.DataConfig, *,
    seed: int,
    batch_size: int,
    num_hosts: int,
    host_index: int,
) -> Iterator[Batch]:
  """One pass in a fixed order; zero rows fill the last batch.

  Every host packs all the records and takes its rows of each batch, so that
  all hosts see the same number of batches, and there are no streams. Arguments
  as of `train_batches`; `seed` matters only to random examples.

  Raises:
    ValueError: hosts do not divide the rows.
  """
  if batch_size % num_hosts:
    raise ValueError(
        f'{batch_size=}, {num_hosts=}: hosts must divide the batch.')
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


def longest(
    source: store.Source | Sequence, example: Example, eos_id: int
) -> int | None:
  """Counts the tokens of the longest attempt behind a prompt, None without any.
  """
  rng, lengths = np.random.default_rng(0), []
  for index in range(len(source)):
    made = example(source[index], rng)
    if made is not None and made['weights'].any():
      targets = made['targets'][int(np.argmax(made['weights'] > 0)):]
      ends = np.flatnonzero(targets == eos_id)
      lengths.append(int(np.diff(ends, prepend=-1).max(initial=0)))
  return max(lengths, default=None)


class _Examples:
  """Record index -> POSITION array [n], or None for a dropped record."""

  def __init__(self, source, example, length):
    self._arguments = source, example, length
    self._source, self._example, self._length = source, example, length
    self._cache = {}
    self._cached_positions = 0
    self._records = {}
    self._cached_nodes = 0
    self._has_example = False
    self.dropped = collections.Counter()

  def __reduce__(self):
    return _Examples, self._arguments  # without the caches

  def __call__(self, index: int, rng: np.random.Generator):
    example = self._cache.get(index)
    if example is None:
      example = self._make(index, rng)
      if (not self._example.is_random
          and self._cached_positions < CACHE_POSITIONS):
        self._cache[index] = example
        self._cached_positions += len(example)
    if len(example):
      self._has_example = True
      return example
    return None

  def _make(self, index: int, rng: np.random.Generator) -> np.ndarray:
    """The example of a record; empty if it is dropped."""
    record = self._record(index)
    example = self._example(record, rng)
    if example is None:
      return self._drop('without text', record.problem.id)
    if len(example) > self._length:
      return self._drop(
          'too long', f'{record.problem.id}: {len(example) + 1} tokens in rows '
          f'of {self._length}')
    return example

  def _record(self, index: int) -> record_lib.TraceRecord:
    """A record, kept if it will be needed again and memory allows."""
    record = self._records.get(index)
    if record is None:
      record = self._source[index]
      if self._example.is_random and self._cached_nodes < CACHE_NODES:
        self._records[index] = record
        self._cached_nodes += len(record.nodes)
    return record

  def _drop(self, reason: str, what: str) -> np.ndarray:
    """Counts a dropped record; logs each time the count has doubled."""
    self.dropped[reason] += 1
    count = self.dropped[reason]
    if count & (count - 1) == 0:
      logging.info('dropped %d records %s; latest %s', count, reason, what)
    if not self._has_example and self.dropped.total() >= len(self._source):
      raise config_lib.UserError(
          f'no record gives an example: {dict(self.dropped)}, latest {what}; '
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
  return {
      'tokens': np.ascontiguousarray(example_BxL['tokens']),
      'targets': np.ascontiguousarray(example_BxL['targets']),
      'positions': rows['example_positions'],
      'segment_ids': rows['example_segment_ids'],
      'loss_mask': np.ascontiguousarray(example_BxL['weights']),
  }
