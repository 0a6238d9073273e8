# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what they refuse, what a kill leaves, what `verify` prints."""

import dataclasses
import os
import pathlib
import random
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import pytest

from meta_cot import checkpoint as command
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.training import checkpoint
from meta_cot.training import integrity
from tests import tiny_state

ROOT = pathlib.Path(__file__).parents[1]


def _saved(directory, steps, **options):
  checkpoints = tiny_state.open_checkpoints(directory, **options)
  for step in steps:
    tiny_state.save(checkpoints, step)
  checkpoints.wait()
  return checkpoints


def _names(directory) -> list[str]:
  return sorted(os.listdir(directory))


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def test_old_steps_go_and_nothing_else_stays(tmp_path):
  checkpoints = _saved(tmp_path, range(1, 6), max_to_keep=2)
  assert checkpoints.steps() == [4, 5]
  checkpoints.close()
  assert _names(tmp_path) == ['4', '5']


def test_a_step_is_saved_once(tmp_path):
  checkpoints = _saved(tmp_path, [1])
  before = (tmp_path / '1' / 'hashes.json').stat().st_mtime_ns
  tiny_state.save(checkpoints, 1)
  checkpoints.close()
  assert (tmp_path / '1' / 'hashes.json').stat().st_mtime_ns == before


def test_a_step_never_shows_before_its_hashes(tmp_path):
  """Looks at the folder all the time while steps are saved."""
  done, seen = threading.Event(), set()

  def look():
    while not done.is_set():
      for step in integrity.steps(tmp_path):
        if step not in seen:
          assert (tmp_path / str(step) / 'hashes.json').exists()
          seen.add(step)

  thread = threading.Thread(target=look)
  thread.start()
  _saved(tmp_path, range(1, 9)).close()
  done.set()
  thread.join()
  assert len(seen) >= 7


def test_a_chosen_damaged_step_is_an_error(tmp_path):
  checkpoints = _saved(tmp_path, [1, 2])
  _flip(tmp_path / '1' / 'state' / '_METADATA')
  expected = (
      rf'^{tmp_path}/1: this checkpoint is damaged \(state/_METADATA: content '
      r'differs\); move it away')
  for call in (
      lambda: checkpoint.check_whole(tmp_path, 1),
      lambda: tiny_state.restore(checkpoints, step=1)):
    with pytest.raises(config_lib.UserError, match=expected):
      call()
  checkpoints.close()


@pytest.mark.parametrize('changes, expected', [
    (dict(model=dict(embed_dim=32)),
     r'config.model.embed_dim: 16 in checkpoint step 1, 32 now\);'),
    (dict(model={}),
     r'config.model.embed_dim: 16 in checkpoint step 1, not set now'),
    (dict(seed=1), r'config.seed: not set in checkpoint step 1, 1 now'),
    (dict(a=1, b=2, c=3, d=4, e=5), r'config.c: .*; and 2 more\); continue'),
])
def test_another_config_is_refused(tmp_path, changes, expected):
  checkpoints = _saved(tmp_path, [1])
  with pytest.raises(config_lib.UserError, match=expected):
    tiny_state.restore(checkpoints, config=tiny_state.CONFIG | changes)
  assert checkpoints.steps() == [1]
  checkpoints.close()


def test_another_tokenizer_is_refused(tmp_path):
  checkpoints = _saved(tmp_path, [1])
  with pytest.raises(config_lib.UserError, match=(
      'the tokenizer is not that of the checkpoint .00c0ffee00c0 in checkpoint '
      'step 1, other now')):
    tiny_state.restore(checkpoints, tokenizer='other')
  checkpoints.close()


@pytest.mark.parametrize('changes, expected', [
    (dict(embed_dim=32),
     r'params/embed: float32 \[8, 16\] in checkpoint step 1, '
     r'float32 \[8, 32\] now; params/mlp/w: .*\)'),
    (dict(dtype=jnp.bfloat16),
     r'params/embed: float32 \[8, 16\] in checkpoint step 1, '
     r'bfloat16 \[8, 16\] now'),
])
def test_other_arrays_are_refused(tmp_path, changes, expected):
  checkpoints = _saved(tmp_path, [1])
  abstract = tiny_state.abstract(**changes)
  for call in (
      lambda: checkpoints.restore(abstract, tiny_state.iterator()),
      lambda: checkpoints.restore(abstract, tiny_state.iterator(), step=1)):
    with pytest.raises(config_lib.UserError, match=expected):
      call()
  checkpoints.close()


