# SPDX-License-Identifier: Apache-2.0
"""Small mazes from problems to a report: two seeds, equal examples."""

import dataclasses
import logging

import jax
import pytest

from configs import maze as maze_config
from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import main
from meta_cot import sharding
from meta_cot import traces
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib


def _config():
  c = maze_config.get_config('tiny')
  c.task.update(dict(
      sizes=(3, 4), num_train=64, num_validation=16, num_test=8, min_walls=0.2))
  c.tokenizer.vocabulary.pieces = maze_config.pieces(c.task.sizes)
  c.model.update(dict(num_layers=1, embed_dim=32, mlp_dim=64))
  c.sft.update(dict(
      arms=('traces', 'solution_only', 'solution_only_permuted'), seeds=(0, 3),
      num_tokens=None, num_examples=120, eval_every_steps=1000,
      num_eval_batches=1, save_every_steps=1000))
  c.sft.data.update(dict(sequence_length=192, num_records=40))
  c.evaluate.update(dict(
      reference='sft/traces/seed0', num_problems=8, num_curve_problems=0))
  c.evaluate.samples.update(dict(batch_size=8, max_new_tokens=24))
  return c


def _run(workdir, config):
  experiment = experiment_lib.parse(config)
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:2])
  context = base.Context(
      experiment.shared, experiment.groups, mesh, files.path(workdir))
  with sharding.use_mesh(mesh):
    for group in experiment.chosen():
      main.run(context, group)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('maze')
  _run(path, _config())
  return path


def test_every_word_is_one_token(workdir):
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  records = store.read(workdir / 'traces', 'train')
  for i in range(len(records)):
    text = traces.render(traces.linearize(records[i]), style='searchformer')
    prompt = traces.prompt(records[i].problem, style='searchformer')
    parts = prompt, text.removeprefix(prompt)
    ids = [tokenizer.encode(part) for part in parts]
    assert sum(map(len, ids)) == len(text.split(' '))
    assert ''.join(map(tokenizer.decode, ids)) == text


def test_every_arm_and_seed_is_a_policy(workdir):
  steps, checksums = {}, set()
  for arm in _config().sft.arms:
    for seed in (0, 3):
      folder = workdir / 'sft' / arm / f'seed{seed}'
      summary = files.read_json(folder / 'summary.json')
      assert summary['asked'] == dict(num_examples=120)
      assert (summary['arm'], summary['seed']) == (arm, seed)
      assert files.read_json(folder / 'policy.json')['about']['seed'] == seed
      steps[arm, seed] = summary['num_steps']
      checksums.add(summary['loss'])
  assert len(checksums) == 6
  # Plans are shorter, so that more of them are in a row.
  assert steps['traces', 0] > steps['solution_only', 0] > 0


def test_the_report_has_measures_and_seeds(workdir):
  summary = files.read_json(workdir / 'evaluate' / 'summary.json')
  entries = {
      (e['policy'], e['split']): e for e in summary['success']
      if e['solver'] == 'greedy'}
  assert entries.keys() == {
      (f'sft/{arm}', f'test_{size}')
      for arm in _config().sft.arms for size in (3, 4)}
  for (policy, _), entry in entries.items():
    assert entry['seeds'] == [0, 3] and len(entry['by_seed']) == 2
    assert {'is_optimal', 'swc'} <= entry['means'].keys()
    assert (entry['minus'] is None) == (policy == 'sft/traces')
  assert len(summary['training']) == 6
  assert 'over seeds' in (workdir / 'evaluate' / 'report.md').read_text()


def test_more_seeds_and_more_examples_go_on(workdir, caplog):
  config = _config()
  config.stages = ('problems', 'traces', 'tokenizer', 'sft')
  config.sft.update(dict(arms=('solution_only',), seeds=(0, 3, 5)))
  caplog.set_level(logging.INFO)
  _run(workdir, config)
  trained = [r.message for r in caplog.records if 'steps to a' in r.message]
  assert len(trained) == 1 and trained[0].startswith('solution_only/seed5')
  config.sft.num_examples = 100
  with pytest.raises(config_lib.UserError, match='num_examples 120, now it is'):
    _run(workdir, config)


def test_what_a_run_is_asked_for_is_checked(tmp_path):
  config = _config()
  config.sft.num_tokens = 5
  with pytest.raises(config_lib.ConfigError, match='one of them must be set'):
    experiment_lib.parse(config)
  config.sft.update(dict(num_tokens=None, num_examples=None))
  with pytest.raises(config_lib.ConfigError, match='one of them must be set'):
    experiment_lib.parse(config)
  config = _config()
  config.sft.data.num_records = 65
  config.stages = config.stages[:-1]
  with pytest.raises(config_lib.UserError, match='num_records: got 65; must'):
    _run(tmp_path, config)


@pytest.mark.parametrize('variant', maze_config.VARIANTS)
def test_variants(variant):
  parsed = experiment_lib.parse(maze_config.get_config(variant))
  task, vocabulary = (
      parsed.shared.task, parsed.groups['tokenizer'].settings.vocabulary)
  assert parsed.shared.task_kind == 'maze'
  problem = next(task.problems(task.splits[-1], 0, 1))
  record = task.teacher.search(problem, 'astar', 0)
  text = traces.render(traces.linearize(record), style='searchformer')
  words = text.removeprefix(problem.question).replace(' ', '\n ').split('\n')
  assert {*words[1:]} <= {*vocabulary.pieces}
  assert dataclasses.asdict(task.settings)['sizes'] == task.settings.sizes
