# SPDX-License-Identifier: Apache-2.0
"""Pipelines: packing, sharding between hosts, and exact resumption."""

import dataclasses
import functools
import json
import logging

import grain
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from data_pipelines import examples as examples_lib
from data_pipelines import pipelines
from data_pipelines import store
from data_pipelines.tokenizers import sentencepiece
from meta_cot.settings import config as config_lib
from meta_cot.stages import data as data_stages
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from tests import small_arms

NUM_RECORDS = 60
TASK = small_arms.TASK
ARMS = small_arms.ARMS
CONFIG = small_arms.CONFIG
TRACES = ARMS['traces']
FIELDS = {
    'tokens': np.int32, 'targets': np.int32, 'positions': np.int32,
    'segment_ids': np.int32, 'loss_mask': np.float32}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  directory = tmp_path_factory.mktemp('traces')
  store.generate(
      directory, functools.partial(
          data_stages.search, TASK.teacher, 'compact', 0,
          list(TASK.problems('train', 0, NUM_RECORDS))),
      kind='trace', split='train', num_records=NUM_RECORDS,
      num_shards=3, arguments={}, num_processes=1)
  return store.read(directory, 'train')


@pytest.fixture(scope='module')
def tokenizer(source):
  texts = [
      format_lib.render(events_lib.linearize(source[i]), 'compact')
      for i in range(len(source))]
  return sentencepiece.train([*texts, '@'], 128, 60)


def train(source, tokenizer, config=CONFIG, arm=TRACES, **changes):
  settings = dict(seed=3, batch_size=2, num_hosts=1, host_index=0)
  return pipelines.train_batches(
      source, texts(arm, config, tokenizer), config, **settings | changes)


def evaluate(source, tokenizer, config=CONFIG, arm=TRACES, **changes):
  settings = dict(seed=0, batch_size=3, num_hosts=1, host_index=0)
  return list(pipelines.eval_batches(
      source, texts(arm, config, tokenizer).plain(), config,
      **settings | changes))


def texts(arm, config, tokenizer):
  return examples_lib.Texts(arm, config, tokenizer, 'compact')


def take(batches, count):
  return [next(batches) for _ in range(count)]


def assert_same(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right):
    assert a.keys() == b.keys() == FIELDS.keys()
    for name in FIELDS:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def joined(*shares):
  """The batches of all hosts, from those of each."""
  return [
      {k: np.concatenate([batch[k] for batch in batches]) for k in FIELDS}
      for batches in zip(*shares, strict=True)]


def segments(batches):
  """(tokens with the last target, weights) of every segment, as tuples."""
  found = []
  for batch in batches:
    for row in range(len(batch['tokens'])):
      ids = batch['segment_ids'][row]
      for segment in range(1, ids.max() + 1):
        at = np.flatnonzero(ids == segment)
        np.testing.assert_array_equal(at, np.arange(at[0], at[-1] + 1))
        np.testing.assert_array_equal(
            batch['positions'][row, at], np.arange(len(at)))
        tokens = batch['tokens'][row, at]
        targets = batch['targets'][row, at]
        np.testing.assert_array_equal(tokens[1:], targets[:-1])
        found.append((
            (*tokens.tolist(), int(targets[-1])),
            tuple(batch['loss_mask'][row, at].tolist())))
  return found


def expected(source, tokenizer, config=CONFIG):
  found = []
  for record in source:
    tokens, weights = examples_lib.tokenize(
        events_lib.linearize(record), 'compact', config.mask, tokenizer)
    found.append((tuple(tokens.tolist()), tuple(weights[1:].tolist())))
  return found


def records_of(source):
  return [source[i] for i in range(len(source))]


def test_batches_have_the_declared_fields(source, tokenizer):
  batch = next(train(source, tokenizer))
  assert {k: v.dtype.type for k, v in batch.items()} == FIELDS
  assert {v.shape for v in batch.values()} == {(2, 160)}
  assert all(v.flags.c_contiguous for v in batch.values())
  padding = batch['segment_ids'] == 0
  for name in FIELDS:
    assert not batch[name][padding].any(), name


@hypothesis.settings(max_examples=12)
@hypothesis.given(
    length=st.integers(100, 400), bins=st.integers(1, 9),
    mask=st.sampled_from(
        ['procedure_cloning', 'meta_cot', 'solution_path']))
def test_packing_keeps_examples_apart_and_whole(
    source, tokenizer, length, bins, mask):
  config = dataclasses.replace(
      CONFIG, sequence_length=length, packing_bins=bins, mask=mask)
  wanted = [
      e for e in expected(records_of(source), tokenizer, config)
      if len(e[1]) <= length]
  found = segments(evaluate(source, tokenizer, config))
  assert sorted(found) == sorted(wanted)
  epochs = segments(take(train(source, tokenizer, config), 12))
  assert set(epochs) <= set(wanted)


