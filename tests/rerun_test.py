# SPDX-License-Identifier: Apache-2.0
"""What runs again in a workdir: what a changed setting reaches, nothing else.
"""

import itertools
import json
import logging
import pathlib
import re
import shutil

import jax
import pytest

from configs import countdown
from configs import kinds
from meta_cot import main
from meta_cot import sharding
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import workdir as workdir_lib
from tests import run_comparison

STAGES = ('problems', 'traces', 'tokenizer', 'sft', 'evaluate')


def _config(**changes):
  """The quickstart's experiment, trained for a few steps."""
  config = countdown.get_config('tiny')
  config.task.update(dict(max_number=7, heldout_numbers_fraction=0.2))
  config.model.update(dict(
      num_layers=1, embed_dim=16, head_dim=4, mlp_dim=16))
  for name in ('problems', 'traces'):
    config[name].num_shards = 1
  config.sft.update(dict(
      arms=('solution_only',), num_tokens=2000, log_every_steps=1,
      num_eval_batches=1, save_every_steps=4, batch_size=2))
  config.sft.data.sequence_length = 64
  config.evaluate = kinds.evaluate(
      reference='sft/solution_only', splits=('heldout_numbers',),
      num_problems=4, num_curve_problems=0)
  config.evaluate.samples.update(dict(
      batch_size=8, num_samples=2, max_new_tokens=8))
  config.update_from_flattened_dict(changes)
  return config


def _run(workdir, **changes) -> None:
  """Runs all stages, on two devices."""
  experiment = experiment_lib.parse(_config(**changes))
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:2])
  context = base.Context(
      experiment.shared, experiment.groups, mesh, files.path(workdir))
  with sharding.use_mesh(mesh):
    for group in experiment.chosen():
      main.run(context, group)


@pytest.fixture(scope='module')
def finished(tmp_path_factory) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('rerun') / 'w'
  _run(workdir)
  return workdir


@pytest.fixture
def rerun(finished, tmp_path, caplog):
  """A copy, and what runs all of it again: its changes -> (ran, log)."""
  workdir = tmp_path / 'w'
  shutil.copytree(finished, workdir)
  caplog.set_level(logging.INFO)

  def run(**changes):
    caplog.clear()
    _run(workdir, **changes)
    lines = [record.getMessage() for record in caplog.records]
    ran = [
        name for name in STAGES
        if f'stage {name}: already done' not in lines]
    return ran, '\n'.join(lines)

  return workdir, run


def _times(folder) -> dict[str, int]:
  return {
      str(path.relative_to(folder)): path.stat().st_mtime_ns
      for path in folder.rglob('*') if path.is_file()}


def test_nothing_runs_again_and_free_settings_change_nothing(rerun):
  workdir, run = rerun
  before = _times(workdir)
  assert run()[0] == []
  assert run(**{
      'sft.log_every_steps': 3, 'sft.save_every_steps': 1,
      'sft.num_loss_chunks': 2, 'traces.num_processes': 2,
      'model.execution.remat': 'full', 'compilation_cache': 'off'})[0] == []
  assert _times(workdir) == before


def test_a_changed_setting_reaches_what_reads_it(rerun):
  workdir, run = rerun
  metrics = (workdir / 'sft' / 'solution_only' / 'metrics.jsonl').read_text()
  before = {name: _times(workdir / name) for name in STAGES}
  ran, log = run(**{'sft.optimizer.learning_rate': 0.01})
  assert ran == ['sft', 'evaluate']
  assert (
      'stage sft: runs again (config.sft.optimizer.learning_rate: 0.003 '
      'before, 0.01 now); what it left before is in replaced/sft') in log
  assert 'stage evaluate: runs again (sft/solution_only was made anew)' in log
  assert {
      name for name in STAGES if _times(workdir / name) != before[name]
  } == {'sft', 'evaluate'}
  moved = workdir / 'replaced' / 'sft' / 'solution_only' / 'metrics.jsonl'
  assert moved.read_text() == metrics
  assert (workdir / 'replaced' / 'evaluate' / 'report.md').exists()
  # Once more, back: the older of two replaced folders goes.
  assert run()[0] == ['sft', 'evaluate']
  assert moved.read_text() != metrics
  assert run()[0] == []


def test_a_shared_setting_reaches_those_who_use_it(rerun):
  ran, log = rerun[1](**{'model.mlp_dim': 32})
  assert ran == ['sft', 'evaluate']
  assert 'config.model.mlp_dim: 16 before, 32 now' in log


def test_another_arm_is_trained_alone(rerun):
  workdir, run = rerun
  before = _times(workdir / 'sft' / 'solution_only')
  rows = _times(workdir / 'evaluate' / 'rows')
  ran, log = run(**{'sft.arms': ('solution_only', 'revisions')})
  assert 'runs again' not in log and not (workdir / 'replaced').exists()
  assert ran == ['sft', 'evaluate']
  assert _times(workdir / 'sft' / 'solution_only') == before
  assert (workdir / 'sft' / 'revisions' / 'summary.json').exists()
  # Its answers join those that were there.
  assert rows.items() < _times(workdir / 'evaluate' / 'rows').items()
  report = (workdir / 'evaluate' / 'report.md').read_text()
  assert 'sft/revisions' in report and 'sft/solution_only' in report


def _steps(workdir) -> list[int]:
  path = workdir / 'sft' / 'solution_only' / 'metrics.jsonl'
  return [json.loads(row)['step'] for row in path.read_text().splitlines()]


