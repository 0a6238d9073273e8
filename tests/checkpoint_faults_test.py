# SPDX-License-Identifier: Apache-2.0
"""Every file of a checkpoint, damaged in every way: found out, or harmless."""

import logging
import pathlib
import shutil

import pytest

from meta_cot.training import integrity
from tests import tiny_state

OLDER, NEWEST = 1, 2


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A directory with two whole steps."""
  directory = tmp_path_factory.mktemp('whole') / 'checkpoints'
  checkpoints = tiny_state.open_checkpoints(directory)
  for step in (OLDER, NEWEST):
    tiny_state.save(checkpoints, step)
  checkpoints.close()
  return directory


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {
      str(path.relative_to(folder)): path.read_bytes()
      for path in sorted(folder.rglob('*')) if path.is_file()}


def _delete(path):
  path.unlink()


def _truncate(path):
  data = path.read_bytes()
  path.write_bytes(data[:len(data) // 2])


def _empty(path):
  path.write_bytes(b'')


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def _flip_last(path):
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)


def test_every_kind_of_file_is_there(whole):
  """What the faults below are applied to."""
  names = set(_files(whole / str(NEWEST)))
  assert {
      'hashes.json', 'commit_success.txt', '_CHECKPOINT_METADATA',
      'config/metadata', 'tokenizer/metadata', 'data/0.json',
      'state/_METADATA', 'state/_sharding', 'state/manifest.ocdbt',
      'state/ocdbt.process_0/manifest.ocdbt',
      'state/array_metadatas/process_0', 'state/commit_success.txt'} <= names
  assert any(n.startswith('state/d/') for n in names)
  assert any(n.startswith('state/ocdbt.process_0/d/') for n in names)


@pytest.mark.parametrize(
    'fault', [_delete, _truncate, _empty, _flip, _flip_last])
def test_damage_is_found_or_harmless(whole, tmp_path, caplog, capsys, fault):
  names = _files(whole / str(NEWEST))
  found, harmless = [], []
  for number, name in enumerate(names):
    directory = tmp_path / str(number)
    shutil.copytree(whole, directory)
    fault(directory / str(NEWEST) / name)
    damaged = _files(directory / str(NEWEST))
    assert damaged != names
    caplog.clear()
    checkpoints = tiny_state.open_checkpoints(directory)
    step = tiny_state.restore(checkpoints)  # compares every bit
    checkpoints.close()
    warnings = [
        r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    if step == NEWEST:
      assert not warnings
      assert _files(directory / str(NEWEST)) == damaged
      harmless.append(name)
      continue
    assert step == OLDER
    warning, = warnings
    assert f'{directory}: checkpoint step {NEWEST} is ' in warning
    assert f'({name}: ' in warning
    assert _files(directory / integrity.QUARANTINE / f'{NEWEST}-1') == damaged
    assert not (directory / str(NEWEST)).exists()
    found.append(name)
  # Of this file only the presence counts.
  assert set(harmless) <= {'commit_success.txt'}
  assert fault is not _delete or not harmless
  with capsys.disabled():
    print(f'\n{fault.__name__}: {len(found)} found, {len(harmless)} harmless')


def test_bits_of_what_is_written_last(whole, tmp_path):
  """Orbax writes the metadata after the hashes; only its times are free."""
  name = '_CHECKPOINT_METADATA'
  data = (whole / str(NEWEST) / name).read_bytes()
  expected = integrity._items(whole / str(NEWEST) / name)
  path = tmp_path / name
  num_free = 0
  bits = range(0, 8 * len(data), 7)  # every position within a byte
  for bit in bits:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    if integrity._items(path) == expected:
      num_free += 1
      assert data.index(b'"metrics"') <= bit // 8
  assert 0 < num_free < len(bits)


def test_several_damaged_steps_are_all_set_aside(whole, tmp_path, caplog):
  directory = tmp_path / 'c'
  shutil.copytree(whole, directory)
  for step in (OLDER, NEWEST):
    _flip(directory / str(step) / 'state' / '_METADATA')
  checkpoints = tiny_state.open_checkpoints(directory)
  assert tiny_state.restore(checkpoints) is None
  assert caplog.messages[-1] == (
      f'{directory}: no whole checkpoint; starting anew')
  tiny_state.save(checkpoints, NEWEST)
  checkpoints.close()
  again = tiny_state.open_checkpoints(directory)
  assert tiny_state.restore(again) == NEWEST
  again.close()
  assert sorted(p.name for p in (directory / 'quarantine').iterdir()) == [
      '1-1', '2-1']


def test_a_step_is_set_aside_as_often_as_it_is_damaged(whole, tmp_path):
  directory = tmp_path / 'c'
  shutil.copytree(whole, directory)
  for n in (1, 2, 3):
    _empty(directory / str(NEWEST) / 'config' / 'metadata')
    checkpoints = tiny_state.open_checkpoints(directory)
    assert tiny_state.restore(checkpoints) == OLDER
    tiny_state.save(checkpoints, NEWEST)
    checkpoints.close()
    assert (directory / 'quarantine' / f'{NEWEST}-{n}').is_dir()
  assert integrity.verify(directory, NEWEST).status == 'ok'


def test_extra_files_do_no_harm_and_are_listed(whole, tmp_path):
  directory = tmp_path / 'c'
  shutil.copytree(whole, directory)
  (directory / str(NEWEST) / 'state' / 'd' / 'stray').write_text('x')
  assert integrity.verify(directory, NEWEST).extra == ('state/d/stray',)
  checkpoints = tiny_state.open_checkpoints(directory)
  assert tiny_state.restore(checkpoints) == NEWEST
  checkpoints.close()


def test_a_share_reads_its_part_only(whole, tmp_path):
  """Each damaged content is found by exactly one of three processes."""
  names = [
      n for n in _files(whole / str(NEWEST))
      if n not in ('hashes.json', 'commit_success.txt', '_CHECKPOINT_METADATA')]
  for number, name in enumerate(names):
    directory = tmp_path / str(number)
    shutil.copytree(whole, directory)
    _flip(directory / str(NEWEST) / name)
    statuses = [
        integrity.verify(directory, NEWEST, i, 3).status
        for i in range(3)]
    assert sorted(statuses) == ['damaged', 'ok', 'ok']
