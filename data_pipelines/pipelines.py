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
import dataclasses
import logging

from absl import flags
import grain
from grain import experimental as grain_experimental
import numpy as np

from data_pipelines import arms
from data_pipelines import store
from data_pipelines import streams as streams_lib
from data_pipelines import tokenizers
from meta_cot.settings import config as config_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import masks
from meta_cot.traces import record as record_lib

# One position of an example; a structured array packs all of it at once.
POSITION = np.dtype(
    [('tokens', np.int32), ('targets', np.int32), ('weights', np.float32)])
CACHE_POSITIONS = 1 << 24  # kept in memory per process: 192 MiB
CACHE_NODES = 1 << 18  # of parsed records, for random arms: about 100 MiB
Batch = streams_lib.Batch


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Settings of the training sequences and of how they are packed."""

  sequence_length: int = config_lib.setting(low=2)  # of a packed row
  style: str = config_lib.setting(choices=tuple(format_lib.STYLES))
  objective: str = config_lib.setting(choices=tuple(masks.OBJECTIVES))
  packing_bins: int = config_lib.setting(low=1)  # rows that are filled at once
  num_workers: int = config_lib.setting(low=0)  # per stream; 0 = no others
  num_streams: int = config_lib.setting(low=1)  # shared by all hosts
  prune_fraction: float = config_lib.setting(low=0.0, high=1.0)
  max_attempts: int = config_lib.setting(low=1)  # arms that write several
  trained_attempts: str = config_lib.setting(choices=('final', 'all'))


@dataclasses.dataclass(frozen=True)
class Counts:
  """What one pass over a source gives, in examples and in tokens."""

  num_examples: int
  num_tokens: int  # of the examples, prompt included
  num_trained: int  # those with a weight
  num_too_long: int  # examples dropped: longer than a row
  num_without_text: int  # records that the arm has no sequence for


def tokenize(
    events: arms.Events, style: str, objective: str,
    tokenizer: tokenizers.Tokenizer,
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens of one sequence and the weight of predicting each of them.

  The prompt is encoded on its own, as it is at inference, and so is every
  stretch that is trained or not; no token spans a boundary. An end of sequence
  is appended; it is trained too, except where `meta_cot` leaves out the
  solution it follows.

  Args:
    events: from `traces.linearize` or an arm.
    style: name of the text format.
    objective: which parts are trained; see `traces.objectives`.
    tokenizer: encodes the text.

  Returns:
    Tokens int32 [n] and weights float32 [n], 0 or 1; the prompt has 0.
  """
  text, trained = masks.trained_ranges(events, style, objective)
  ids, weights = [], []

  def extend(start, stop, weight):
    part = tokenizer.encode(text[start:stop])
    ids.extend(part)
    weights.extend([weight] * len(part))

  done = len(format_lib.prompt(events, style))
  extend(0, done, 0)
  for start, stop in trained:
    if start > done:
      extend(done, start, 0)
    extend(start, stop, 1)
    done = stop
  if done < len(text):
    extend(done, len(text), 0)
  ids.append(tokenizer.eos_id)
  weights.append(masks.trains_end(events, objective))
  return np.asarray(ids, np.int32), np.asarray(weights, np.float32)


def tokenize_attempts(
    attempts: arms.Attempts, config: DataConfig,
    tokenizer: tokenizers.Tokenizer,
) -> tuple[np.ndarray, np.ndarray]:
  """The question, then attempts at it, each with its end of sequence.

  Args:
    attempts: at least one; the question of the first is the one written.
    config: `trained_attempts` 'final' leaves only the last one's weights
      (arXiv 2501.04682, Eq. 5-6, and Eq. 7 for its end); 'all' keeps all.
    tokenizer: encodes the text.

  Returns:
    As of `tokenize`, which says what is trained within an attempt.
  """
  parts = []
  for number, events in enumerate(attempts, start=1):
    tokens, weights = tokenize(
        events, config.style, config.objective, tokenizer)
    if config.trained_attempts == 'final' and number < len(attempts):
      weights[:] = 0
    start = 0 if number == 1 else len(
        tokenizer.encode(format_lib.prompt(events, config.style)))
    parts.append((tokens[start:], weights[start:]))
  tokens, weights = zip(*parts)
  return np.concatenate(tokens), np.concatenate(weights)