def test_every_epoch_has_all_records_in_an_order_of_its_own(source, tokenizer):
  config = dataclasses.replace(CONFIG, packing_bins=1)
  found = segments(take(train(source, tokenizer, config), 60))
  first, second = found[:NUM_RECORDS], found[NUM_RECORDS:2 * NUM_RECORDS]
  assert sorted(first) == sorted(second) == sorted(
      expected(records_of(source), tokenizer))
  assert first != second


def test_the_seed_alone_decides(source, tokenizer):
  for arm in ARMS.values():
    config = dataclasses.replace(CONFIG, prune_fraction=0.5)
    first = take(train(source, tokenizer, config, arm=arm), 8)
    assert_same(first, take(train(source, tokenizer, config, arm=arm), 8))
    other = take(train(source, tokenizer, config, arm=arm, seed=4), 8)
    assert segments(first) != segments(other)


@pytest.mark.parametrize('num_streams', [2, 3, 7])
def test_streams_share_each_epoch_without_overlap(
    source, tokenizer, num_streams):
  config = dataclasses.replace(
      CONFIG, packing_bins=1, num_streams=num_streams)
  shares = [
      segments(take(
          train(source, tokenizer, config, batch_size=2 * num_streams,
                num_hosts=num_streams, host_index=i),
          NUM_RECORDS // num_streams + 1))  # two rows of at least one example
      for i in range(num_streams)]
  # Two epochs, in which the streams take turns even where 60 is not divisible.
  order = [
      shares[i % num_streams][i // num_streams]
      for i in range(2 * NUM_RECORDS)]
  wanted = sorted(expected(records_of(source), tokenizer))
  assert sorted(order[:NUM_RECORDS]) == sorted(order[NUM_RECORDS:]) == wanted


@pytest.mark.parametrize('arm', list(ARMS))
def test_batches_do_not_depend_on_the_number_of_hosts(source, tokenizer, arm):
  config = dataclasses.replace(
      CONFIG, num_streams=4, packing_bins=3, prune_fraction=0.3)
  make = functools.partial(
      train, source, tokenizer, config, batch_size=8,
      arm=ARMS[arm])
  whole = take(make(), 12)
  assert whole[0]['tokens'].shape == (8, CONFIG.sequence_length)
  for num_hosts in (2, 4):
    shares = [
        take(make(num_hosts=num_hosts, host_index=i), 12)
        for i in range(num_hosts)]
    assert_same(joined(*shares), whole)


def test_one_stream_is_the_plain_pipeline(source, tokenizer):
  """Written out with grain: results with one stream stay what they were."""
  found = take(train(source, tokenizer, batch_size=3), 10)
  examples = []
  for tokens, weights in expected(records_of(source), tokenizer):
    example = np.empty(len(weights), examples_lib.POSITION)
    example['tokens'], example['targets'] = tokens[:-1], tokens[1:]
    example['weights'] = weights
    examples.append({'example': example})
  rows = grain.experimental.FirstFitPackIterDataset(
      grain.MapDataset.source(examples).seed(3).shuffle().repeat()
      .to_iter_dataset(grain.ReadOptions(num_threads=1)),
      length_struct={'example': CONFIG.sequence_length},
      num_packing_bins=CONFIG.packing_bins, seed=3, shuffle_bins=True)
  wanted = take(iter(rows.batch(3)), 10)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(a['tokens'], b['example']['tokens'])
    np.testing.assert_array_equal(a['loss_mask'], b['example']['weights'])


def test_another_number_of_hosts_continues(source, tokenizer):
  config = dataclasses.replace(CONFIG, num_streams=4)
  make = functools.partial(train, source, tokenizer, config, batch_size=8)
  hosts = [make(num_hosts=2, host_index=i) for i in range(2)]
  names = [host.stream_names() for host in hosts]
  assert names == [('0', '1'), ('2', '3')]
  for host in hosts:
    take(host, 7)
  saved = json.loads(json.dumps(hosts[0].get_state() | hosts[1].get_state()))
  wanted = joined(*[take(host, 5) for host in hosts])
  for num_hosts in (1, 4):
    fresh = [make(num_hosts=num_hosts, host_index=i) for i in range(num_hosts)]
    for host in fresh:
      host.set_state(saved)
    assert_same(joined(*[take(host, 5) for host in fresh]), wanted)
  with pytest.raises(ValueError, match='state of stream 2, 3 missing'):
    make().set_state(hosts[0].get_state())


def test_eval_hosts_see_the_same_number_of_batches(source, tokenizer):
  whole = evaluate(source, tokenizer, batch_size=6)
  shares = [
      evaluate(source, tokenizer, batch_size=6, num_hosts=2, host_index=i)
      for i in range(2)]
  assert_same(joined(*shares), whole)
  assert_same(evaluate(source, tokenizer, batch_size=6), whole)


def test_the_last_eval_batch_is_filled_with_zero_rows(source, tokenizer):
  batches = evaluate(source, tokenizer, batch_size=1000)
  assert len(batches) == 1
  is_used = batches[0]['segment_ids'].any(axis=1)
  assert 0 < is_used.sum() < 1000
  assert not is_used[is_used.sum():].any()
  for name in FIELDS:
    assert not batches[0][name][~is_used].any()
  assert len(segments(batches)) == NUM_RECORDS


def test_pruned_sequences_are_mixed_in(source, tokenizer):
  config = dataclasses.replace(CONFIG, prune_fraction=0.5)
  full = set(expected(records_of(source), tokenizer))
  found = segments(take(train(source, tokenizer, config), 60))
  share = np.mean([example not in full for example in found])
  assert 0.1 < share < 0.5
  assert set(segments(evaluate(source, tokenizer, config))) == full


def test_dropped_records_are_counted_not_cut(source, tokenizer, caplog):
  records = records_of(source)
  records[5] = dataclasses.replace(records[5], solution=())
  lengths = [len(e[0]) for e in expected(records, tokenizer)]
  config = dataclasses.replace(CONFIG, sequence_length=60)
  with caplog.at_level(logging.INFO):
    found = segments(evaluate(records, tokenizer, config))
  assert sorted(len(tokens) for tokens, _ in found) == sorted(
      n for n in lengths if n - 1 <= 60)
  num_dropped = NUM_RECORDS - len(found)
  assert num_dropped > 0  # said whenever it has doubled
  assert [record.args[0] for record in caplog.records] == [
      2 ** i for i in range(num_dropped.bit_length())]
  batches = evaluate(records, tokenizer, arm=ARMS['solution_only'])
  assert len(segments(batches)) == NUM_RECORDS - 1


def test_no_example_at_all_is_an_error_not_an_endless_wait(source, tokenizer):
  config = dataclasses.replace(CONFIG, sequence_length=3)
  with pytest.raises(ValueError, match='no record gives an example.*too long'):
    next(train(source, tokenizer, config))
  with pytest.raises(ValueError, match='no record gives an example'):
    evaluate(source, tokenizer, config)


def test_settings_are_checked():
  values = dataclasses.asdict(CONFIG)
  assert config_lib.parse(examples_lib.DataConfig, values) == CONFIG
  for key, value in (
      ('mask', 'all'), ('prune_fraction', 1.5),
      ('sequence_length', 1), ('packing_bins', 0), ('num_streams', 0)):
    with pytest.raises(config_lib.ConfigError, match=f'config.{key}'):
      config_lib.parse(examples_lib.DataConfig, {**values, key: value})


@pytest.mark.parametrize('arm', list(ARMS))
def test_state_resumes_exactly(source, tokenizer, arm):
  config = dataclasses.replace(
      CONFIG, prune_fraction=0.3, packing_bins=5, num_streams=3)
  make = functools.partial(
      train, source, tokenizer, config, arm=ARMS[arm],
      batch_size=6)
  batches = make()
  states, found = [], []
  for _ in range(39):  # several epochs; every place within a set of rows
    states.append(batches.get_state())
    found.append(next(batches))
  for step in (0, 1, 2, 3, 7, 19, 31):
    fresh = make()
    fresh.set_state(states[step])
    assert_same(take(fresh, 8), found[step:step + 8])
  # Also back in time, on an iterator that has been used.
  batches.set_state(states[4])
  assert_same(take(batches, 8), found[4:12])


def test_worker_processes_give_the_same_and_resume(source, tokenizer):
  config = dataclasses.replace(CONFIG, num_streams=2)
  whole = take(train(source, tokenizer, config), 7)
  config = dataclasses.replace(config, num_workers=1)
  batches = train(source, tokenizer, config)
  found = take(batches, 3)
  state = json.loads(json.dumps(batches.get_state()))
  found += take(batches, 4)
  batches.close()
  assert_same(found, whole)
  fresh = train(source, tokenizer, config)
  fresh.set_state(state)
  found = take(fresh, 4)
  fresh.close()
  assert_same(found, whole[3:])
