# SPDX-License-Identifier: Apache-2.0
"""Labels of states and the training of values, for TPUs that are not here."""

import functools

import libtpu
import pytest

from configs import countdown
from configs import kinds
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.stages import experiment as experiment_lib

assert libtpu  # the compiler; without it nothing here can be tested
TOPOLOGIES = ('v5e:2x2', 'v5p:2x2x1', 'v6e:2x2')
START = 'sft/solution_only'


@functools.cache
def _experiment():
  """The smallest model; two rows of a batch for every device."""
  c = countdown.get_config('tiny')
  c.model.update(dict(
      num_layers=2, embed_dim=64, num_heads=4, num_kv_heads=4, head_dim=64,
      mlp_dim=64))
  c.model.execution.layer_loop = 'scan'
  c.sft.arms = ('solution_only',)
  c.label = kinds.label(
      policy=START, records='traces', num_rollouts=4,
      num_validation_rollouts=4, num_states=8)
  c.value = kinds.train(
      objective='value', records='label', start=START, arms=c.sft.arms)
  c.value.data.value.update(dict(policy_weight=0.5, balance=0.5))
  c.stages = ('problems', 'traces', 'tokenizer', 'sft', 'label', 'value')
  return programs_lib.for_accelerator(experiment_lib.parse(c))


def _compile(name, topology):
  result = programs_lib.compile_program(
      _experiment(), topology_lib.find(topology), name)
  assert result.fits
  return result


def test_the_programs():
  mesh = programs_lib.mesh_of(
      _experiment(), topology_lib.find(TOPOLOGIES[0]))
  names = list(experiment_lib.programs(_experiment(), mesh))
  assert [n for n in names if n.startswith(('label/', 'value/'))] == [
      'label/complete_4', 'value/init', 'value/train_step', 'value/eval_loss']


_FEW = [
    TOPOLOGIES[0], *(pytest.param(topology, marks=pytest.mark.slow)
                     for topology in TOPOLOGIES[1:])]


@pytest.mark.parametrize('topology', _FEW)
def test_labels(topology):
  result = _compile('label/complete_4', topology)
  assert result.tokens == 8 * 4 * 32 and not result.cost.unknown_loops
  assert 0 < result.utilisation(result.times.overlapped) <= 1
  # Questions stay where they are: what goes around says who is done.
  assert list(result.cost.collectives) == ['all-reduce']
  reduced = result.cost.collectives['all-reduce']
  assert reduced.count >= 32 and reduced.num_bytes < 4 * reduced.count + 256


@pytest.mark.parametrize('topology', _FEW)
@pytest.mark.parametrize('name', ['train_step', 'eval_loss'])
def test_values(name, topology):
  result = _compile(f'value/{name}', topology)
  assert not result.cost.unknown_loops
  assert list(result.cost.collectives) == ['all-reduce']
  reduced = result.cost.collectives['all-reduce'].num_bytes
  assert 0 < result.utilisation(result.times.overlapped) <= 1
  if name == 'eval_loss':
    assert reduced < 256  # totals
  else:  # gradients, in bfloat16; weights and moments are updated in place
    num_params = _experiment().shared.model.num_params()
    assert reduced == pytest.approx(2 * num_params, rel=0.15)
    assert result.memory.aliased > 0.99 * result.memory.outputs
