# SPDX-License-Identifier: Apache-2.0
"""The stage `rl` as a user runs it."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

from configs import erl2 as erl2_config
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from tests import run_comparison
from tests import small_run

ARM = ('--config.sft.arms=revisions', '--config.sft.num_tokens=6000')


def _run(workdir, *more, code=0) -> str:
  """Runs the command; its log."""
  done = subprocess.run(
      small_run.command(
          workdir, *ARM, '--config.evaluate.reference=None', *small_run.RL,
          *small_run.EPISODES, *more, config='configs/erl2.py:tiny'),
      cwd=small_run.ROOT, env=small_run.environment(), text=True,
      capture_output=True, check=False)
  assert done.returncode == code, done.stderr[-3000:]
  return done.stderr


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The workdir and the log of a whole run."""
  workdir = tmp_path_factory.mktemp('rl') / 'w'
  return workdir, _run(workdir)


@pytest.fixture
def copy(finished, tmp_path) -> pathlib.Path:
  """A workdir that may be changed."""
  shutil.copytree(finished[0], tmp_path / 'w')
  return tmp_path / 'w'


def _rows(directory):
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _episodes(workdir):
  summary = json.loads((workdir / 'episodes' / 'summary.json').read_text())
  return summary['episodes']


def _seen(workdir):
  """Files with the times of their last change."""
  return {
      path.relative_to(workdir): path.stat().st_mtime_ns
      for path in workdir.rglob('*') if path.is_file()
      and 'compilation_cache' not in path.parts and path.name != 'config.json'}


def test_it_leaves_what_it_says(finished):
  workdir, _ = finished
  assert (workdir / 'config.json').is_file()
  for objective in ('erl2', 'single'):
    directory = workdir / 'rl' / objective / 'seed0'
    rows = _rows(directory)
    assert [row['step'] for row in rows] == [1, 2, 3, 4]
    num_episodes = 2 if objective == 'erl2' else 1
    names = {
        key for row in rows for key in row if key.startswith('validation/')}
    assert names == {'validation/success', 'validation/tokens'} | {
        f'validation/episode_{e + 1}' for e in range(num_episodes)}
    summary = json.loads((directory / 'summary.json').read_text())
    assert summary['objective'] == objective
    assert summary['num_iterations'] == 4
    assert summary['seconds']['total'] > 0
    assert len(list((directory / 'best').iterdir())) == 1
    assert {p.name for p in (directory / 'checkpoints').iterdir()} == {
        '2', '4'}
    assert list(directory.glob('tensorboard/*tfevents*'))
  assert run_comparison.litter(workdir) == []


def test_what_is_always_logged(finished):
  row = _rows(finished[0] / 'rl' / 'erl2' / 'seed0')[0]
  for name in (
      'groups_all_right', 'groups_all_wrong', 'groups_without_gradient',
      'truncated', 'ended_by_stop', 'episode_1/success', 'episode_2/success',
      'kl_k1', 'kl_k3', 'entropy', 'gap_mean', 'gap_max', 'tokens_to_solution',
      'occupancy', 'time/rollout', 'time/judge', 'time/prepare', 'time/update',
      'loss', 'grad_norm', 'undecided', 'seconds/step'):
    assert name in row, name
  assert 0 <= row['gap_mean'] <= row['gap_max'] < 1e-4
  assert row['seconds/step'] >= 0


def test_later_iterations_compile_nothing(finished):
  for objective in ('erl2', 'single'):
    rows = _rows(finished[0] / 'rl' / objective / 'seed0')
    # But for a batch whose rows are all short, which is cut, and its update.
    first, last = (rows[i]['programs_compiled'] for i in (0, -1))
    assert 0 <= last - first <= 2


def test_reports(finished):
  workdir, _ = finished
  summary = _episodes(workdir)
  num_episodes = {
      name: len(p['episodes']) for name, p in summary['policies'].items()}
  assert num_episodes == {'sft/revisions': 2, 'rl/erl2': 2, 'rl/single': 1}
  assert summary['num_problems'] == 6
  assert summary['samples']['num_samples'] == 4
  everything = json.loads((workdir / 'episodes' / 'summary.json').read_text())
  assert ('rl/single', 'samples') in [
      (e['policy'], e['solver']) for e in everything['success']]
  assert [(e['policy'], e['solver']) for e in everything['anytime']] == [
      ('sft/revisions', 'samples'), ('sft/revisions', 'revisions'),
      ('rl/erl2', 'revisions'), ('rl/single', 'samples'),
      ('rl/single', 'revisions')]
  readable = (workdir / 'episodes' / 'report.md').read_text()
  for words in ('| rl/erl2 |', '| rl/single |', '| sft/revisions |'):
    assert words in readable
  images = re.findall(r'\]\((\w+\.png)\)', readable)
  assert len(images) >= 3
  for image in images:
    assert (workdir / 'episodes' / image).stat().st_size > 1000


def test_a_second_command_does_nothing(finished):
  workdir, _ = finished
  before = _seen(workdir)
  log = _run(workdir)
  assert log.count('already done') == 7
  assert _seen(workdir) == before


