# SPDX-License-Identifier: Apache-2.0
"""Metrics: no gap, no duplicate, the same rows in JSONL and TensorBoard."""

import hashlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.backend.event_processing import event_file_loader

from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.training import event_file
from meta_cot.training import metrics

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(params=['folder', 'bucket'])
def directory(request, tmp_path):
  """An empty folder of each kind."""
  if request.param == 'folder':
    return files.path(tmp_path / 'run')
  name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
  return files.path(f'{request.getfixturevalue("bucket")}/{name}/run')


def board(directory, tmp_path):
  """Tag -> (step, value) pairs, as TensorBoard itself reads them."""
  names = [p.name for p in (directory / 'tensorboard').iterdir()]
  assert len(names) == 1 and 'tfevents' in names[0]
  copy = tmp_path / 'copy' / names[0]
  copy.parent.mkdir(exist_ok=True)
  copy.write_bytes((directory / 'tensorboard' / names[0]).read_bytes())
  accumulator = event_accumulator.EventAccumulator(
      str(copy), size_guidance={'scalars': 0})
  accumulator.Reload()
  return {
      tag: [(e.step, e.value) for e in accumulator.Scalars(tag)]
      for tag in accumulator.Tags()['scalars']}


def rows_of(directory):
  return metrics.read(directory / 'metrics.jsonl')


def test_rows_are_in_both_places(directory, tmp_path):
  writer = metrics.MetricsWriter(directory, 0)
  for step in range(1, 6):
    writer.write(step, {'loss': 1 / step, 'seconds/step': float(step)})
  writer.close()
  assert rows_of(directory) == [
      {'step': s, 'loss': 1 / s, 'seconds/step': float(s)}
      for s in range(1, 6)]
  read = board(directory, tmp_path)
  assert list(read) == ['loss', 'seconds/step']
  assert read['seconds/step'] == [(s, float(s)) for s in range(1, 6)]
  assert read['loss'] == [
      (s, pytest.approx(1 / s, rel=1e-6)) for s in range(1, 6)]


def test_a_resumed_run_drops_what_comes_again(directory, tmp_path):
  for start in (0, 4, 2, 7):
    # A kill between writing one event file and removing the other.
    files.write_atomic(
        directory / 'tensorboard' / 'events.out.tfevents.1.old',
        event_file.header(1.0))
    writer = metrics.MetricsWriter(directory, start)
    assert [row['step'] for row in writer.dropped] == (
        list(range(start + 1, 10)) if start else [])
    for step in range(start + 1, 10):
      writer.write(step, {'loss': 100.0 * start + step})
    writer.close()
  expected = [(s, float(s)) for s in (1, 2)] + [
      (s, 200.0 + s) for s in range(3, 8)] + [(s, 700.0 + s) for s in (8, 9)]
  assert [(r['step'], r['loss']) for r in rows_of(directory)] == expected
  assert board(directory, tmp_path)['loss'] == expected


def test_what_is_synced_is_there(directory, tmp_path):
  writer = metrics.MetricsWriter(directory, 0)
  assert rows_of(directory) == []
  writer.write(1, {'loss': 1.0})
  writer.sync()
  assert rows_of(directory) == [{'step': 1, 'loss': 1.0}]
  assert board(directory, tmp_path) == {'loss': [(1, 1.0)]}
  writer.write(2, {'loss': 2.0})
  if not files.is_remote(directory):
    assert len(rows_of(directory)) == 2  # a kill loses nothing
  writer.close()
  assert len(rows_of(directory)) == 2


def test_only_the_primary_process_writes(directory, monkeypatch):
  monkeypatch.setattr(distributed, 'is_primary', lambda: False)
  writer = metrics.MetricsWriter(directory, 0)
  writer.write(1, {'loss': 1.0})
  writer.sync()
  writer.close()
  assert not directory.exists()


