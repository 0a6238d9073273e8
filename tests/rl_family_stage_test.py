# SPDX-License-Identifier: Apache-2.0
"""APA and q-STaR on traces, as a user runs them."""

import dataclasses
import json
import subprocess

from etils import epath
import pytest

from configs import erl2 as erl2_config
from data_pipelines import store
from meta_cot import sharding
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from tests import small_rl
from tests import small_run

_FLAGS = (
    '--config.stages=problems,traces,tokenizer,sft,rl',
    '--config.sft.arms=traces',
    '--config.sft.num_tokens=2000', '--config.task.num_train=200',
    '--config.rl.objectives=apa,qstar', '--config.rl.seeds=0',
    '--config.rl.num_iterations=2', '--config.rl.questions.num_questions=4',
    '--config.rl.questions.num_samples=4', '--config.rl.questions.num_slots=8',
    '--config.rl.questions.solutions=traces',
    '--config.rl.episodes.episode_length=10', '--config.rl.eval_every=2',
    '--config.rl.num_eval_problems=4', '--config.rl.save_every=2')


def _run(workdir):
  return subprocess.run(
      small_run.command(
          workdir, *_FLAGS, config='configs/erl2.py:traces_tiny'),
      cwd=small_run.ROOT, env=small_run.environment(), text=True,
      capture_output=True, check=False)


def test_they_train_and_say_what_the_data_lack(tmp_path):
  workdir = tmp_path / 'w'
  done = _run(workdir)
  assert done.returncode == 0, done.stderr[-3000:]
  rows = {
      name: [json.loads(line) for line in (
          workdir / 'rl' / name / 'seed0' / 'metrics.jsonl').open()]
      for name in ('apa', 'qstar')}
  assert all(row['apa_error'] >= 0 for row in rows['apa'])
  assert all(row['reward'] < 0 for row in rows['qstar'])
  assert 'reward' not in rows['apa'][0] and len(rows['qstar']) == 2
  # Every kept row ends with the solution of its problem.
  source = store.read(workdir / 'traces', 'train')
  solved = {record.problem.id: record for record in (
      source[i] for i in range(len(source)))}
  kept = (workdir / 'rl' / 'qstar' / 'seed0' / 'rollouts.jsonl').open()
  for row in map(json.loads, kept):
    given = [t for t, (e, is_trained) in enumerate(zip(
        row['episode'], row['is_trained'])) if is_trained and e < 0]
    assert given == list(range(given[0], len(row['tokens'])))
    assert len(given) > len(solved[row['problem']].solution)
  _check_kind(workdir)


def _check_kind(workdir):
  """Problems are no solutions: that is said in one line."""
  config = erl2_config.get_config('traces_tiny')
  config.rl.update(dict(objectives=('qstar',), num_eval_problems=4))
  config.rl.questions.solutions = 'problems'
  config.stages = ('rl',)
  experiment = experiment_lib.parse(config)
  context = dataclasses.replace(
      small_rl.context_of(experiment, (1, 1, 1)), workdir=epath.Path(workdir))
  group = experiment.groups['rl']
  with sharding.use_mesh(context.mesh), pytest.raises(
      config_lib.UserError, match="problems: has records of kind 'problem', "):
    group.stage.run(context, group.settings, context.workdir / 'other')
