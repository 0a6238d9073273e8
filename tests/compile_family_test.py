# SPDX-License-Identifier: Apache-2.0
"""Objectives with programs of their own, compiled for TPUs not here."""

import libtpu
import pytest

from configs import dpo as dpo_config
from configs import rl_traces
from configs import search2 as search2_config
from meta_cot.compile import __main__ as compile_lib
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from tests import small_rl

assert libtpu  # the compiler; without it nothing here can be tested


def _experiment(objective, **changes):
  """The smallest model; everything else as it is run on traces."""
  config = rl_traces.tiny()
  config.model.update(dict(
      num_layers=1, embed_dim=64, num_heads=4, num_kv_heads=4, head_dim=64,
      mlp_dim=64))
  config.stages = ('rl',)
  small_rl.change(config.rl, **dict(
      objectives=(objective,), num_questions=16, num_samples=4, num_slots=16,
      episode_length=12, solutions='traces', solution_length=20) | changes)
  return programs_lib.for_accelerator(experiment_lib.parse(config))


@pytest.mark.parametrize('objective', ['apa', 'qstar'])
@pytest.mark.parametrize('part', ['prepare', 'update'])
def test_programs(objective, part):
  result = programs_lib.compile_program(
      _experiment(objective), topology_lib.find('v5e:2x2'),
      f'rl/{objective}/{part}')
  assert result.fits and not result.cost.unknown_loops
  if part == 'update':
    assert list(result.cost.collectives) == ['all-reduce']


def test_preferences():
  config = dpo_config.get_config('tiny')
  config.on_policy.update(dict(batch_size=16, num_loss_chunks=2))
  result = programs_lib.compile_program(
      programs_lib.for_accelerator(experiment_lib.parse(config)),
      topology_lib.find('v5e:2x2'), 'on_policy/train_step')
  assert result.fits
  # Gradients are summed over devices; no row leaves its own.
  assert list(result.cost.collectives) == ['all-reduce']
  # The state is updated in place, the reference stays.
  assert 0 < result.memory.outputs - result.memory.aliased < 8192


def test_labels_of_attempts():
  """Where the last attempt is, the program finds out."""
  config = search2_config.get_config('tiny')
  config.meta_labels.update(dict(num_states=16, max_new_tokens=24))
  result = programs_lib.compile_program(
      programs_lib.for_accelerator(experiment_lib.parse(config)),
      topology_lib.find('v5e:2x2'), 'meta_labels/complete_8')
  assert result.fits


def test_rows_have_room_for_solutions():
  widths = []
  for length in (20, 32):
    experiment = _experiment('qstar', solution_length=length)
    context = small_rl.context_of(experiment, (1, 1, 1))
    build = experiment_lib.programs(experiment, context.mesh)
    arguments = build['rl/qstar/update']().arguments
    widths.append(arguments[1].rows.tokens.shape[1])
  assert widths[1] - widths[0] == 12


@pytest.mark.parametrize('flags, message', [
    ('--config.rl.questions.solutions=None',
     'config.rl.questions.solutions: got None'),
    ('--config.rl.questions.solution_length=400',
     'config.rl.episodes.episode_length: got 128; 128 tokens of a trajectory '
     'after prompts of 16 must be at most config.model.max_length, 112'),
    ('--config.style=stream_of_search',
     'config.rl.episodes.num_episodes: got 1 with objective qstar and style')])
def test_errors(flags, message):
  with pytest.raises(config_lib.ConfigError) as e:
    compile_lib.main([
        '--config=configs/erl2.py:traces_tiny', '--topology=v5e:2x2',
        '--config.stages=rl', '--config.rl.objectives=qstar',
        '--config.rl.questions.solutions=traces', *flags.split()])
  assert str(e.value).startswith(message)
  assert '\n' not in str(e.value)
