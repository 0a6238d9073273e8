# SPDX-License-Identifier: Apache-2.0
"""Every shipped experiment parses, and settings are checked together."""

import jax
import pytest

from configs import countdown
from configs import erl2
from meta_cot import sharding
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment


@pytest.mark.parametrize('variant', countdown.VARIANTS)
def test_variants_parse(variant):
  parsed = experiment.parse(countdown.get_config(variant))
  groups, model = parsed.groups, parsed.shared.model
  assert groups['tokenizer'].settings.vocabulary.vocab_size <= model.vocab_size
  longest = groups['sft'].settings.data.sequence_length
  written = groups['evaluate'].settings.samples.max_new_tokens
  assert written <= longest <= model.max_length


def test_variants_divide_over_one_two_and_four_devices():
  for variant in countdown.VARIANTS:
    parsed = experiment.parse(countdown.get_config(variant))
    for count in (1, 2, 4) if variant == 'tiny' else (1, 2, 4, 8):
      parsed.check_devices(
          sharding.make_mesh(parsed.shared.mesh, jax.devices()[:count]))


def test_unknown_variant_lists_the_choices():
  with pytest.raises(ValueError, match="got 'tny'; must be one of tiny"):
    countdown.get_config('tny')


@pytest.mark.parametrize('changes, words', [
    ({'sft.data.sequence_length': 1024},
     'config.sft.data.sequence_length: got 1024'),
    ({'sft.batch_size': 9, 'sft.num_accumulation': 2},
     'config.sft.batch_size: got 9; num_accumulation, 2, must divide'),
    ({'stages': ('sft', 'evaluat')}, r"config.stages\[1\]: got 'evaluat'"),
    ({'stages': ('sft', 'model')}, r"config.stages\[1\]: got 'model'"),
    ({'stages': ()}, 'config.stages: got nothing; name at least one stage'),
    ({'stages': ('sft', 'sft')}, r"config.stages\[1\]: got 'sft' a second"),
    ({'stages': ('problems', 'tokenizer', 'traces')},
     "config.stages: tokenizer reads 'traces', but traces does not come "
     'before it'),
    ({'tokenizer.records': 'no_such'},
     "config.tokenizer.records: got 'no_such'; 'no_such' is no stage"),
    ({'schema': 1}, 'config.schema: got 1; must be 2'),
    ({'sft.arms': ()}, 'config.sft.arms: got nothing; name at least one arm'),
    ({'sft.arms': ('revisions', 'revisions')},
     r"config.sft.arms\[1\]: got 'revisions' a second"),
    ({'sft.kind': 'trian'}, "config.sft.kind: got 'trian'; did you mean 'tr"),
    ({'compilation_cache': ''}, "config.compilation_cache: got ''; must be"),
    ({'sft.records': ''}, "config.sft.records: got ''; must be STAGE"),
    ({'rl.start': ''}, "config.rl.start: got ''; must be STAGE"),
    ({'sft.start': ''}, "config.sft.start: got ''; must be STAGE"),
    ({'sft.num_tokens': 10**15}, 'config.sft.num_tokens: got 1000000000000000; '
     'must be at most .* of 1073741824 steps'),
    ({'rl.num_iterations': 2**30 + 1},
     'config.rl.num_iterations: got 1073741825; its updates must be at most'),
    ({'seed': 10**400}, 'config.seed: got 10+; must be at most 214748'),
    ({'task.max_number': 1}, 'config.task: no split has a problem'),
    ({'seed': 2**32}, 'config.seed: got 4294967296; must be at most 214748'),
    ({'rl.seeds': (2**32,)}, r'config.rl.seeds\[0\]: got 4294967296; must be'),
    ({'episodes.solvers': ('samples', 'samples')},
     r'config.episodes.solvers\[1\]:'),
    ({'rl.objectives': ('rl2', 'rl2')}, r'config.rl.objectives\[1\]:'),
    ({'rl.seeds': (3, 3)}, r'config.rl.seeds\[1\]: got 3 a second time'),
    ({'rl.start': 'sft/nosuch'},
     "config.rl.start: got 'sft/nosuch', which stage sft does not leave; it "
     'leaves traces, solution_only, revisions'),
    ({'sft.optimizer.learning_rate': float('inf')}, 'must be a finite number'),
    ({'sft.optimizer.b1': 1.5},
     'config.sft.optimizer.b1: got 1.5; must be less than 1.0'),
    ({'task.kind': 'chess'}, "task.kind: got 'chess'; must be one of"),
    ({'task.kind': 'game24'}, 'config.task.enumerate_all: no such key'),
    ({'task.min_number': 21}, 'config.task.min_number: got 21'),
    ({'traces.strategies': 'a_star'},
     "config.traces.strategies: got 'a_star'; must be one of compact, "),
    ({'tokenizer.vocabulary.vocab_size': 256},
     'config.tokenizer.vocabulary.vocab_size: got 256; must be at most'),
    ({'tokenizer.vocabulary.vocab_size': 40,
      'tokenizer.vocabulary.number_tokens': 60},
     'config.tokenizer.vocabulary.*: got'),
])
def test_wrong_settings_name_the_field(changes, words):
  config = erl2.get_config('tiny')
  config.update_from_flattened_dict(changes)
  with pytest.raises(config_lib.UserError, match=words) as error:
    experiment.parse(config)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['seed', 'model', 'task', 'schema'])
