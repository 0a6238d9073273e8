# SPDX-License-Identifier: Apache-2.0
"""Files, traces, metrics and the workdir, in folders and in a bucket.

The bucket is an emulator of Google Cloud Storage in a process of its own,
reached over HTTP by the same packages as a pod's bucket.
"""

import functools
import hashlib
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time

import ml_collections
import pytest

from data_pipelines import store
from data_pipelines import tokenizers
from data_pipelines.tokenizers import sentencepiece
from meta_cot.evaluation import plots
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import workdir as workdir_lib
from tests import store_records as records

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def remote(bucket, request):
  """An empty folder of the bucket."""
  name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
  return files.path(f'{bucket}/{name}/run')


@pytest.fixture(params=['folder', 'bucket'])
def directory(request, tmp_path):
  """An empty folder of each kind."""
  if request.param == 'folder':
    return files.path(tmp_path / 'run')
  return request.getfixturevalue('remote')


def test_a_file_is_written_whole_replaced_and_removed(directory):
  path = directory / 'deep' / 'er' / 'a.json'
  assert not path.exists()
  assert files.size(path) is None
  assert files.matching(path.parent, '*') == []
  files.write_json(path, {'b': [1, 2]})
  assert files.read_json(path) == {'b': [1, 2]}
  assert files.size(path) == len(path.read_bytes())
  files.write_atomic(path, 'short')
  assert path.read_text() == 'short'
  files.write_atomic(path, b'')
  assert path.exists() and files.size(path) == 0
  large = os.urandom(6_000_000)
  files.write_atomic(path, large)
  assert path.read_bytes() == large
  assert [p.name for p in path.parent.iterdir()] == ['a.json']
  path.unlink()
  path.unlink(missing_ok=True)
  assert not path.exists()


def test_names_are_matched_with_their_dots(directory):
  for name in ('.a.json', 'a.json', 'b.json', 'sub/c.json'):
    files.write_atomic(directory / name, '{}')
  names = lambda pattern: [
      p.name for p in files.matching(directory, pattern)]
  assert names('*.json') == ['.a.json', 'a.json', 'b.json']
  assert names('.*') == ['.a.json']
  assert names('s*') == ['sub']


def test_what_another_host_wrote_is_seen_at_once(remote):
  files.write_atomic(remote / 'mine', '1')
  assert [p.name for p in remote.iterdir()] == ['mine']
  script = (
      'import sys; from meta_cot.runtime import files\n'
      'files.write_atomic(sys.argv[1] + "/theirs", "2")\n'
      'files.write_atomic(sys.argv[1] + "/mine", "22")')
  subprocess.run(
      [sys.executable, '-c', script, str(remote)], cwd=ROOT, check=True)
  assert records.contents(remote) == {'mine': b'22', 'theirs': b'2'}
  assert (remote / 'theirs').exists()
  assert files.size(remote / 'mine') == 2
  assert [p.name for p in files.matching(remote, 't*')] == ['theirs']


def test_paths():
  assert files.is_remote('gs://b/run') and not files.is_remote('runs/a')
  assert str(files.path('runs/a')) == str(pathlib.Path('runs/a').absolute())
  assert str(files.path('gs://b') / 'x' / 'y.z') == 'gs://b/x/y.z'
  assert files.path(pathlib.Path('a')).name == 'a'
  remote = files.path('gs://b/run')
  assert pickle.loads(pickle.dumps(remote)) == remote
  with pytest.raises(ValueError, match='gs:/b/run: one slash'):
    files.path(pathlib.Path('gs://b/run'))


def test_a_bucket_without_its_package_is_a_clear_error():
  script = (
      'import importlib.util; from meta_cot.runtime import files\n'
      'importlib.util.find_spec = lambda name: None\n'
      'files.path("gs://b/x")')
  result = subprocess.run(
      [sys.executable, '-c', script], cwd=ROOT, capture_output=True,
      text=True, check=False)
  assert result.stderr.splitlines()[-1].endswith(
      "gs://b/x: needs the package gcsfs; pip install 'meta-cot[gcs]'.")


def test_local_writes_leave_nothing_behind(tmp_path):
  path = tmp_path / 'a'
  path.mkdir()
  with pytest.raises(OSError):  # a file cannot replace a folder
    files.write_atomic(path, 'x')
  assert list(tmp_path.iterdir()) == [path]


def test_temporaries_of_killed_writers_are_removed(tmp_path):
  kept = ['.hidden', 'a.tmp-1', '.tmp-1', '.b.tmp-x', 'run/c.json']
  for name in [*kept, '.a.json.tmp-12', 'run/..b.json.tmp-3']:
    files.write_atomic(tmp_path / name, 'x')
  files.remove_temporaries(tmp_path)
  assert sorted(
      p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*')
      if p.is_file()) == sorted(kept)


