# SPDX-License-Identifier: Apache-2.0
"""Programs that read values of whole texts, compiled for TPUs not here."""

import libtpu
import pytest

from configs import kinds
from configs import search as search_config
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.stages import experiment as experiment_lib

assert libtpu  # the compiler; without it nothing here can be tested
START, JUDGE = 'sft/solution_only', 'value/solution_only'


def _experiment():
  config = search_config.get_config('tiny')
  config.model.update(dict(
      num_layers=1, embed_dim=64, num_heads=4, num_kv_heads=4, head_dim=64,
      mlp_dim=64))
  config.labels = kinds.label(source='oracle', records='traces')
  config.value = kinds.train(
      objective='value', start=START, records='labels',
      arms=('solution_only',))
  config.search.solvers = ('samples',)
  config.search.samples.judges = (JUDGE,)
  config.table = kinds.quality(judges=(JUDGE,), policy=START, batch_size=16)
  config.stages = (
      *(s for s in config.stages if s != 'search'), 'labels', 'value',
      'search', 'table')
  return programs_lib.for_accelerator(experiment_lib.parse(config))


@pytest.mark.parametrize('topology, name', [
    ('v5e:2x4', f'search/judge/{JUDGE}'), ('v6e:2x2', 'table/likelihood'),
    ('v5p:2x2x1', f'table/value/{JUDGE}')])
def test_texts_are_read_without_collectives(topology, name):
  found = topology_lib.find(topology)
  result = programs_lib.compile_program(_experiment(), found, name)
  assert result.fits
  assert 0 < result.utilisation(result.times.overlapped) <= 1
  # Only the numbers that were read go to all devices.
  assert set(result.cost.collectives) <= {'all-gather'}
