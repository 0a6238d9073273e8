# SPDX-License-Identifier: Apache-2.0
"""Loops of stages: killed in a later round, and changed there."""

from collections.abc import Callable
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from configs import loops
from meta_cot.settings import config_file
from meta_cot.stages import experiment
from tests import run_comparison

ROOT = pathlib.Path(__file__).parents[1]
STAGES = (
    'problems', 'traces', 'tokenizer', 'sft', 'search1', 'sft1', 'search2',
    'sft2', 'plain_search', 'plain', 'taught', 'table')
ROUNDS_OF_TS_LLM = tuple(
    f'{stage}{i}' for i in (1, 2, 3)
    for stage in ('search', 'answers', 'label', 'value', 'sft'))
# What the kill tests run: the loop itself, and no controls.
_SHORT = dict(
    star_tiny=(*STAGES[:8], 'table'),
    ts_llm_tiny=(*STAGES[:4], *ROUNDS_OF_TS_LLM[:10], 'asked2'))
# Two numbers: a policy that has trained for a second solves some.
_SMALL = (
    '--config.task.num_numbers=2', '--config.task.max_number=12',
    '--config.task.min_target=2', '--config.problems.num_shards=1',
    '--config.traces.num_shards=1', '--config.model.num_layers=1',
    '--config.sft.num_tokens=30000', '--config.sft.batch_size=4',
    '--config.sft.data.sequence_length=32',
    '--config.sft.optimizer.warmup_steps=10')
_ROUND = (
    'num_tokens=4000', 'save_every_steps=4', 'log_every_steps=2',
    'eval_every_steps=8', 'num_eval_batches=1')


@pytest.mark.parametrize('variant', loops.VARIANTS)
def test_a_loop_is_a_longer_tuple_of_stages(variant):
  parsed = experiment.parse(
      config_file.load(f'configs/loops.py:{variant}', ()))
  groups = {name: group.settings for name, group in parsed.groups.items()}
  last = 2
  if variant.startswith('ts_llm'):
    last = 3
    assert parsed.stages[4:19] == ROUNDS_OF_TS_LLM
    for name, value in (('search2', 1), ('search3', 2), ('asked2', 2)):
      assert groups[name].search.valuing.model == f'value{value}/solution_only'
    assert groups['table'].labels[2] == 'value 2'
    assert groups['asked2'].policies == ('sft', 'sft1', 'sft2', 'sft3')
    assert groups['quality'].judges[2] == 'value3/solution_only'
  else:
    assert parsed.stages == STAGES + ('figure',) * (
        variant == 'meta_star_tiny')
    assert groups['table'].policies == (
        'sft', 'sft1', 'sft2', 'plain', 'taught')
  (arm,) = groups['sft1'].arms
  assert groups['search2'].policy == f'sft1/{arm}'
  assert groups['sft2'].records == 'search2'
  (first,) = groups['sft'].arms
  assert groups['sft2'].start == (
      f'sft/{first}' if variant == 'star_tiny' else f'sft1/{arm}')
  rounds = sum(groups[f'sft{i}'].num_tokens for i in range(1, last + 1))
  for name in ('plain', 'taught'):  # no more tokens than all rounds
    assert groups[name].num_tokens == rounds
    assert groups[name].start == f'sft/{first}'


def _command(
    workdir: pathlib.Path, *more: str, variant: str = 'star_tiny',
) -> list[str]:
  rounds = (
      f'--config.sft{i}.{setting}' for i in (1, 2) for setting in _ROUND)
  searches = (
      f'--config.{name}{i}.{setting}' for i in (1, 2) for name in (
          'search', *(('answers',) if variant == 'ts_llm_tiny' else ()))
      for setting in ('num_train=48', 'num_validation=8'))
  values = ('--config.sft.data.num_records=100', *(
      f'--config.{name}{i}.{setting}' for i in (1, 2) for name, setting in (
          ('value', 'num_tokens=2000'), ('label', 'num_validation=8'))
  )) if variant == 'ts_llm_tiny' else ()
  table = 'table' if variant == 'star_tiny' else 'asked2'
  policies = f'--config.{table}.policies=sft,sft1,sft2'
  return [
      sys.executable, '-m', 'meta_cot.main',
      f'--config=configs/loops.py:{variant}', f'--workdir={workdir}',
      f'--config.compilation_cache={workdir.parent.parent / "cache"}',
      f'--config.stages={",".join(_SHORT[variant])}',
      f'--config.{table}.solvers=greedy', f'--config.{table}.num_problems=8',
      *_SMALL, *rounds, *searches, *values, policies, *more]