def test_growing_files(directory, monkeypatch):
  path = directory / 'a.log'
  appender = files.Appender(path, b'0\n')
  assert path.read_bytes() == b'0\n'
  appender.append(b'1\n')
  if not files.is_remote(path):
    assert path.read_bytes() == b'0\n1\n'  # a kill loses nothing
  appender.sync()
  assert path.read_bytes() == b'0\n1\n'
  monkeypatch.setattr(files, '_UPLOAD_SECONDS', 0.0)
  appender.append(b'2\n')
  assert path.read_bytes() == b'0\n1\n2\n'
  appender.append(b'3\n')
  appender.close()
  assert path.read_bytes() == b'0\n1\n2\n3\n'


def test_the_store_in_a_bucket_is_the_same_bytes(remote, tmp_path):
  records.generate(tmp_path)
  manifest = records.generate(remote, num_processes=2)
  assert records.contents(remote) == records.contents(tmp_path)
  assert manifest == store.read_manifest(tmp_path)
  source = store.read(remote, 'train')
  assert [source[i] for i in range(len(source))] == [
      records.make_record(i) for i in range(records.NUM_RECORDS)]
  assert records.generate(
      remote, records.make_nothing).splits == manifest.splits
  assert not [
      p for p in files.cache_folder().iterdir() if 'tmp' in p.name]


def test_damage_in_a_bucket_is_found_and_mended(remote, tmp_path, monkeypatch):
  records.generate(remote)
  before = records.contents(remote)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'another host'))
  path = remote / 'train-00002-of-00004.array_record'
  flipped = bytearray(before[path.name])
  flipped[100] ^= 1
  for damage, message in (
      (lambda: files.write_atomic(path, bytes(flipped)), 'sha256'),
      (lambda: files.write_atomic(path, before[path.name][:-1]), 'bytes, the'),
      (path.unlink, 'missing')):
    damage()
    with pytest.raises(
        config_lib.UserError, match=f'{path.name}: .*{message}'):
      store.read(remote, 'train')
    records.generate(remote)
    assert records.contents(remote) == before
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / message))
  assert len(store.read(remote, 'train')) == records.NUM_RECORDS


def test_a_host_fetches_a_shard_once(remote, tmp_path, monkeypatch):
  records.generate(remote)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  store.read(remote, 'train')
  copies = sorted(files.cache_folder().iterdir())
  times = [p.stat().st_mtime_ns for p in copies]
  assert [hashlib.sha256(p.read_bytes()).hexdigest() for p in copies] == [
      p.name for p in copies]
  store.read(remote, 'train')
  assert [p.stat().st_mtime_ns for p in copies] == times
  copies[0].write_bytes(b'damaged copy')
  source = store.read(remote, 'train')
  assert source[0] == records.make_record(0)
  assert [hashlib.sha256(p.read_bytes()).hexdigest() for p in copies] == [
      p.name for p in copies]


@pytest.mark.parametrize('seconds', [0.3, 1.0])
def test_killed_while_writing_to_a_bucket(remote, tmp_path, seconds):
  script = (
      'from tests import store_records as records\n'
      'from meta_cot.runtime import files\n'
      f'files.write_atomic({str(remote / "started")!r}, "")\n'
      f'records.generate({str(remote)!r}, records.make_slowly)\n')
  process = subprocess.Popen([sys.executable, '-c', script], cwd=ROOT)
  while process.poll() is None and not (remote / 'started').exists():
    time.sleep(0.01)
  time.sleep(seconds)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  (remote / 'started').unlink()
  assert not (remote / 'manifest.json').exists()
  records.generate(remote)
  records.generate(tmp_path)
  assert records.contents(remote) == records.contents(tmp_path)
  assert not [
      p for p in files.cache_folder().iterdir() if 'tmp' in p.name]


