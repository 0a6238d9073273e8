# SPDX-License-Identifier: Apache-2.0
"""The second round of every loop, compiled for TPUs that are not here."""

import libtpu
import pytest

from configs import loops
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.stages import experiment as experiment_lib

assert libtpu  # the compiler; without it nothing here can be tested

_TOPOLOGIES = ('v5e:2x2', 'v5p:2x2x1', 'v6e:2x2')
# What does the work of a round; the rest are copies of small arrays.
_WORK = {
    'star_tiny': ('search2/generate', 'sft2/train_step'),
    'meta_star_tiny': ('search1/best_first', 'search2/generate'),
    'ts_llm_tiny': ('search2/mcts', 'value2/train_step', 'asked2/mcts'),
    'ts_llm_make24_tiny': ('search2/mcts', 'value2/train_step'),
    'shortening_tiny': ('search2/generate', 'sft2/train_step'),
    'mcts_distill_tiny': ('search2/mcts', 'sft2/train_step'),
    'dagger_tiny': ('search2/generate', 'sft2/train_step')}


@pytest.mark.slow
@pytest.mark.parametrize('topology', _TOPOLOGIES)
@pytest.mark.parametrize('variant', loops.VARIANTS)
def test_a_round_compiles(variant, topology):
  config = loops.get_config(variant)
  config.model.update(dict(num_layers=1, head_dim=64))
  found = topology_lib.find(topology)
  experiment = programs_lib.for_accelerator(experiment_lib.parse(config))
  for name in _WORK[variant]:
    result = programs_lib.compile_program(experiment, found, name)
    assert result.fits and result.tokens, name
