# SPDX-License-Identifier: Apache-2.0
"""Parents and their threads, compiled for TPUs not here."""

import libtpu
import pytest

from configs import threads as threads_config
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.stages import experiment as experiment_lib

assert libtpu  # the compiler; without it nothing here can be tested


@pytest.mark.parametrize('topology', [
    'v6e:2x2', pytest.param('v5e:2x2', marks=pytest.mark.slow),
    pytest.param('v5p:2x2x1', marks=pytest.mark.slow)])
def test_threads_run_inside_the_program(topology):
  config = threads_config.tiny()
  config.model.update(dict(num_layers=1, head_dim=64))
  config.table.policies = ('sft',)
  config.stages = ('sft', 'table')
  config.table.episodes.update(dict(num_questions=16, num_slots=16))
  config.table.episodes.threads.update(dict(num_joins=2, num_threads=4))
  experiment = programs_lib.for_accelerator(experiment_lib.parse(config))
  result = programs_lib.compile_program(
      experiment, topology_lib.find(topology), 'table/threads')
  assert result.fits and result.cost.unknown_loops <= 1
  # Flags alone: no text, and no part of a cache.
  assert list(result.cost.collectives) == ['all-reduce']
  reduced = result.cost.collectives['all-reduce']
  assert reduced.num_bytes <= 8 * reduced.count
