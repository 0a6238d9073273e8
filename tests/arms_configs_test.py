# SPDX-License-Identifier: Apache-2.0
"""Every small config of an arm, checked; drafts asked and counted."""

import pytest

from configs import arms as arms_config
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.settings import config_file
from meta_cot.stages import experiment
from meta_cot.traces.arithmetic import teacher
from tests import small_training


@pytest.mark.parametrize('variant', arms_config.VARIANTS)
def test_every_variant_can_run(variant):
  parsed = experiment.parse(
      config_file.load(f'configs/arms.py:{variant}', ()))
  table = parsed.groups['table'].settings
  trained = [n for n in parsed.stages if n in table.policies]
  assert tuple(trained) == table.policies
  assert parsed.stages[-1] in ('table', 'solved')
  assert len({
      parsed.groups[name].settings.num_tokens for name in table.policies}) == 1


def test_names_of_strategies_are_those_of_the_teacher():
  config = arms_config.get_config('strategies_tiny')
  assert set(config.opened.data.openings) == set(teacher.STREAM_OF_SEARCH)


def test_drafts_need_their_style():
  config = arms_config.get_config('checked_tiny')
  config.style = 'compact'
  with pytest.raises(config_lib.ConfigError, match='compact_drafts'):
    experiment.parse(config)


def _small(variant, *policies):
  config = arms_config.get_config(variant)
  config.stages = ('problems', 'traces', 'tokenizer', *policies, 'table')
  config.model.update(small_training.MODEL | dict(max_length=256))
  config.task.update(dict(num_train=60, max_number=6, max_target=20))
  config.problems.num_shards = config.traces.num_shards = 1
  for name in policies:
    config[name].update(dict(
        seeds=(), num_tokens=3_000, batch_size=4, num_eval_batches=1))
  config.table.update(dict(
      policies=policies, num_problems=4, reference=None,
      solvers=('greedy', 'samples')))
  config.table.samples.update(dict(num_samples=2, max_new_tokens=24))
  return experiment.parse(config)


def test_attempts_are_counted(tmp_path):
  context = small_training.run_stages(
      _small('attempts_tiny', 'attempts'), tmp_path / 'w')
  summary = files.read_json(context.folder('table') / 'summary.json')
  found = [e for e in summary['success'] if e['policy'] != 'symbolic']
  assert {e['policy'] for e in found} == {'attempts/attempts'}
  for entry in found:
    assert entry['means']['attempts'] >= 1


def test_a_policy_is_asked_with_every_budget(tmp_path):
  context = small_training.run_stages(
      _small('budgets_tiny', 'opened'), tmp_path / 'w')
  summary = files.read_json(context.folder('table') / 'summary.json')
  assert {e['policy'] for e in summary['success']} - {'symbolic'} == {
      f'opened/traces {n}' for n in ('48', '96', '160', '256')}
