# SPDX-License-Identifier: Apache-2.0
"""Loops of stages: killed in every round, and changed in a later one."""

import os
import pathlib
import re
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
# A policy that has trained for some seconds solves some of these.
_SMALL = (
    '--config.task.num_numbers=2', '--config.task.max_number=12',
    '--config.task.heldout_numbers_fraction=0.3',
    '--config.task.validation_fraction=0.6',
    '--config.problems.num_shards=1', '--config.traces.num_shards=1',
    '--config.model.num_layers=1', '--config.sft.num_tokens=100000',
    '--config.sft.batch_size=4', '--config.sft.data.sequence_length=64',
    '--config.sft.optimizer.warmup_steps=10')
_FEW = 'sft.data.num_records=40'  # of those that a round asks
_OF_VARIANT = dict.fromkeys(loops.VARIANTS, ('task.min_target=2', _FEW)) | {
    'ts_llm_make24_tiny': ('task.num_numbers=3', 'sft.num_tokens=200000'),
    # A digit is a token, and searches are learned later than solutions.
    'meta_star_tiny': (
        'task.min_target=2', 'sft.num_tokens=200000', 'sft1.num_tokens=60000'),
    'shortening_tiny': ('task.min_target=2', 'sft.num_tokens=200000')}
_OF_KIND = {
    'train': (
        'num_tokens=8000', 'batch_size=4', 'save_every_steps=4',
        'log_every_steps=2', 'eval_every_steps=8', 'num_eval_batches=1',
        'data.sequence_length=64'),
    'search': ('num_train=96', 'num_validation=24'),
    'label': ('num_validation=8',)}


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


def _rounds(variant: str) -> dict[str, str]:
  """The stages of a loop's rounds, without controls, and their kinds."""
  c = config_file.load(f'configs/loops.py:{variant}', ())
  return {
      name: c[name].kind for name in c.stages
      if re.fullmatch(r'(search|answers|label|value|sft)\d', name)}


def _stages(variant: str) -> tuple[str, ...]:
  """A loop without its controls."""
  return (*STAGES[:4], *_rounds(variant), _report(variant))


def _report(variant: str) -> str:
  return 'asked3' if variant.startswith('ts_llm') else 'table'


def _command(variant: str, workdir: pathlib.Path, *more: str) -> list[str]:
  rounds, report = _rounds(variant), _report(variant)
  policies = ('sft', *(name for name in rounds if name.startswith('sft')))
  settings = (
      *(f'{name}.{setting}' for name, kind in rounds.items()
        for setting in _OF_KIND[kind]),
      *_OF_VARIANT[variant],
      f'compilation_cache={workdir.parent.parent / "cache"}',
      f'stages={",".join(_stages(variant))}', f'{report}.solvers=greedy',
      f'{report}.num_problems=8', f'{report}.policies={",".join(policies)}')
  return [
      sys.executable, '-m', 'meta_cot.main',
      f'--config=configs/loops.py:{variant}', f'--workdir={workdir}', *_SMALL,
      *(f'--config.{setting}' for setting in settings), *more]


def _run(variant: str, workdir: pathlib.Path, *more: str) -> str:
  done = subprocess.run(
      _command(variant, workdir, *more), cwd=ROOT, env=_environment(),
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


def _kill(variant: str, workdir: pathlib.Path, stage: str) -> None:
  """Starts a run and ends it, with no warning, in the midst of a stage."""
  process = subprocess.Popen(
      _command(variant, workdir), cwd=ROOT, env=_environment(),
      stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 240
  while time.monotonic() < deadline and process.poll() is None:
    if _is_amid(workdir, stage):
      break
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  assert _is_amid(workdir, stage)
  assert not (workdir / 'done' / f'{stage}.json').exists(), 'killed too late'


def _is_amid(workdir: pathlib.Path, stage: str) -> bool:
  """Whether the stage has begun; where it trains, has made some steps."""
  if not stage.startswith(('sft', 'value')):
    return (workdir / 'begun' / f'{stage}.json').exists()
  return any(
      path.read_text().count('\n') >= 3
      for path in (workdir / stage).rglob('metrics.jsonl'))


def _workdirs(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  for name in 'ab':
    (tmp_path / name).mkdir()
  return tmp_path / 'a' / 'w', tmp_path / 'b' / 'w'


@pytest.mark.slow
@pytest.mark.parametrize('variant', loops.VARIANTS)
def test_a_loop_killed_in_every_stage_of_every_round(variant, tmp_path):
  unbroken, workdir = _workdirs(tmp_path)
  log = _run(variant, unbroken)
  stages = _stages(variant)
  assert [name for name in stages if f' stage {name}\n' in log] == list(stages)
  for stage in _rounds(variant):
    _kill(variant, workdir, stage)
  log = _run(variant, workdir)
  assert log.count('already done') == stages.index(stage)
  assert not run_comparison.differences(unbroken, workdir)


@pytest.mark.slow
def test_a_changed_round_runs_again_with_what_stands_on_it(tmp_path):
  workdir = tmp_path / 'a' / 'w'
  workdir.parent.mkdir()
  _run('star_tiny', workdir)
  before = _times(workdir)
  log = _run(
      'star_tiny', workdir, '--config.sft2.optimizer.learning_rate=0.002')
  assert log.count('already done') == STAGES.index('sft2')
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
