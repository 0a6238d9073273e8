# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits, and programs of several slices."""

import dataclasses
import json
import random

import libtpu
import pytest

from meta_cot import sharding
from meta_cot.compile import __main__ as compile_lib
from meta_cot.compile import fit
from meta_cot.compile import hlo
from meta_cot.compile import roofline
from meta_cot.compile import topology as topology_lib
from meta_cot.runtime import hardware
from meta_cot.settings import config as config_lib
from meta_cot.settings import config_file
from meta_cot.stages import experiment as experiment_lib

assert libtpu  # the compiler; without it nothing here can be tested
TINY = (
    '--config=configs/countdown.py:tiny', '--config.model.num_layers=1',
    '--config.model.execution.layer_loop=scan')

# A sum of gradients over 4 slices: of each device's part, by the hosts.
SENT = '''ENTRY %e (g: bf16[12,8,128]) -> bf16[12,8,128] {
  %g = bf16[12,8,128]{2,1,0} parameter(0)
  %after-all = token[] after-all()
  %send = (bf16[12,8,128]{2,1,0}, u32[]{:S(2)}, token[]) send(%g, %after-all), \
channel_id=3, is_host_transfer=true, frontend_attributes={\
_xla_megascale_target="{1,2,3,4}x{0:3}",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (bf16[12,8,128]{2,1,0}, u32[]{:S(2)}, token[]) recv(%after-all), \
channel_id=2, is_host_transfer=true
  %send-done = token[] send-done(%send), channel_id=3
  %recv-done = (bf16[12,8,128]{2,1,0}, token[]) recv-done(%recv), channel_id=2
  ROOT %sum = bf16[12,8,128]{2,1,0} get-tuple-element(%recv-done), index=0
}
'''