def _on_hosts(num_hosts, work):
  """Runs work(host_index, wait) on threads; returns results in order."""
  barrier, results = threading.Barrier(num_hosts), {}
  names = [[] for _ in range(num_hosts)]

  def host(index):
    def wait(name):
      names[index].append(name)
      barrier.wait(60)

    try:
      results[index] = work(index, wait)
    except BaseException:
      barrier.abort()
      raise

  threads = [
      threading.Thread(target=host, args=(i,)) for i in range(num_hosts)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len({tuple(n) for n in names}) == 1
  assert len(set(names[0])) == len(names[0])
  return [results[i] for i in range(num_hosts)]


@pytest.mark.parametrize('num_hosts', [2, 3, 5])
def test_any_number_of_hosts_writes_the_same_files(
    directory, tmp_path, num_hosts):
  whole = records.generate(tmp_path / 'whole')
  made = [[] for _ in range(num_hosts)]

  def make(index, start, stop):
    made[index].append(start)
    return records.make_records(start, stop)

  manifests = _on_hosts(num_hosts, lambda index, wait: records.generate(
      directory, functools.partial(make, index), host_index=index,
      num_hosts=num_hosts, wait=wait))
  assert records.contents(directory) == records.contents(tmp_path / 'whole')
  assert manifests == [whole] * num_hosts
  starts = [0, 5, 11, 17]
  assert made == [starts[h::num_hosts] for h in range(num_hosts)]


def test_hosts_finish_what_other_hosts_left(directory, tmp_path):
  def stop_late(start, stop):
    if start >= 11:
      raise KeyboardInterrupt
    return records.make_records(start, stop)

  with pytest.raises(KeyboardInterrupt):
    records.generate(directory, stop_late)
  assert len(files.matching(directory, 'train-*')) == 2
  made = []

  def make(start, stop):
    made.append(start)
    return records.make_records(start, stop)

  _on_hosts(2, lambda index, wait: records.generate(
      directory, make, host_index=index, num_hosts=2, wait=wait))
  records.generate(tmp_path / 'whole')
  assert records.contents(directory) == records.contents(tmp_path / 'whole')
  assert sorted(made) == [11, 17]
  files.matching(directory, 'train-*')[3].unlink()
  _on_hosts(3, lambda index, wait: records.generate(
      directory, host_index=index, num_hosts=3, wait=wait))
  assert records.contents(directory) == records.contents(tmp_path / 'whole')


def test_a_host_leaves_alone_what_another_is_writing(tmp_path):
  name = '.train-{:05d}-of-00004.array_record.tmp-1'
  waited = []

  def wait(label):
    waited.append(label)
    raise TimeoutError

  for i in (0, 2):
    files.write_atomic(tmp_path / name.format(i), 'being written')
  with pytest.raises(TimeoutError):
    records.generate(tmp_path, host_index=1, num_hosts=2, wait=wait)
  assert sorted(p.name for p in tmp_path.glob('.*.tmp-*')) == [
      name.format(0), name.format(2)]
  assert len(list(tmp_path.glob('train-*'))) == 2
  assert not (tmp_path / 'manifest.json').exists()
  assert waited == [f'{tmp_path.name}/train: shards']


def test_hosts_with_different_folders_are_told(tmp_path):
  with pytest.raises(
      config_lib.UserError, match='00001-of-00004.* need the same --workdir'):
    records.generate(
        tmp_path, host_index=0, num_hosts=2, wait=lambda name: None)


def test_tokenizers(directory):
  folder = directory / 'tokenizer'
  with pytest.raises(config_lib.UserError, match=f'{folder}: no tokenizer'):
    tokenizers.load(folder)
  made = sentencepiece.train(['1+2=3\n', '4*5=20\n'], 64)
  made.save(folder)
  assert tokenizers.load(str(folder)).fingerprint == made.fingerprint
  path = folder / 'tokenizer.model'
  files.write_atomic(path, b'no model')
  with pytest.raises(config_lib.UserError, match=f'{path}: .*8 bytes'):
    tokenizers.load(folder)


def test_the_workdir_knows_its_config(directory):
  config = ml_collections.ConfigDict({'schema': 2, 'seed': 1})
  assert workdir_lib.claim(directory, config, is_writer=False) == directory
  assert not (directory / 'config.json').exists()
  assert workdir_lib.claim(str(directory), config) == directory
  config.seed = 2  # what it changes, marks say
  assert workdir_lib.claim(directory, config) == directory
  assert files.read_json(directory / 'config.json')['seed'] == 2
  files.write_json(directory / 'config.json', {'seed': 1})
  for is_writer in (True, False):
    with pytest.raises(config_lib.UserError, match='has schema 1'):
      workdir_lib.claim(directory, config, is_writer=is_writer)


def test_marks(directory):
  mark = lambda rate: dict(
      settings=dict(sft=dict(rate=rate)), shared={}, grown={}, reads={})
  files.write_atomic(directory / 'sft' / 'a', 'x')
  assert workdir_lib.begin(directory, 'sft', mark(1)) == []
  assert not workdir_lib.is_done(directory, 'sft', mark(1))
  workdir_lib.finish(directory, 'sft', mark(1))
  assert workdir_lib.is_done(directory, 'sft', mark(1))
  assert not workdir_lib.is_done(directory, 'sft', mark(2))
  assert (directory / 'sft' / 'a').exists()
  assert workdir_lib.begin(directory, 'sft', mark(2)) == [
      'config.sft.rate: 1 before, 2 now']
  assert not (directory / 'sft' / 'a').exists()
  assert not workdir_lib.is_done(directory, 'sft', mark(1))


def test_a_workdir_that_cannot_be_written(tmp_path, bucket):
  del bucket
  config = ml_collections.ConfigDict({'seed': 1})
  (tmp_path / 'file').write_text('')
  for workdir in (tmp_path / 'file' / 'run', 'gs://no-such-bucket/run'):
    with pytest.raises(
        config_lib.UserError, match='--workdir: cannot write in ') as error:
      workdir_lib.claim(workdir, config)
    assert str(workdir) in str(error.value)
    assert '\n' not in str(error.value)


def test_figures(directory):
  path = directory / 'eval' / 'loss.png'
  plots.loss_curves(path, {'a': [(1, 3.0), (2, 2.0)]})
  assert path.read_bytes().startswith(b'\x89PNG')
