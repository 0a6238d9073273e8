# SPDX-License-Identifier: Apache-2.0
"""What a run finds damaged is made again, or named in one line."""

import dataclasses
import errno
import functools
import os
import pathlib
import re
import subprocess
import sys

import ml_collections
import pytest

from configs import countdown
from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import main
from meta_cot.runtime import files
from meta_cot.runtime import hardware
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import workdir as workdir_lib

STAGES = ('problems', 'traces', 'tokenizer')


def _experiment(**changes) -> experiment_lib.Experiment:
  config = countdown.get_config('tiny')
  config.task.max_number = 7
  for group in (config.problems, config.traces):
    group.num_shards, group.num_processes = 2, 1
  config.update_from_flattened_dict(changes)
  return experiment_lib.parse(config)


def _context(workdir) -> base.Context:
  experiment = _experiment()
  return base.Context(
      experiment.shared, experiment.groups, workdir=files.path(workdir))


def _make(context) -> list[str]:
  """Runs the first stages; the names of those that had work to do."""
  made = []

  def work(stage, *arguments):
    made.append(arguments[-1].name)
    stage.run(*arguments)

  for name in STAGES:
    group = context.groups[name]
    main.run(context, dataclasses.replace(group, stage=dataclasses.replace(
        group.stage, run=functools.partial(work, group.stage))))
  return made


def _content(workdir) -> dict[str, bytes]:
  return {str(p.relative_to(workdir)): p.read_bytes()
          for p in pathlib.Path(workdir).rglob('*') if p.is_file()}


@pytest.fixture(name='made')
def _made(tmp_path):
  context = _context(tmp_path / 'w')
  assert _make(context) == list(STAGES)
  assert _make(context) == []
  return context, _content(context.workdir)


