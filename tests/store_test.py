# SPDX-License-Identifier: Apache-2.0
"""Trace store: resumable, checked, the same bytes however it was made."""

import functools
import json
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import pytest

from data_pipelines import store
from meta_cot.runtime import files
from tests import store_records as records

ROOT = pathlib.Path(__file__).parent.parent


def make_with_failures(start, stop):
  for index in range(start, stop):
    if index in (0, 7, 8, records.NUM_RECORDS - 1):
      raise ValueError(f'no search\nfor {index}')
    yield records.make_record(index)


def make_list_with_failures(start, stop):
  return list(make_with_failures(start, stop))


def make_too_few(start, stop):
  yield from records.make_records(start, stop - 1)


def test_records_come_back_in_order(tmp_path):
  manifest = records.generate(tmp_path)
  source = store.read(tmp_path, 'train')
  assert len(source) == records.NUM_RECORDS
  assert [source[i] for i in range(len(source))] == [
      records.make_record(i) for i in range(records.NUM_RECORDS)]
  split = manifest.splits['train']
  assert split.counts == {
      'num_solved': 8, 'num_nodes': 2 * records.NUM_RECORDS}
  assert split.arguments['seed'] == 1
  assert [s.num_records for s in split.shards] == [5, 6, 6, 6]
  assert store.read(tmp_path, 'train')[22] == pickle.loads(
      pickle.dumps(source))[22]
  with pytest.raises(IndexError, match='record 23 of 23'):
    source[23]
  assert store.read_manifest(tmp_path) == manifest
  assert sorted(records.contents(tmp_path)) == ['manifest.json'] + [
      f'train-0000{i}-of-00004.array_record' for i in range(4)]


def test_workers_write_the_same_bytes_without_jax(tmp_path):
  records.generate(tmp_path / 'one')
  records.generate(tmp_path / 'many', num_processes=2)
  assert records.contents(tmp_path / 'many') == records.contents(
      tmp_path / 'one')
  script = 'import sys; from data_pipelines import store; print(*sys.modules)'
  result = subprocess.run(
      [sys.executable, '-c', script], cwd=ROOT, check=True,
      capture_output=True, text=True)
  assert 'jax' not in result.stdout.split()
  assert 'array_record' in result.stdout.split()


def test_a_rerun_does_nothing_and_a_lost_shard_is_made_again(tmp_path):
  records.generate(tmp_path)
  before = records.contents(tmp_path)
  again = records.generate(tmp_path, functools.partial(records.make_nothing))
  assert records.contents(tmp_path) == before
  assert again == store.read_manifest(tmp_path)
  shards = sorted(tmp_path.glob('*.array_record'))
  shards[0].unlink()
  shards[1].write_bytes(shards[1].read_bytes()[:-1])
  records.generate(tmp_path)
  assert records.contents(tmp_path) == before


def test_small_and_empty_splits(tmp_path):
  records.generate(tmp_path, num_records=2, num_shards=4)
  records.generate(tmp_path, split='none', num_records=0)
  assert len(list(tmp_path.glob('train-*-of-00002.array_record'))) == 2
  assert len(store.read(tmp_path, 'train')) == 2
  assert len(store.read(tmp_path, 'none')) == 0


def test_splits_share_a_manifest(tmp_path):
  records.generate(tmp_path)
  records.generate(tmp_path, split='heldout', num_records=3, num_shards=1)
  assert len(store.read(tmp_path, 'train')) == records.NUM_RECORDS
  assert len(store.read(tmp_path, 'heldout')) == 3
  with pytest.raises(ValueError, match="'test'; it has heldout, train"):
    store.read(tmp_path, 'test')


def test_a_directory_holds_records_of_one_kind(tmp_path):
  records.generate(tmp_path, num_records=2)
  problems = [records.make_record(i).problem for i in range(3)]
  make = functools.partial(_slice, problems)
  with pytest.raises(ValueError, match="kind 'trace', now asked for 'problem'"):
    records.generate(
        tmp_path, make, kind='problem', split='other', num_records=3)
  manifest = records.generate(
      tmp_path / 'p', make, kind='problem', num_records=3)
  assert (manifest.kind, manifest.splits['train'].counts) == ('problem', {})
  source = store.read(tmp_path / 'p', 'train')
  assert [source[i] for i in range(3)] == problems


def _slice(items, start, stop):
  return items[start:stop]


@pytest.mark.parametrize('seconds', [0.0, 0.15, 0.4, 0.9])
def test_killed_at_any_moment_then_rerun_gives_the_same_files(
    tmp_path, seconds):
  script = (
      'from tests import store_records as records\n'
      'print("go", flush=True)\n'
      f'records.generate({str(tmp_path / "killed")!r}, '
      'records.make_slowly)\n')
  process = subprocess.Popen(
      [sys.executable, '-c', script], cwd=ROOT, stdout=subprocess.PIPE)
  process.stdout.readline()
  time.sleep(seconds)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  killed = tmp_path / 'killed'
  killed.mkdir(exist_ok=True)
  assert not (killed / 'manifest.json').exists()
  finished = len(list(killed.glob('train-*')))
  assert finished < 4
  (killed / '.train-00003-of-00004.array_record.tmp-1').write_bytes(b'torn')
  files.remove_temporaries(killed)  # as a run does when it begins
  records.generate(killed)
  records.generate(tmp_path / 'whole')
  assert records.contents(killed) == records.contents(tmp_path / 'whole')


