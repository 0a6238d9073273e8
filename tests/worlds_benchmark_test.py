# SPDX-License-Identifier: Apache-2.0
"""The table of `benchmarks/worlds.py`, and the experiments behind it."""

import json

import pytest

from benchmarks import worlds
from configs import worlds as config
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib


def _rate(*by_seed):
  return dict(
      success=sum(by_seed) / len(by_seed), ci95=[0.0, 1.0],
      by_seed=list(by_seed), seeds_ci95=[0.1, 0.9] if by_seed[1:] else None)


def _write(workdir, variant, reached, stage='episodes', parts=()):
  """A workdir as the experiment leaves it, of the numbers that are read."""
  folder = workdir / stage
  folder.mkdir(parents=True)
  (workdir / 'config.json').write_text(
      config.get_config(variant).to_json_best_effort())
  episode = lambda by_seed: dict(
      this=_rate(*by_seed), equal_tokens=dict(oracle=dict(
          success=0.25, ci95=[0.2, 0.3])))
  (folder / 'summary.json').write_text(json.dumps(dict(episodes=dict(policies={
      policy: dict(
          episodes=[episode([0.0]), episode(by_seed)],
          by_difficulty=[
              dict(difficulty=part, episodes=[
                  _rate(0.0), _rate(*(x / (1 + part) for x in by_seed))])
              for part in parts])
      for policy, by_seed in reached.items()}))))


def test_rows_have_what_is_seen_beside_what_is_best(tmp_path):
  _write(tmp_path, 'safe', {
      'sft/episodes': [0.4], 'rl/erl2': [0.9, 1.0], 'rl/rl2': [0.5, 0.3],
      'rl/single': [0.25, 0.35]})
  for control in config.CONTROLS:
    _write(tmp_path, 'safe', {
        'sft/episodes': [0.3], f'{control}/erl2': [0.3, 0.3]},
           stage=f'{control}_episodes')
  found = list(worlds.rows('safe .30', tmp_path))
  by_policy = {row['policy']: row for row in found}
  assert list(by_policy) == [
      'rl/erl2', 'sft/episodes', 'rl/rl2', 'rl/single', 'shuffled/erl2',
      'unanswered/erl2', 'forgetful/erl2', 'best of K, oracle']
  best = {policy: row['best'] for policy, row in by_policy.items()}
  assert best.pop('sft/episodes') is None
  assert [round(x, 3) for x in best.values()] == [
      1.0, 0.92, 0.3, 0.3, 0.3, 0.3, 0.34]
  assert by_policy['rl/rl2']['gap']['by_seed'] == pytest.approx([0.4, 0.7])
  # Of one run only its mean is there to compare with.
  assert by_policy['sft/episodes']['gap']['by_seed'] == pytest.approx(
      [0.5, 0.6])
  assert by_policy['best of K, oracle']['success'] == 0.25
  lines = worlds.table(found).splitlines()
  assert len({line.count('|') for line in lines}) == 1
  assert lines[2].startswith(
      '| safe .30 | rl/erl2 | 95.0 [10.0, 90.0] | 90.0, 100.0 | 100.0 | - |')


def test_controls_that_were_not_run_have_no_rows(tmp_path):
  _write(tmp_path, 'safe', {
      policy: [0.5] for policy in ('sft/episodes', 'rl/erl2', 'rl/rl2')})
  path = tmp_path / 'config.json'
  made = json.loads(path.read_text())
  path.write_text(json.dumps(made | dict(stages=['rl', 'episodes'])))
  assert [row['policy'] for row in worlds.rows('safe .60', tmp_path)] == [
      'rl/erl2', 'sft/episodes', 'rl/rl2', 'best of K, oracle']


def test_a_world_whose_best_is_unknown_has_all_turns(tmp_path):
  _write(tmp_path, 'expressions', {
      'sft/episodes': [0.3], 'rl/erl2': [0.5, 0.7], 'rl/single': [0.4, 0.4]})
  for name in config.TURNS:
    _write(tmp_path, 'expressions', {
        'sft/episodes': [0.3], f'{name}/erl2': [0.4, 0.5]},
           stage=f'{name}_episodes')
  found = list(worlds.rows('expressions', tmp_path))
  assert {row['policy'] for row in found} == {
      'rl/erl2', 'sft/episodes', 'rl/single', 'best of K, oracle',
      *(f'{name}/erl2' for name in config.TURNS)}
  assert {row['best'] for row in found} == {None}
  lines = worlds.table(found).splitlines()
  assert len({line.count('|') for line in lines}) == 1


def test_episodes_of_turns_differ_in_what_is_named():
  made = config.get_config('expressions')
  made.rl.episodes.num_episodes = 4  # as on the command line
  groups = experiment_lib.parse(made).groups
  mine = vars(groups['rl'].settings.episodes)
  assert made.task.num_attempts == mine['num_episodes'] == 4
  for name, change in config.TURNS.items():
    assert vars(groups[name].settings.episodes) == mine | change
    report = groups[f'{name}_episodes'].settings.episodes
    assert report.feedback == (mine | change)['feedback']
    assert report.num_episodes == (mine | change)['num_episodes']


def test_parts_of_the_problems_have_rows_of_their_own(tmp_path):
  _write(tmp_path, 'harbour', {
      'sft/episodes': [0.6], 'rl/erl2': [1.0, 0.8], 'rl/rl2': [0.9, 0.9],
      'rl/single': [0.6, 0.6]}, parts=(0, 1))
  rows = {
      (row['part'], row['policy']): row
      for row in worlds.rows('harbour', tmp_path)}
  assert len(rows) == 8
  for part, best, seen in (('on the way', 1.0, 0.9), ('detours', 0.618, 0.45)):
    assert rows[part, 'rl/rl2']['best'] == pytest.approx(best, abs=6e-4)
    assert rows[part, 'rl/rl2']['success'] == pytest.approx(seen)
    assert rows[part, 'rl/erl2']['best'] == pytest.approx(1.0)
    assert rows[part, 'rl/single']['best'] == pytest.approx(0.6)


def test_controls_differ_from_the_tuning_in_one_setting():
  made = config.get_config('safe')
  made.rl.optimizer.learning_rate = 1e-3  # as on the command line
  made.rl.seeds = (7,)
  groups = experiment_lib.parse(made).groups
  mine = groups['rl'].settings
  for name, change in config.CONTROLS.items():
    control, report = (
        groups[key].settings for key in (name, f'{name}_episodes'))
    (key, value), = change.items()
    assert getattr(mine.episodes, key) != value
    assert vars(control.episodes) == vars(mine.episodes) | change
    assert getattr(report.episodes, key) == value
    assert control.optimizer == mine.optimizer and control.seeds == (7,)


def test_what_fails_is_named(tmp_path, capsys):
  with pytest.raises(config_lib.UserError, match='exit code 2'):
    worlds.main([f'--workdir={tmp_path}', f'--output={tmp_path}/x',
                 '--worlds=hilo', '--config.task.num_train=0'])
  with pytest.raises(SystemExit):
    worlds.main([f'--workdir={tmp_path}', f'--output={tmp_path}/x',
                 '--worlds=hylo'])
  assert "did you mean 'hilo'" in capsys.readouterr().err
