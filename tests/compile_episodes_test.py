# SPDX-License-Identifier: Apache-2.0
"""Episodes that are answered or have branches, compiled for TPUs not here."""

import pytest

from configs import worlds as worlds_config
from meta_cot.compile import __main__ as compile_lib
from meta_cot.stages import experiment as experiment_lib
from tests import compile_rl_test
from tests import small_rl


@pytest.mark.parametrize('kind, topology', [
    ('safe', 'v6e:2x2'), ('harbour', 'v5e:2x2'),
    pytest.param('safe', 'v5p:2x2x1', marks=pytest.mark.slow)])
def test_worlds_answer_inside_the_program(kind, topology):
  config = worlds_config.get_config(kind)
  config.model.update(dict(num_layers=1, head_dim=64))
  config.stages = ('rl', 'episodes')
  small_rl.change(
      config.rl, objectives=('erl2',), num_questions=16, num_samples=4,
      num_slots=16)
  experiment = compile_lib.for_accelerator(experiment_lib.parse(config))
  compile_rl_test._check_play(experiment, topology, 'rl/erl2/rollout')


@pytest.mark.parametrize('topology', [
    'v6e:2x2', pytest.param('v5e:2x2', marks=pytest.mark.slow),
    pytest.param('v5p:2x2x1', marks=pytest.mark.slow)])
def test_trees_are_drawn_and_learned(topology):
  experiment = compile_rl_test._experiment(
      'single', num_branches=3, branch_at='entropy', num_episodes=1)
  for part in ('leave', 'branch', 'prepare'):
    assert compile_rl_test._measure(
        experiment, topology, f'rl/single/{part}').fits
  compile_rl_test._check_update(experiment, topology, 'rl/single/update')