@pytest.mark.slow
def test_other_settings_train_again_and_nothing_before(copy):
  one = copy / 'rl' / 'erl2' / 'seed0' / 'metrics.jsonl'
  before = one.read_text()
  log = _run(copy, '--config.rl.loss.clip_low=0.1',
             '--config.rl.num_iterations=1', '--config.rl.objectives=erl2')
  assert log.count('already done') == 5
  assert 'stage rl: runs again (config.rl.loss.clip_low: 0.2 before, 0.1' in log
  assert 'stage episodes: runs again (rl/erl2/seed0 was made anew' in log
  moved = copy / 'replaced' / 'rl' / 'erl2' / 'seed0' / 'metrics.jsonl'
  assert moved.read_text() == before
  assert len(_rows(one.parent)) == 1
  assert not (copy / 'rl' / 'single').exists()


@pytest.mark.slow
def test_another_seed_is_trained_alone(copy):
  log = _run(copy, '--config.rl.seeds=0,1', '--config.rl.objectives=erl2')
  assert 'erl2, seed 1 iteration 4/4' in log
  assert 'erl2, seed 0 iteration' not in log and 'single, seed' not in log
  summary = _episodes(copy)
  assert summary['policies']['rl/erl2']['seeds'] == [0, 1]
  last = summary['policies']['rl/erl2']['episodes'][-1]['this']
  assert len(last['by_seed']) == 2 and last['seeds_ci95'] is not None
  one, two = (
      _rows(copy / 'rl' / 'erl2' / f'seed{seed}') for seed in (0, 1))
  assert one[0]['loss'] != two[0]['loss']


def test_a_search_may_write_the_first_attempts(copy):
  shutil.rmtree(copy / 'rl')
  log = _run(
      copy, '--config.rl.objectives=erl2', '--config.rl.num_iterations=2',
      '--config.rl.episodes.exploration=mcts',
      '--config.rl.search.num_simulations=4', '--config.rl.search.branching=2',
      '--config.rl.search.step_length=6',
      '--config.episodes.exploration=mcts',
      '--config.episodes.search.outcome=value',
      '--config.episodes.search.num_simulations=4',
      '--config.episodes.search.branching=2',
      '--config.episodes.search.step_length=6')
  assert 'erl2, seed 0 iteration 2/2' in log
  rows = _rows(copy / 'rl' / 'erl2' / 'seed0')
  assert all(row['explored_tokens'] > 0 for row in rows)
  assert all(row['gap_max'] < 1e-4 for row in rows)
  assert len({row['programs_compiled'] for row in rows}) == 1
  summary = _episodes(copy)
  for policy in ('sft/revisions', 'rl/erl2'):
    (final,) = summary['policies'][policy]['episodes']
    assert final['tokens'] > 10  # more than an attempt may have


@pytest.mark.parametrize('changes, words', [
    ({'start': 'sft/nosuch'},
     "config.rl.start: got 'sft/nosuch', which stage sft"),
    ({'episodes.episode_length': 400},
     'config.rl.episodes.episode_length: got 400; 1200 tokens of a trajectory'),
    ({'credit.advantage': 'gae', 'loss.kl_in': 'reward',
      'loss.kl_estimator': 'k1'}, 'config.rl.loss.kl_in: got reward'),
    ({'optimizer.trained.part': 'value_head'},
     "config.rl.optimizer.trained.part: got 'value_head', which leaves")])
def test_wrong_settings_are_named_before_any_work(changes, words):
  config = erl2_config.get_config('tiny')
  config.rl.update_from_flattened_dict(changes)
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    experiment_lib.parse(config)
  assert '\n' not in str(error.value)


def test_episodes_are_reported_beside_the_samples_of_their_start():
  config = erl2_config.get_config('tiny')
  config.episodes.solvers = ('revisions',)
  with pytest.raises(config_lib.ConfigError, match='add samples to solvers'):
    experiment_lib.parse(config)


@pytest.mark.parametrize('change, words', [
    ('--config.rl.questions.num_questions=5',
     'config.rl.questions.num_questions: got 5; must'),
    ('--config.rl.episodes.give_up=12+3',
     "config.rl.episodes.give_up: '12+3' is 4 tokens")])
def test_what_devices_and_tokenizer_refuse_is_one_line(copy, change, words):
  log = _run(copy, change, code=2)
  last = log.splitlines()[-1]
  assert last.startswith('error: ') and words in last
  assert 'Traceback' not in log
  assert 'iteration' not in log


def test_it_needs_its_start(copy):
  (copy / 'done' / 'sft.json').unlink()
  log = _run(copy, '--stages=rl', code=2)
  assert log.splitlines()[-1].endswith('run the stage sft first.')


def test_variants():
  for variant in erl2_config.VARIANTS:
    experiment = experiment_lib.parse(erl2_config.get_config(variant))
    assert 'rl' in experiment.stages[:-1]
    assert experiment.stages[-1] == 'episodes'
    stage, arm = experiment.groups['rl'].settings.start.split('/')
    assert arm in experiment.groups[stage].settings.arms
  with pytest.raises(ValueError, match="got 'x'; must be one of tiny"):
    erl2_config.get_config('x')