def test_workers_end_with_a_killed_parent(tmp_path):
  script = (
      'from tests import store_records as records\n'
      f'records.generate({str(tmp_path / "killed")!r}, '
      'records.make_slowly, num_shards=12, num_processes=2)\n')
  process = subprocess.Popen([sys.executable, '-c', script], cwd=ROOT)
  killed = tmp_path / 'killed'
  while process.poll() is None and not list(killed.glob('train-*')):
    time.sleep(0.01)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  time.sleep(0.2)
  before = records.contents(killed)
  time.sleep(0.6)  # time enough for several more shards
  assert records.contents(killed) == before
  assert 0 < len(list(killed.glob('train-*'))) < 12
  files.remove_temporaries(killed)
  records.generate(killed, num_shards=12)
  records.generate(tmp_path / 'whole', num_shards=12)
  assert records.contents(killed) == records.contents(tmp_path / 'whole')


def test_finished_shards_of_an_interrupted_run_are_kept(tmp_path):
  def stop_late(start, stop):
    if start >= 11:
      raise KeyboardInterrupt
    return records.make_records(start, stop)

  with pytest.raises(KeyboardInterrupt):
    records.generate(tmp_path, stop_late)
  shards = sorted(tmp_path.glob('train-*'))
  times = [p.stat().st_mtime_ns for p in shards]
  assert len(shards) == 2
  with pytest.raises(ValueError, match='seed=1, now asked for seed=2'):
    records.generate(tmp_path, arguments={'strategy': 'dfs', 'seed': 2})
  records.generate(tmp_path)
  assert [p.stat().st_mtime_ns for p in shards] == times


@pytest.mark.parametrize('make', [make_with_failures, make_list_with_failures])
def test_failed_records_are_counted_and_listed(tmp_path, make):
  split = records.generate(tmp_path, make).splits['train']
  assert split.num_records == records.NUM_RECORDS - 4
  assert split.num_failures == 4
  failures = [f for shard in split.shards for f in shard.failures]
  assert [f['index'] for f in failures] == [0, 7, 8, 22]
  assert failures[1]['reason'] == 'no search for 7'
  source = store.read(tmp_path, 'train')
  assert [source[i].seed for i in range(len(source))] == [
      i for i in range(records.NUM_RECORDS) if i not in (0, 7, 8, 22)]


def test_wrong_use_is_refused_in_one_line(tmp_path):
  records.generate(tmp_path / 'a')
  for changes, message in (
      ({'arguments': {'strategy': 'bfs', 'seed': 1}},
       "made with strategy='dfs', now asked for strategy='bfs'"),
      ({'arguments': {'seed': 1}}, "now asked for strategy='.absent.'"),
      ({'num_shards': 5}, 'num_shards=4, now asked for num_shards=5'),
      ({'num_records': 24}, 'num_records=23'),
      ({'split': '../x'}, 'split=')):
    with pytest.raises(ValueError, match=message) as error:
      records.generate(tmp_path / 'a', **changes)
    assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match='gave 4 records; it must give 5'):
    records.generate(tmp_path / 'b', make_too_few)
  with pytest.raises(ValueError, match='no record could be made'):
    records.generate(tmp_path / 'c', records.make_nothing)
  records.generate(tmp_path / 'c')
  assert records.contents(tmp_path / 'c') == records.contents(tmp_path / 'a')


def test_damage_is_found_on_reading(tmp_path):
  with pytest.raises(ValueError, match='manifest.json: no such file'):
    store.read(tmp_path, 'train')
  records.generate(tmp_path)
  path = tmp_path / 'train-00002-of-00004.array_record'
  whole = path.read_bytes()
  for content, message in (
      (whole[:-1], 'bytes, the manifest says'),
      (whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], 'sha256')):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'{path.name}: .*{message}'):
      store.read(tmp_path, 'train')
  path.unlink()
  with pytest.raises(ValueError, match=f'{path.name}: missing'):
    store.read(tmp_path, 'train')
  manifest = json.loads((tmp_path / 'manifest.json').read_text())
  split = manifest['splits']['train']
  for raw, message in (
      ({'schema': 99}, 'schema 99, this version reads 2'),
      ({'schema': 2, 'kind': 'x', 'splits': {}}, "records.kind: got 'x'"),
      ({'schema': 2, 'splits': {'train': {}}}, "has no 'kind'"),
      (manifest | {'splits': {'train': {}}}, "a split: has no 'num_records'"),
      (manifest | {'splits': {'train': split | {'shards': [3]}}},
       'not a shard: must be an object, is int'),
      (manifest | {'splits': {'train': split | {'shards': [
          split['shards'][0] | {'file': '../x'}]}}}, "'../x' is not bes"),
      (manifest | {'splits': {'train': split | {'x': 1}}}, "an unknown 'x'"),
      ([], 'must be an object, is list')):
    (tmp_path / 'manifest.json').write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=f'manifest.json: .*{message}'):
      store.read(tmp_path, 'train')
  (tmp_path / 'manifest.json').write_text('{"schema": 1,\n')
  with pytest.raises(ValueError, match=r'manifest.json:2: not valid JSON'):
    store.read(tmp_path, 'train')