def train_batches(
    source: store.Source | Sequence, tokenizer: tokenizers.Tokenizer,
    config: DataConfig, *,
    seed: int,
    batch_size: int,
    num_hosts: int,
    host_index: int,
    transform: arms.Arm,
) -> streams_lib.Streams:
  """Endless batches; every epoch has its own order, all from `seed`.

  Stream s of S reads every S-th record of that order from the s-th on, packs
  them and gives B/S rows of each batch. A host reads the streams of its share.
  So each record is read once per epoch, and the batches of all hosts together
  are the same for any number of hosts; they do depend on S. Examples longer
  than a row are dropped, and counted in the log.

  Args:
    source: random access to TraceRecords.
    tokenizer: encodes the sequences.
    config: lengths, style, objective, attempts, number of streams.
    seed: of the order, the packing and the arm.
    batch_size: rows B per batch of all hosts together.
    num_hosts: hosts that share the streams.
    host_index: which of them this is; it has rows host_index * B / num_hosts
      and on.
    transform: what is written of a record, one of `arms.ARMS`.

  Returns:
    Iterator over `Batch`, B / num_hosts rows each, with `get_state` and
    `set_state`. Close it if there are worker processes.

  Raises:
    ConfigError: a style that the arm is not written in.
    ValueError: no records, no such host, or rows and streams that do not
      divide; later, from the iterator, if no record gives an example.
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
  examples = _Examples(source, tokenizer, config, transform)
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
    source: store.Source | Sequence, tokenizer: tokenizers.Tokenizer,
    config: DataConfig, *,
    seed: int,
    batch_size: int,
    num_hosts: int,
    host_index: int,
    transform: arms.Arm,
) -> Iterator[Batch]:
  """One pass in a fixed order, unpruned; zero rows fill the last batch.

  Every host packs all the records and takes its rows of each batch, so that
  all hosts see the same number of batches, and there are no streams. Arguments
  as of `train_batches`; `seed` matters only to a random arm.

  Raises:
    ConfigError: a style that the arm is not written in.
    ValueError: hosts do not divide the rows.
  """
  if batch_size % num_hosts:
    raise ValueError(
        f'{batch_size=}, {num_hosts=}: hosts must divide the batch.')
  config = dataclasses.replace(config, prune_fraction=0.0)
  examples = _Examples(source, tokenizer, config, transform)
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


def measure(
    source: store.Source | Sequence, tokenizer: tokenizers.Tokenizer,
    config: DataConfig, transform: arms.Arm) -> Counts:
  """Counts what one pass gives and what it drops.

  Raises:
    ConfigError: a style that the arm is not written in.
  """
  examples = _Examples(source, tokenizer, config, transform)
  rng = np.random.default_rng(0)
  num_tokens = num_trained = 0
  for index in range(len(source)):
    example = examples(index, rng)
    if example is not None:
      num_tokens += len(example) + 1
      num_trained += int(np.count_nonzero(example['weights']))
  dropped = examples.dropped
  return Counts(
      num_examples=len(source) - dropped.total(), num_tokens=num_tokens,
      num_trained=num_trained, num_too_long=dropped['too long'],
      num_without_text=dropped['without text'])


class _Examples:
  """Record index -> POSITION array [n], or None for a dropped record."""

  def __init__(self, source, tokenizer, config, transform):
    if config.style not in transform.styles:
      raise config_lib.ConfigError(
          f'config.data.style: got {config.style!r}; must be '
          f'{" or ".join(transform.styles)} for this arm.')
    self._arguments = source, tokenizer, config, transform
    self._source, self._tokenizer = source, tokenizer
    self._config, self._transform = config, transform
    self._is_random = transform.is_random or config.prune_fraction > 0
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
      if not self._is_random and self._cached_positions < CACHE_POSITIONS:
        self._cache[index] = example
        self._cached_positions += len(example)
    if len(example):
      self._has_example = True
      return example
    return None

  def _make(self, index: int, rng: np.random.Generator) -> np.ndarray:
    """The example of a record; empty if it is dropped."""
    record = self._record(index)
    config = self._config
    if config.prune_fraction and rng.random() < config.prune_fraction:
      record = masks.prune(record, rng.random(), rng)
    attempts = self._transform(record, rng, config.max_attempts)
    if attempts is None:
      return self._drop('without text', record.problem.id)
    tokens, weights = tokenize_attempts(attempts, config, self._tokenizer)
    if len(tokens) - 1 > config.sequence_length:
      return self._drop(
          'too long', f'{record.problem.id}: {len(tokens)} tokens in rows of '
          f'{config.sequence_length}')
    example = np.empty(len(tokens) - 1, POSITION)
    example['tokens'] = tokens[:-1]
    example['targets'] = tokens[1:]
    example['weights'] = weights[1:]
    return example

  def _record(self, index: int) -> record_lib.TraceRecord:
    """A record, kept if it will be needed again and memory allows."""
    record = self._records.get(index)
    if record is None:
      record = self._source[index]
      if self._is_random and self._cached_nodes < CACHE_NODES:
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
      raise ValueError(
          f'no record gives an example: {dict(self.dropped)}, latest {what}; '
          'raise data.sequence_length, or use another arm or more records.')
    return np.empty(0, POSITION)


def _pack(
    dataset: grain.MapDataset, config: DataConfig, seed: int, *, shuffle: bool
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
