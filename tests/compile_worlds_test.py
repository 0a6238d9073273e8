# SPDX-License-Identifier: Apache-2.0
"""Episodes that are answered, compiled for TPUs not here."""

import libtpu
import pytest

from configs import worlds as worlds_config
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.stages import experiment as experiment_lib
from tests import small_rl

assert libtpu  # the compiler; without it nothing here can be tested


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
  experiment = programs_lib.for_accelerator(experiment_lib.parse(config))
  result = programs_lib.compile_program(
      experiment, topology_lib.find(topology), 'rl/erl2/rollout')
  assert result.fits and result.cost.unknown_loops <= 1
  # Flags alone: no table of what is said, and no part of a cache.
  assert list(result.cost.collectives) == ['all-reduce']
  reduced = result.cost.collectives['all-reduce']
  assert reduced.num_bytes <= 8 * reduced.count