def test_a_kill_loses_no_row_and_a_torn_row_is_dropped(tmp_path):
  script = (
      'import sys, time; from meta_cot.training import metrics\n'
      'writer = metrics.MetricsWriter(sys.argv[1], 0)\n'
      'for step in range(1, 40):\n'
      '  writer.write(step, {"loss": 1.0 / step})\n'
      'print("go", flush=True); time.sleep(60)')
  process = subprocess.Popen(
      [sys.executable, '-c', script, str(tmp_path)], cwd=ROOT,
      stdout=subprocess.PIPE)
  process.stdout.readline()
  process.kill()
  assert process.wait() == -signal.SIGKILL
  path = tmp_path / 'metrics.jsonl'
  assert [row['step'] for row in metrics.read(path)] == list(range(1, 40))
  with open(path, 'a') as f:
    f.write('{"step": 40, "lo')
  assert [row['step'] for row in metrics.read(path)] == list(range(1, 40))
  metrics.MetricsWriter(tmp_path, 39).close()
  assert path.read_text().count('\n') == 39
  assert len(board(tmp_path, tmp_path)['loss']) == 39
  assert sorted(os.listdir(tmp_path)) == [
      'copy', 'metrics.jsonl', 'tensorboard']


def test_a_damaged_row_is_named(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(
      config_lib.UserError, match=r'metrics\.jsonl:2: not a row') as error:
    metrics.read(tmp_path / 'metrics.jsonl')
  assert '\n' not in str(error.value)
  assert metrics.read(tmp_path / 'none.jsonl') == []


def test_writing_metrics_needs_no_torch():
  script = (
      'import sys; from meta_cot.training import metrics\n'
      'print({"torch", "tensorboardX"} & set(sys.modules))')
  result = subprocess.run(
      [sys.executable, '-c', script], cwd=ROOT, check=True,
      capture_output=True, text=True)
  assert result.stdout == 'set()\n'


@given(st.lists(st.tuples(
    st.integers(0, 2**62),
    st.dictionaries(
        st.text(min_size=1), st.floats(allow_nan=False), max_size=5)),
    max_size=5))
def test_any_scalars_are_read_back(tmp_path_factory, events):
  path = tmp_path_factory.mktemp('events') / 'a.tfevents'
  path.write_bytes(event_file.header(1.5) + b''.join(
      event_file.scalars(step, values, 2.5) for step, values in events))
  first, *read = event_file_loader.RawEventFileLoader(str(path)).Load()
  from tensorboard.compat.proto import event_pb2
  parse = event_pb2.Event.FromString
  assert parse(first).file_version == 'brain.Event:2'
  assert parse(first).wall_time == 1.5
  assert len(read) == len(events)
  for event, (step, values) in zip(map(parse, read), events):
    assert (event.step, event.wall_time) == (step, 2.5)
    assert [v.tag for v in event.summary.value] == list(values)
    with np.errstate(over='ignore'):
      assert [v.simple_value for v in event.summary.value] == [
          np.float32(value) for value in values.values()]


def test_checksums_of_rfc_3720():
  assert event_file.crc32c(bytes(32)) == 0x8A9136AA
  assert event_file.crc32c(b'\xff' * 32) == 0x62A8AB43
  assert event_file.crc32c(bytes(range(32))) == 0x46DD794E
  assert event_file.crc32c(b'') == 0


def test_not_a_number_is_kept(tmp_path):
  writer = metrics.MetricsWriter(tmp_path, 0)
  writer.write(1, {'loss': math.nan, 'grad_norm': math.inf})
  writer.close()
  row, = metrics.read(tmp_path / 'metrics.jsonl')
  assert math.isnan(row['loss']) and math.isinf(row['grad_norm'])
  assert json.loads(
      (tmp_path / 'metrics.jsonl').read_text())['grad_norm'] == math.inf
  assert math.isnan(board(tmp_path, tmp_path)['loss'][0][1])
