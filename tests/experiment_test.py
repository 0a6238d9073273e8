# SPDX-License-Identifier: Apache-2.0
"""Every shipped experiment parses, and settings are checked together."""

import jax
import pytest

from configs import base
from configs import countdown
from meta_cot import sharding
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment


@pytest.mark.parametrize('variant', countdown.VARIANTS)
def test_variants_parse(variant):
  parsed = experiment.parse(countdown.get_config(variant))
  assert parsed.tokenizer.vocab_size <= parsed.model.vocab_size
  longest = parsed.data.sequence_length
  assert parsed.evaluation.max_new_tokens <= longest <= parsed.model.max_length


def test_variants_divide_over_one_two_and_four_devices():
  for variant in countdown.VARIANTS:
    parsed = experiment.parse(countdown.get_config(variant))
    for count in (1, 2, 4) if variant == 'tiny' else (1, 2, 4, 8):
      mesh = sharding.make_mesh(parsed.mesh, jax.devices()[:count])
      assert experiment.rows_per_device(parsed, mesh) >= 1


def test_unknown_variant_lists_the_choices():
  with pytest.raises(ValueError, match="got 'tny'; must be one of tiny"):
    countdown.get_config('tny')


@pytest.mark.parametrize('changes, words', [
    ({'data.sequence_length': 1024}, 'config.data.sequence_length: got 1024'),
    ({'train.batch_size': 9, 'train.num_accumulation': 2},
     'config.train.batch_size: got 9; must be divisible'),
    ({'stages': ('sft', 'evaluat')}, "config.stages.1.: got 'evaluat'"),
    ({'stages': ()}, r'config.stages: got \(\); must have at least 1'),
    ({'arms': ()}, r'config.arms: got \(\); must have at least 1'),
    ({'arms': ('traces', 'traces')}, r"config.arms.1.: got 'traces' a second"),
    ({'search.strategies': ('mcts', 'mcts')}, 'config.search.strategies.1.:'),
    ({'rl.objectives': ('rl2', 'rl2')}, 'config.rl.objectives.1.:'),
    ({'rl.seeds': (3, 3)}, 'config.rl.seeds.1.: got 3 a second time'),
    ({'optimizer.learning_rate': float('inf')}, 'must be a finite number'),
    ({'optimizer.b1': 1.5}, 'config.optimizer.b1: got 1.5; must be at most'),
    ({'task.kind': 'chess'}, "task.kind: got 'chess'; must be one of"),
    ({'task.kind': 'game24'}, 'config.task.enumerate_all: no such key'),
    ({'task.min_number': 21}, 'config.task.min_number: got 21'),
    ({'traces.strategies': 'a_star'},
     "config.traces.strategies: got 'a_star'; must be one of compact, "),
    ({'tokenizer.vocab_size': 256},
     'config.tokenizer.vocab_size: got 256; must be at most'),
])
def test_wrong_settings_name_the_field(changes, words):
  config = base.get_config()
  config.update_from_flattened_dict(changes)
  with pytest.raises(config_lib.UserError, match=words):
    experiment.parse(config)


def test_batch_must_divide_over_the_devices():
  config = base.get_config()
  config.train.batch_size = 12
  parsed = experiment.parse(config)
  mesh = sharding.make_mesh(parsed.mesh)
  with pytest.raises(config_lib.ConfigError, match='divisible by 8 = 8 data'):
    experiment.rows_per_device(parsed, mesh)


@pytest.mark.parametrize('changes', [
    {'stages': ('sft',), 'arms': ('traces',), 'mesh.data': 2},
    {'checkpoint.save_every_steps': 7, 'evaluation.temperature': 0.5},
    {'train.log_every_steps': 7, 'train.eval_every_steps': 7,
     'train.num_eval_batches': 1, 'train.profile_steps': (1, 2)},
    {'train.num_accumulation': 2, 'train.num_loss_chunks': 2},
    {'model.remat': 'full', 'model.layer_loop': 'scan',
     'model.attention': 'dense', 'traces.num_processes': 7},
    {'search.num_slots': 7, 'rl.num_iterations': 7},
])
def test_settings_that_change_nothing_are_free(changes):
  config = base.get_config()
  before = config.to_dict()
  config.update_from_flattened_dict(changes)
  assert config_lib.bound(experiment.parse(config)) == config_lib.bound(
      experiment.parse(before))
  differences = lambda **free: config_lib.differences(
      before, config.to_dict(), where='there', **free)
  assert len(differences()) == len(changes)
  assert differences(cls=experiment.Experiment) == []


@pytest.mark.parametrize('key, value', [
    ('train.num_tokens', 7), ('train.batch_size', 16), ('seed', 7),
    ('tokenizer.path', 'x'), ('model.num_layers', 1)])
def test_other_settings_are_bound(key, value):
  config = base.get_config()
  before = config.to_dict()
  config.update_from_flattened_dict({key: value})
  assert [line.split(':')[0] for line in config_lib.differences(
      before, config.to_dict(), where='there', cls=experiment.Experiment,
  )] == [f'config.{key}']