def test_bisection_finds_what_trying_all_finds():
  """Whatever way memory grows, and no size is compiled twice."""
  for seed in range(500):
    rng, tried = random.Random(seed), []
    base, each, step = rng.randint(0, 99), rng.randint(0, 50), rng.choice(
        (1, 7, 30))
    power = rng.choice((.5, 1, 2))
    peak = lambda n: base + int(each * (n // step * step) ** power)
    capacity, most = rng.randint(0, 3000), rng.choice((1, 5, 300))

    def compiled(n):
      assert 1 <= n <= most
      tried.append(n)
      return peak(n)

    expected = max(
        (n for n in range(1, most + 1) if peak(n) <= capacity), default=0)
    assert fit.largest(compiled, capacity, most) == expected
    assert len(set(tried)) == len(tried)


def test_memory_that_grows_evenly_takes_five_compilations():
  tried, capacity = [], hardware.V5P.hbm_bytes

  def peak(n):
    tried.append(n)
    return 30_000_000_000 + 1_370_000_000 * n

  assert fit.largest(peak, capacity, 2 ** 20) == 53
  assert tried == [1, 2, 32, 53, 54]


def run(capsys, *arguments):
  compile_lib.main([*TINY, *arguments, '--json'])
  return json.loads(capsys.readouterr().out)


@pytest.fixture
def small_chip(monkeypatch):
  """A v6e that has as little memory as is asked for."""
  def make(hbm_bytes):
    chip = dataclasses.replace(hardware.V6E, hbm_bytes=hbm_bytes)
    monkeypatch.setattr(
        hardware, 'CHIPS', hardware.CHIPS | {'TPU v6 lite': chip})
  return make


@pytest.mark.slow
def test_the_largest_batch_of_tiny(capsys, small_chip):
  small_chip(100_000_000)
  report = run(
      capsys, '--topology=v6e:1x1', '--fit=sft', '--remat=full',
      '--config.sft.num_accumulation=2', '--config.sft.batch_size=64',
      '--config.sft.data.num_streams=64')
  (answer,) = report['fit']
  assert (answer['field'], answer['remat'], answer['pieces']) == (
      'sft.batch_size', 'full', {'num_accumulation': 2})
  # Streams of data divide a batch; 32 rows are there at once.
  assert (answer['unit'], answer['largest'], answer['per_device']) == (
      64, 64, 32)
  assert answer['tried'] == [
      dict(value=64, fits=True), dict(value=128, fits=False)]
  assert not answer['is_most']
  step, evaluation = answer['results']
  assert step['name'] == 'sft/train_step' and step['hbm']['peak'] < 100_000_000
  # Beside a loss are two moments: of weights and moments, which XLA pads, two
  # thirds.
  assert answer['beside'] == {
      'sft/train_step': 0, evaluation['name']: pytest.approx(
          2 * step['hbm']['aliased'] / 3, rel=.15)}


def test_fit_says_what_it_cannot_answer():
  for arguments, message in (
      (['--fit=sfd'], "--fit: got 'sfd'; did you mean 'sft'"),
      (['--fit=traces'], "--fit: got 'traces'"),
      (['--fit=sft', '--remat=some'], "config.model.execution.remat: got "
       "'some'")):
    with pytest.raises(config_lib.UserError) as e:
      compile_lib.main([*TINY, '--topology=v5e:2x2', *arguments])
    assert message in str(e.value) and '\n' not in str(e.value)


def test_what_does_not_fit_says_so(capsys, small_chip):
  small_chip(1_000_000)
  with pytest.raises(SystemExit) as e:
    compile_lib.main([*TINY, '--topology=v6e:1x1', '--fit=evaluate'])
  assert e.value.code == compile_lib.EXIT_DOES_NOT_FIT
  lines = capsys.readouterr().out.splitlines()
  assert lines[3].split()[:2] == ['evaluate.samples.batch_size', 'none']
  assert any('does not fit with remat' in line for line in lines)
  assert ' GiB ' in lines[-1]  # the largest buffers


def test_the_known_topologies(capsys):
  compile_lib.main(['--topologies'])
  lines = dict(
      line.split(': ') for line in capsys.readouterr().out.splitlines())
  assert set(lines) == set(topology_lib.SHAPES)
  assert '2x2x1' in lines['tpu7x'].split(', ')
  assert '16x16' in lines['v6e'].split(', ')


def test_two_slices_sum_gradients_between_them(capsys):
  report = run(
      capsys, '--topology=v5e:2x2', '--num_slices=2', '--config.mesh.data=2',
      '--config.mesh.fsdp=4', '--programs=sft/train_step',
      '--config.sft.batch_size=8', '--config.sft.data.num_streams=8')
  assert (report['num_slices'], report['num_devices']) == (2, 8)
  (step,) = report['programs']
  between = {k: v for k, v in step['collectives'].items()
             if k.endswith(roofline.BETWEEN)}
  assert set(between) == {'all-reduce between slices'}
  sent = between['all-reduce between slices']
  # Each of 4 devices sends its part of the gradients in bfloat16; of 2 slices
  # every byte goes out once.
  state = step['hbm']['aliased'] / 3 / 4  # weights of 3 float32 arrays
  assert sent['sent'] == sent['num_bytes']
  assert sent['num_bytes'] == pytest.approx(2 * state, rel=.15)
  assert step['seconds']['dcn'] == pytest.approx(
      sent['sent'] / hardware.V5E.dcn_bandwidth)


def test_what_is_sent_between_slices():
  cost = roofline.cost(hlo.parse(SENT), num_devices=4, num_slices=4)
  size = 12 * 8 * 128 * 2
  assert cost.collectives == {
      'all-reduce between slices': roofline.Traffic(1, size, size * 3 / 2)}
  assert cost.sent == 0 and cost.sent_between == size * 3 / 2
  assert cost.hbm_bytes == 2 * size  # read by one, written by the other
  times = roofline.times(cost, hardware.V5P, (2, 2, 1), model_flops=1.0)
  assert times.dcn == size * 3 / 2 / 6.25e9 and times.bound == 'dcn'


@pytest.mark.parametrize('sizes, across', [
    ((-1, 1, 1), 'data'), ((2, -1, 1), 'data'), ((1, -1, 2), 'fsdp')])
def test_a_mesh_of_two_slices(sizes, across):
  """The outermost axis that can goes across them."""
  found = topology_lib.find('v6e:2x2', 2)
  mesh = sharding.make_mesh(sharding.MeshConfig(*sizes), list(found.devices))
  axis = mesh.axis_names.index(across)
  size = mesh.devices.shape[axis]
  for number in range(size):
    slices = {sharding.slice_of(d)
              for d in mesh.devices.take(number, axis).flat}
    assert slices == {number // (size // 2)}


def test_half_a_chip_is_a_device_of_tpu7x():
  found = topology_lib.find('tpu7x:2x2x1')
  assert len(found.devices) == 8 and found.chip is hardware.TPU7X


@pytest.mark.parametrize('config, stage, field, programs, unit', [
    ('erl2', 'rl', 'questions.num_questions',
     ('erl2/update', 'erl2/prepare'), 2),
    ('erl2', 'rl', 'questions.num_slots', ('erl2/rollout', 'erl2/evaluate'), 1),
    ('search', 'search', 'search.num_slots', ('beam', 'start'), 1),
    ('search', 'search', 'samples.batch_size', ('generate',), 1)])
def test_what_grows_and_what_is_beside(config, stage, field, programs, unit):
  """Nothing is compiled here: the shapes of programs say what is beside."""
  overrides = {
      'rl.objectives': "('erl2',)", 'rl.questions.num_samples': 4,
      'rl.updates.num_minibatches': 1, 'rl.updates.num_accumulation': 8,
  } if stage == 'rl' else {'search.solvers': "('samples','beam')"}

  def make(changes):
    return experiment_lib.parse(config_file.load(
        f'configs/{config}.py:tiny', [
            config_file.Override(k, str(v))
            for k, v in {**overrides, **changes}.items()]))

  batch, = (b for b in fit.BATCHES[
      'rl' if stage == 'rl' else 'evaluate'] if b.field == field)
  search = fit.Search(
      make, topology_lib.find('v6e:1x1'), stage, batch, {}, print)
  assert set(programs) <= set(search.names)
  assert search.names[0] == programs[0] and search.unit == unit
  weights = 4 * make({}).shared.model.num_params()
  beside = {'erl2/update': 1, 'erl2/prepare': 2, 'erl2/rollout': 3,
            'erl2/evaluate': 3, 'beam': 1, 'start': 1, 'generate': 0}
  for name in programs:
    assert search.beside[name] == pytest.approx(
        beside[name] * weights, rel=1e-3)