def test_what_is_missing_or_damaged_is_made_again(made):
  context, before = made
  some = [
      name for name in before
      if name.startswith(STAGES) and not re.search('heldout|sha256', name)]
  assert len(some) == 2 * (2 * 2 + 1) + 1
  for name in some:
    data = before[name]
    is_manifest = name.endswith('manifest.json')
    for damaged in (  # half a tokenizer may be one too
        None, data[:-1], data[:len(data) // 2], data[:9] + b'?' + data[10:],
        b''):
      if is_manifest and damaged is not None:
        continue
      path = context.workdir / name
      path.unlink()
      if damaged is not None:
        path.write_bytes(damaged)
      assert _make(context) == [name.partition('/')[0]], name
      assert _content(context.workdir) == before


def test_a_damaged_manifest_is_named_and_the_advice_works(made):
  context, before = made
  path = context.workdir / 'traces' / 'manifest.json'
  for damaged in (b'{', b'\xff\xfe', b'[1, 2]', b'null'):
    path.write_bytes(damaged)
    assert not store.is_whole(path.parent, 'train')
    with pytest.raises(config_lib.UserError, match='delete the file') as error:
      _make(context)
    assert str(path) in str(error.value)
    path.unlink()
    assert _make(context) == ['traces']
    assert _content(context.workdir) == before


def test_a_finished_stage_without_its_files_is_not_whole(tmp_path):
  context = _context(tmp_path)
  tokens = context.groups['sft'].settings.num_tokens

  def is_whole(name):
    group = context.groups[name]
    return group.stage.is_whole(
        context, group.settings, context.workdir / name)

  for name, file, text in (
      ('sft', '{}/summary.json', f'{{"asked": {{"num_tokens": {tokens}}}}}'),
      ('evaluate', 'summary.json', '{}'), ('evaluate', 'report.md', '')):
    group = context.groups[name]
    for part in group.stage.leaves(group.settings) or ('',):
      assert not is_whole(name)
      files.write_atomic(context.workdir / name / file.format(part), text)
  assert is_whole('sft') and is_whole('evaluate')


@pytest.mark.parametrize('text', [b'[1,2]', b'null', b'\xff\xfe{', b'3', b'{'])
def test_a_config_that_is_none_is_named(tmp_path, text):
  (tmp_path / 'config.json').write_bytes(text)
  config = ml_collections.ConfigDict({'seed': 1})
  with pytest.raises(config_lib.UserError) as error:
    workdir_lib.claim(tmp_path, config)
  message = str(error.value)
  assert str(tmp_path / 'config.json') in message and '\n' not in message


def test_a_tokenizer_to_reuse_is_looked_at_before_any_work(tmp_path, made):
  folder = made[0].workdir / 'tokenizer'
  path = 'tokenizer.vocabulary.path'
  model = str(folder / 'tokenizer.model')
  _experiment(**{path: model})
  for there, message in (
      (str(tmp_path / 'none'), 'tokenizer: path: .*no such file'),
      ('', "config.tokenizer.vocabulary.path: got ''")):
    with pytest.raises(config_lib.UserError, match=message):
      _experiment(**{path: there})
  assert tokenizers.load(folder).vocab_size > 32
  with pytest.raises(config_lib.UserError, match='config.model.vocab_size'):
    _experiment(**{
        path: model, 'model.vocab_size': 32,
        'tokenizer.vocabulary.vocab_size': 32})


def _no_space(*_):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize('error', [
    OSError(errno.ENOSPC, 'No space left on device', '/disk/x'),
    OSError(errno.EDQUOT, 'Disk quota exceeded', '/disk/x'),
    RuntimeError('No space left on device; writing /disk/x'),
    ValueError('RESOURCE_EXHAUSTED: Error writing "step/0" at local file\n'
               '"/disk/": Failed writing: "/disk/x": No space left')])
def test_a_full_disk_is_one_line(tmp_path, error):
  with pytest.raises(config_lib.UserError) as caught:
    with workdir_lib.no_room(tmp_path, 12_345_678):
      raise error
  message = str(caught.value)
  assert message.startswith('/disk/x: ') and 'rerun the same command' in message
  assert 'about 12.3 MB' in message and '\n' not in message


@pytest.mark.parametrize('words', [
    'Out of memory allocating 35184372072448 bytes.',
    'XLA:TPU compile permanent error. Ran out of memory in memory space hbm.'])
def test_full_memory_is_one_line(tmp_path, words):
  with pytest.raises(config_lib.UserError, match='memory of the devices') as e:
    with workdir_lib.no_room(tmp_path, 1):
      raise RuntimeError(f'RESOURCE_EXHAUSTED: {words}\n')
  assert words[:30] in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('error', [OSError(errno.EIO, 'x'), ValueError('x')])
def test_other_errors_stay_what_they_are(tmp_path, error):
  with pytest.raises(type(error)) as caught:
    with workdir_lib.no_room(tmp_path, 12_345_678):
      raise error
  assert caught.value is error


def test_the_file_that_did_not_fit_is_named(tmp_path, monkeypatch):
  appender = files.Appender(tmp_path / 'rows', b'')
  monkeypatch.setattr(os, 'fsync', _no_space)
  for write in (
      appender.sync, lambda: files.write_atomic(tmp_path / 'rows', b'x')):
    with pytest.raises(OSError) as caught:
      write()
    assert caught.value.filename == str(tmp_path / 'rows')


def test_paths_of_a_home_and_of_a_scheme(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert str(files.path('~/x')) == f'{tmp_path}/x'
  assert str(files.path(f'file://{tmp_path}/x')) == f'{tmp_path}/x'
  assert not files.is_remote('file:///x')
  for name, words in (
      ('s3://b/r', 'gs://BUCKET/PATH'), ('~no-such-user/x', 'no such user')):
    with pytest.raises(config_lib.UserError, match=words):
      files.path(name)


def test_a_platform_that_is_not_there_is_one_line(monkeypatch):
  def fail():
    raise AssertionError

  hardware.check_platform()
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  monkeypatch.setattr(hardware.jax, 'devices', fail)
  with pytest.raises(config_lib.UserError) as error:
    hardware.check_platform()
  for words in ('JAX_PLATFORMS=cuda', 'installed: cpu', 'meta-cot[gpu]'):
    assert words in str(error.value)


def test_figures_need_no_backend_of_the_shell(tmp_path):
  program = (
      'from meta_cot.evaluation import plots\n'
      f'plots.loss_curves("{tmp_path}/a.png", {{"a": [(1, 3.0), (2, 2.0)]}})\n')
  done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True,
      env=os.environ | {'MPLBACKEND': 'module://no_such_package.backend'},
      check=False)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
