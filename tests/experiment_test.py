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