def _run(workdir: pathlib.Path, *more: str, **variant: str) -> str:
  done = subprocess.run(
      _command(workdir, *more, **variant), cwd=ROOT, env=_environment(),
      text=True, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stderr


def _environment() -> dict[str, str]:
  return os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}


def _times(workdir: pathlib.Path) -> dict[str, int]:
  """When every file of a stage, or its mark, was written."""
  return {
      str(path.relative_to(workdir)): path.stat().st_mtime_ns
      for path in workdir.rglob('*')
      if path.is_file() and path.name not in ('config.json', 'lease.json')}


def _kill(
    workdir: pathlib.Path, is_time: Callable[[], bool], **variant: str) -> None:
  """Starts a run and ends it, with no warning, as soon as it is time."""
  process = subprocess.Popen(
      _command(workdir, **variant), cwd=ROOT, env=_environment(),
      stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 240
  while time.monotonic() < deadline and process.poll() is None:
    if is_time():
      break
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL


def _workdirs(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  for name in 'ab':
    (tmp_path / name).mkdir()
  return tmp_path / 'a' / 'w', tmp_path / 'b' / 'w'


@pytest.mark.slow
def test_a_tree_search_of_the_second_round_killed(tmp_path):
  unbroken, workdir = _workdirs(tmp_path)
  variant = dict(variant='ts_llm_tiny')
  _run(unbroken, **variant)
  _kill(workdir, (workdir / 'begun' / 'search2.json').exists, **variant)
  assert (workdir / 'done' / 'sft1.json').exists()
  assert not (workdir / 'done' / 'search2.json').exists(), 'killed too late'
  log = _run(workdir, **variant)
  assert log.count('already done') == _SHORT['ts_llm_tiny'].index('search2')
  assert not run_comparison.differences(unbroken, workdir)


@pytest.mark.slow
def test_the_second_round_killed_and_changed(tmp_path):
  unbroken, workdir = _workdirs(tmp_path)
  log = _run(unbroken)
  assert [n for n in STAGES if f' stage {n}\n' in log] == list(
      _SHORT['star_tiny'])
  metrics = workdir / 'sft2' / 'solution_only' / 'metrics.jsonl'
  _kill(workdir, lambda: (
      metrics.exists() and metrics.read_text().count('\n') >= 3))
  assert (workdir / 'done' / 'search2.json').exists()
  assert not (workdir / 'done' / 'sft2.json').exists(), 'killed too late'
  log = _run(workdir)
  assert log.count('already done') == _SHORT['star_tiny'].index('sft2')
  assert not run_comparison.differences(unbroken, workdir)

  before = _times(workdir)
  log = _run(workdir, '--config.sft2.optimizer.learning_rate=0.002')
  assert log.count('already done') == _SHORT['star_tiny'].index('sft2')
  assert 'stage sft2: runs again (' in log and 'learning_rate' in log
  assert 'stage table: runs again (sft2/solution_only was made anew)' in log
  after = _times(workdir)
  changed = {
      name.removeprefix('replaced/') for name, at in after.items()
      if before.get(name) != at}
  assert {name.split('/')[0] for name in changed} == {
      'begun', 'done', 'machines', 'sft2', 'table'}
  assert {n for n in changed if n.startswith(('begun/', 'done/'))} == {
      f'{part}/{stage}.json' for part in ('begun', 'done')
      for stage in ('sft2', 'table')}
  assert {n for n in before if n.startswith(('sft2/', 'table/'))} == {
      n.removeprefix('replaced/') for n in after if n.startswith('replaced/')}
