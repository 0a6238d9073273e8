# SPDX-License-Identifier: Apache-2.0
"""Trajectories with branches, compiled for TPUs not here."""

import pytest

from tests import compile_rl_test


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