def test_training_may_grow_and_not_shrink(rerun):
  workdir, run = rerun
  steps, before = _steps(workdir), _times(workdir / 'sft')
  ran, log = run(**{'sft.num_tokens': 4000})
  assert ran == ['sft', 'evaluate']
  more = _steps(workdir)
  assert re.search(
      f'solution_only: continues after step {steps[-1]} of {more[-1]}; '
      r'learning rate \S+ in the next step, 0.00015 at the end', log)
  assert more == list(range(1, len(more) + 1)) and len(more) > len(steps)
  first = 'solution_only/checkpoints/4/hashes.json'
  assert _times(workdir / 'sft')[first] == before[first]
  with pytest.raises(
      config_lib.UserError, match='trained with num_tokens 4000, now it is '
      'num_tokens 2000; it may grow but not shrink') as error:
    run()
  assert '\n' not in str(error.value)
  assert _steps(workdir) == more
  assert 'continues' not in run(**{'sft.num_tokens': 4000})[1]


@pytest.mark.slow
def test_killed_in_the_continued_part_it_ends_the_same(rerun, tmp_path):
  workdir, run = rerun
  before = _steps(workdir)[-1]
  other = tmp_path / 'other'
  shutil.copytree(workdir, other)
  run(**{'sft.num_tokens': 4000})
  longer = {'sft.num_tokens': 4000, 'sft.log_every_steps': 1}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(interruption.Stop, 'is_agreed', _at_call(3))
    with pytest.raises(interruption.Interrupted):
      _run(other, **longer)
  assert _steps(other)[-1] == before + 3
  # Neither the shorter run nor the longer one is over now.
  with pytest.raises(config_lib.UserError, match='may grow but not shrink'):
    _run(other)
  _run(other, **longer)
  assert run_comparison.differences(workdir, other) == []
  assert run_comparison.litter(other) == []


def _at_call(number):
  calls = itertools.count(1)
  return lambda stop: next(calls) == number


def test_steps_to_trace_are_of_the_run(rerun, monkeypatch):
  # Tracing a process that runs other tests may crash it; main_test has a trace.
  calls = []
  monkeypatch.setattr(jax.profiler, 'start_trace', calls.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('end'))
  workdir, run = rerun
  last = _steps(workdir)[-1]
  shutil.rmtree(workdir / 'sft')
  with pytest.raises(
      config_lib.UserError, match=f'--profile: got 2:{last + 1}; '
      f'.*/sft/solution_only has {last} steps'):
    run(**{'sft.profile_steps': (2, last + 1)})
  assert not (workdir / 'sft' / 'solution_only' / 'metrics.jsonl').exists()
  # Of those that were done before, none are traced; the others are.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(interruption.Stop, 'is_agreed', _at_call(4))
    with pytest.raises(interruption.Interrupted):
      run()
  run(**{'sft.profile_steps': (2, 6)})
  assert calls == [str(workdir / 'sft' / 'solution_only' / 'profile'), 'end']
  (workdir / 'sft' / 'solution_only' / 'summary.json').unlink()
  assert f'no trace; steps 2 to {last} are done' in run(
      **{'sft.profile_steps': (2, last)})[1]
  assert len(calls) == 2


def test_evaluation_computes_what_is_missing(rerun):
  workdir, run = rerun
  rows = workdir / 'evaluate' / 'rows'
  pieces = lambda: {k: v for k, v in _times(rows).items() if 'json' in k}
  num_rows = lambda: {
      solver: sum(
          len(p.read_text().splitlines())
          for p in rows.glob(f'**/{solver}/*/*.jsonl'))
      for solver in ('greedy', 'samples')}
  first = pieces()
  assert num_rows() == dict(greedy=4, samples=8)
  assert run(**{'evaluate.num_problems': 6})[0] == ['evaluate']
  second = pieces()
  assert first.items() < second.items()
  assert num_rows() == dict(greedy=6, samples=12)
  changes = {'evaluate.num_problems': 6, 'evaluate.num_rounds': 2}
  assert run(**changes)[0] == ['evaluate']
  assert second.items() < pieces().items()
  assert num_rows() == dict(greedy=6, samples=24)
  # Another way of sampling: all samples again, and no greedy text.
  assert run(**changes, **{'evaluate.samples.top_k': 5})[0] == ['evaluate']
  assert num_rows() == dict(greedy=6, samples=24)
  assert {name.split('/')[3] for name, _ in (
      second.items() & pieces().items())} == {'greedy'}


@pytest.mark.parametrize('name, stage', [
    ('traces/train-00000-of-00001.array_record', 'traces'),
    ('tokenizer/tokenizer.model', 'tokenizer'),
    ('evaluate/report.md', 'evaluate')])
def test_a_file_that_is_gone_is_made_again(rerun, name, stage):
  workdir, run = rerun
  there = (workdir / name).read_bytes()
  (workdir / name).unlink()
  ran, log = run()
  assert ran == [stage]
  assert f'stage {stage}: something of it is missing' in log
  assert (workdir / name).read_bytes() == there
  assert not (workdir / 'replaced').exists()


def test_an_older_workdir_is_refused_in_one_line(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": 0, "arms": ["traces"]}')
  with pytest.raises(config_lib.UserError) as error:
    workdir_lib.claim(tmp_path, _config())
  message = str(error.value)
  assert '\n' not in message and str(tmp_path / 'config.json') in message
  for words in ('has schema 1', 'continues 2', 'use another --workdir'):
    assert words in message