def test_missing_and_new_arrays_are_refused(tmp_path):
  checkpoints = _saved(tmp_path, [1])
  abstract = tiny_state.abstract()
  params = dict(abstract.params)
  params['value'] = params.pop('embed')
  with pytest.raises(config_lib.UserError, match=(
      r'params/embed: float32 \[8, 16\] in checkpoint step 1, absent now; '
      r'params/value: absent in checkpoint step 1, float32 \[8, 16\] now')):
    checkpoints.restore(
        abstract.replace(params=params), tiny_state.iterator())
  checkpoints.close()


@dataclasses.dataclass
class _Streams:
  """Streams as `data_pipelines` gives them: those of one process."""

  places: dict[str, int]

  def stream_names(self):
    return tuple(self.places)

  def get_state(self):
    return {name: {'next': place} for name, place in self.places.items()}

  def set_state(self, state):
    assert set(state) == set(self.places)
    self.places = {name: place['next'] for name, place in state.items()}


def test_streams_may_move_between_processes(tmp_path):
  checkpoints = tiny_state.open_checkpoints(tmp_path)
  checkpoints.save(
      tiny_state.state(1), _Streams({'0': 7, '1': 8, '2': 9}), step=1,
      config={}, tokenizer='')
  checkpoints.wait()
  for names in (('0', '2'), ('1',), ('0', '1', '2')):
    streams = _Streams(dict.fromkeys(names, 0))
    checkpoints.restore(tiny_state.abstract(), streams)
    assert streams.places == {n: 7 + int(n) for n in names}
  with pytest.raises(config_lib.UserError, match=(
      'no data stream 3; this checkpoint has 0, 1, 2')):
    checkpoints.restore(tiny_state.abstract(), _Streams({'0': 0, '3': 0}))
  checkpoints.close()


def test_a_save_that_fails_is_an_error_and_leaves_the_step_before(tmp_path):
  checkpoints = _saved(tmp_path, [1])

  def fail(directory, step):
    raise OSError(28, 'No space left on device')

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(integrity, 'seal', fail)
    tiny_state.save(checkpoints, 2)
    with pytest.raises(OSError, match='No space left'):
      checkpoints.wait()
  assert checkpoints.steps() == [1]
  again = tiny_state.open_checkpoints(tmp_path)
  assert _names(tmp_path) == ['1']
  assert tiny_state.restore(again) == 1
  again.close()


POINTS = {  # where the process dies: is the step that is being saved whole?
    'before seal': False,  # all files are written
    'after seal': False,  # and hashed, under the temporary name
    'before commit': False,
    'after commit': True,  # it has its final name
    'after retire': True,  # an old step is on its way out
    'before delete': True,
}


def _save_until_killed(directory, point, at_step):
  return subprocess.Popen(
      [sys.executable, '-c', 'import sys; from tests import tiny_state; '
       'tiny_state.save_until_killed(sys.argv[1], sys.argv[2], '
       'int(sys.argv[3]))', str(directory), point, str(at_step)],
      cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_kill_at_every_point_of_a_save(tmp_path):
  """Each process continues where the one before was killed."""
  expected = 0
  for number, point in enumerate((*POINTS, ''), 1):
    at_step = 3 * number
    process = _save_until_killed(tmp_path, point, at_step)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if point else 0), (point, errors)
    assert int(out.split()[1]) == expected, point
    assert 'damaged' not in errors and 'incomplete' not in errors
    expected = at_step if POINTS.get(point) else at_step - 1
  assert _names(tmp_path) == [str(at_step - 1), str(at_step)]


def test_kills_at_random_times(tmp_path):
  delays = random.Random(0)
  last = 0
  for _ in range(2):
    process = _save_until_killed(tmp_path, '', 10_000)
    continued = int(process.stdout.readline().split()[1])
    assert continued >= last
    time.sleep(delays.uniform(0.05, 0.9))
    process.kill()
    out, errors = process.communicate()
    assert 'damaged' not in errors and 'incomplete' not in errors
    # The step before one whose save has begun is whole.
    last = max([continued, *(int(s) - 1 for s in out.split()[1::2])])
  checkpoints = tiny_state.open_checkpoints(tmp_path, max_to_keep=2)
  assert (tiny_state.restore(checkpoints) or 0) >= last
  steps = checkpoints.steps()
  checkpoints.close()
  assert set(_names(tmp_path)) == set(map(str, steps))


@pytest.mark.parametrize('is_moved', [False, True])
def test_a_kill_while_setting_aside(tmp_path, is_moved):
  """The move is one rename: before it or after it, the next start goes on."""
  _saved(tmp_path, [1, 2]).close()
  _flip(tmp_path / '2' / 'config' / 'metadata')
  if is_moved:
    integrity.set_aside(tmp_path, 2)
  else:
    (tmp_path / 'quarantine').mkdir()
  checkpoints = tiny_state.open_checkpoints(tmp_path)
  assert tiny_state.restore(checkpoints) == 1
  checkpoints.close()
  assert _names(tmp_path) == ['1', 'quarantine']
  assert _names(tmp_path / 'quarantine') == ['2-1']