def test_what_every_experiment_has_is_named_where_it_is_missing(name):
  config = countdown.get_config('tiny').to_dict()
  del config[name]
  with pytest.raises(config_lib.ConfigError, match=f'config.{name}: missing'):
    experiment.parse(config)


def test_a_group_without_a_kind_is_no_stage():
  config = countdown.get_config('tiny')
  del config.sft['kind']
  with pytest.raises(config_lib.ConfigError, match='config.sft: no such key'):
    experiment.parse(config)


def test_a_stage_that_is_not_there_is_named():
  parsed = experiment.parse(countdown.get_config('tiny'))
  with pytest.raises(config_lib.ConfigError, match="did you mean 'traces'"):
    parsed.chosen(('trace',))


def test_batch_must_divide_over_the_devices():
  config = countdown.get_config('tiny')
  config.sft.batch_size = 12
  parsed = experiment.parse(config)
  mesh = sharding.make_mesh(parsed.shared.mesh)
  with pytest.raises(config_lib.ConfigError, match='divisible by 8 = 8 data'):
    parsed.check_devices(mesh)


def _bound(config):
  """What results may depend on, of all stages."""
  parsed = experiment.parse(config)
  return parsed.shared.bound(), {
      name: config_lib.bound(group.settings)
      for name, group in parsed.groups.items()}


@pytest.mark.parametrize('changes', [
    {'stages': ('problems',), 'sft.arms': ('revisions',), 'mesh.data': 2},
    {'sft.save_every_steps': 7, 'evaluate.samples.temperature': 0.5},
    {'sft.log_every_steps': 7, 'sft.eval_every_steps': 7,
     'sft.num_eval_batches': 1, 'sft.profile_steps': (1, 2)},
    {'sft.num_accumulation': 2, 'sft.num_loss_chunks': 2},
    {'model.execution.remat': 'full', 'model.execution.layer_loop': 'scan',
     'model.execution.attention': 'dense', 'traces.num_processes': 7},
    {'episodes.search.num_slots': 7, 'evaluate.splits': ('heldout_targets',)},
])
def test_settings_that_change_nothing_are_free(changes):
  config = erl2.get_config('tiny')
  before = _bound(config)
  config.update_from_flattened_dict(changes)
  assert _bound(config) == before


@pytest.mark.parametrize('key, value', [
    ('sft.batch_size', 16), ('sft.optimizer.b1', 0.5), ('seed', 7),
    ('tokenizer.vocabulary.number_tokens', 61), ('model.num_layers', 1),
    ('task.max_target', 50), ('style', 'stream_of_search'),
    ('rl.loss.clip_low', 0.1), ('traces.num_shards', 1)])
def test_other_settings_are_bound(key, value):
  config = countdown.get_config('tiny')
  if key.startswith('rl'):
    config = erl2.get_config('tiny')
  before = _bound(config)
  config.update_from_flattened_dict({key: value})
  shared, stages = _bound(config)
  name = key.partition('.')[0]
  changed = [k for k in shared if shared[k] != before[0][k]]
  changed += [k for k in stages if stages[k] != before[1][k]]
  assert changed == [name]