def test_a_bucket_falls_back_and_keeps_the_damaged_step(bucket, capsys, caplog):
  run = files.path(f'{bucket}/checkpoint-test')
  directory = run / 'sft' / 'a' / 'checkpoints'
  _saved(directory, [1, 2, 3], max_to_keep=2).close()
  assert _verify(run, capsys)[0] == 0
  (directory / '3' / 'config' / 'metadata').write_text('{}')
  (directory / '4' / 'state' / 'd').write_text('of a save that was cut off')
  code, lines = _verify(run, capsys)
  assert code == 1
  assert [line.split()[:3] for line in lines[:3]] == [
      ['sft/a/checkpoints', '2', 'ok'], ['sft/a/checkpoints', '3', 'damaged'],
      ['sft/a/checkpoints', '4', 'incomplete']]
  checkpoints = tiny_state.open_checkpoints(directory, max_to_keep=2)
  assert integrity.steps(directory) == [2, 3]
  assert tiny_state.restore(checkpoints) == 2
  (message,) = (m for m in caplog.messages if 'checkpoint step' in m)
  assert message.startswith(
      f'{directory}: checkpoint step 3 is damaged (config/metadata: 2 bytes ')
  tiny_state.save(checkpoints, 3)
  checkpoints.close()
  assert _verify(run, capsys)[0] == 0
  assert (directory / 'quarantine' / '3-1' / 'hashes.json').exists()


@pytest.fixture
def workdir(tmp_path):
  """Two runs with two steps each."""
  for run in ('sft/traces', 'prm'):
    _saved(tmp_path / run / 'checkpoints', [1, 2]).close()
  return tmp_path


def _verify(workdir, capsys):
  code = 0
  try:
    command.main(['verify', f'--workdir={workdir}'])
  except SystemExit as e:
    code = e.code
  return code, capsys.readouterr().out.splitlines()


def test_verify_lists_every_step(workdir, capsys):
  code, lines = _verify(workdir, capsys)
  assert code == 0
  num_bytes = sum(
      p.stat().st_size
      for p in (workdir / 'prm/checkpoints/1').rglob('*') if p.is_file())
  assert lines[0] == f'prm/checkpoints  1  ok  {num_bytes:,} bytes'
  assert [line.split()[:3] for line in lines[:-1]] == [
      [f'{run}/checkpoints', step, 'ok']
      for run in ('prm', 'sft/traces') for step in '12']
  assert lines[-1] == (
      '2 runs with checkpoints, 2 whose newest step is whole')


def test_verify_names_the_damage_and_changes_nothing(workdir, capsys):
  folder = workdir / 'sft' / 'traces' / 'checkpoints'
  (folder / '1' / 'state' / '_sharding').write_bytes(b'')
  code, lines = _verify(workdir, capsys)
  assert code == 0  # the newest is whole
  assert lines[2].endswith(
      'bytes  state/_sharding: 0 bytes instead of '
      f'{(folder / "2/state/_sharding").stat().st_size}')
  (folder / '2' / 'hashes.json').unlink()
  code, lines = _verify(workdir, capsys)
  assert code == 1
  assert lines[3].split()[2] == 'incomplete'
  assert lines[3].endswith('hashes.json: missing, the save was cut off')
  assert lines[-1].endswith('1 whose newest step is whole')
  assert _names(folder) == ['1', '2']


@pytest.mark.parametrize('arguments, expected', [
    ([], 'subcommand: got nothing; must be verify'),
    (['check'], "subcommand: got 'check'; must be verify"),
    (['verify'], '--workdir: missing'),
    (['verify', '--workdir=no/such'], '--workdir: got .*no/such; there is no'),
    (['verify', '--config=a'], '--config: no such flag'),
])
def test_wrong_usage_is_one_line(arguments, expected):
  with pytest.raises(config_lib.UserError, match=expected):
    command.main(arguments)


def test_verify_starts_no_backend(tmp_path):
  """It may run beside a training process that owns the devices."""
  script = (
      'import jax, sys; from meta_cot import checkpoint; '
      'checkpoint.main(["verify", "--workdir=" + sys.argv[1]]); '
      'from jax._src import xla_bridge; '
      'assert not xla_bridge.backends_are_initialized()')
  subprocess.run(
      [sys.executable, '-c', script, str(tmp_path)], cwd=ROOT, check=True,
      stdout=subprocess.DEVNULL)


def test_a_run_without_any_checkpoint_starts_anew(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, None)
  assert tiny_state.restore(checkpoints) is None
  checkpoints.close()
