# SPDX-License-Identifier: Apache-2.0
"""Programs compiled for TPUs that are not here, and what is read from them."""

import dataclasses
import json
import pathlib

import libtpu
import pytest

from configs import countdown
from meta_cot.compile import __main__ as compile_lib
from meta_cot.compile import hlo
from meta_cot.compile import loops
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import roofline
from meta_cot.compile import topology as topology_lib
from meta_cot.compile import work
from meta_cot.runtime import hardware
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib

assert libtpu  # the compiler; without it nothing here can be tested
_FOLDER = pathlib.Path(__file__).parent / 'golden'
TINY = '--config=configs/countdown.py:tiny'
PROGRAMS = ('sft/init', 'sft/train_step', 'sft/eval_loss', 'evaluate/prefill',
            'evaluate/generate')

# What TPU programs look like: a layer loop of 5 turns with a matrix product, an
# all-gather, a permute, and a reduce-scatter as a fusion; all in HBM but the
# activations, which lie in VMEM, S(1).
GOLDEN = (_FOLDER / 'tpu_program.txt').read_text()
ASSIGNMENT = (_FOLDER / 'tpu_buffer_assignment.txt').read_text()


def test_golden_loops():
  module = hlo.parse(GOLDEN)
  loop = module.entry.instructions['while.1']
  # 1, 3, 5, 7, 9: below 11 in steps of 2.
  assert loops.trip_count(loop) == 5
  assert module.entry.root.name == 'tuple.3'


def test_golden_work():
  cost = roofline.cost(hlo.parse(GOLDEN), num_devices=4)
  assert cost.flops == 5 * 2 * 32 * 128 * 128
  assert cost.unknown_loops == 0
  gathered, permuted, reduced = 128 * 128 * 2, 32 * 128 * 2, 8 * 128 * 4
  assert cost.collectives == {
      'all-gather': roofline.Traffic(5, 5 * gathered, 5 * gathered / 2),
      'collective-permute': roofline.Traffic(5, 5 * permuted, 5 * permuted),
      'reduce-scatter': roofline.Traffic(1, reduced, reduced * 3 / 4)}
  # A layer is read as its slice, written, read again by the gather, whose
  # result is written and read; everything else lies in VMEM.
  layer = 128 * 64 * 2
  scalars = 5 * (4 + 4 + 4 + 4) + 5 * (4 + 4 + 1) + 8
  turns = 5 * (3 * layer + 2 * gathered)
  scatter = reduced + 2 * 128 * 4
  assert cost.hbm_bytes == pytest.approx(turns + scatter + scalars, rel=1e-3)


def test_a_data_dependent_loop_counts_once_and_says_so():
  text = GOLDEN.replace('direction=LT', 'direction=NE')
  cost = roofline.cost(hlo.parse(text), num_devices=4)
  assert cost.unknown_loops == 1
  assert cost.flops == 2 * 32 * 128 * 128


@pytest.mark.parametrize('attributes, size', [
    ('replica_groups={{0,1},{2,3}}, x', 2), ('replica_groups=[2,8]<=[16]', 8),
    ("replica_groups=mesh['a'=4,'b'=2] {'a'}, y", 4),
    ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8), ('no groups', 16)])
def test_groups(attributes, size):
  assert roofline.group_size(attributes, 16) == size


@pytest.mark.parametrize('shape, attributes, flops', [
    # The batch as a window of which each output meets one place.
    (('bf16[8,16,64]', 'bf16[8,64,32]', 'bf16[8,16,32]'),
     'window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf',
     2 * 8 * 16 * 64 * 32),
    # Contracted over features and over a window as long as the input.
    (('bf16[16,2,64]', 'bf16[32,2,64]', 'bf16[16,32,1]'),
     'window={size=2}, dim_labels=b0f_o0i->bf0', 2 * 16 * 2 * 64 * 32),
    # A padded window: of 2 x 2 pairs, each output meets one input.
    (('bf16[16,64,1]', 'bf16[64,2,32]', 'bf16[16,2,32]'),
     'window={size=2 pad=1_1 rhs_reversal=1}, dim_labels=bf0_i0o->b0f',
     2 * 16 * 64 * 2 * 32)])
def test_convolutions_count_their_products(shape, attributes, flops):
  left, right, out = shape
  text = (
      f'ENTRY %e (a: {left}, b: {right}) -> {out} {{\n'
      f'  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n'
      f'  ROOT %c = {out} convolution(%a, %b), {attributes}\n}}\n')
  entry = hlo.parse(text).entry
  assert work.flops_of_product(entry.instructions['c']) == flops


def test_splash_kernels_count_whole_blocks():
  text = (
      'ENTRY %e (t: s8[1,4,4], q: bf16[2,8,2048,128]) -> bf16[1] {\n'
      '  %t = s8[1,4,4] parameter(0)\n  %q = bf16[2,8,2048,128] parameter(1)\n'
      '  %splash_mha_dq_no_residuals.1 = bf16[1] custom-call(%t, %q, %q)\n'
      '  ROOT %other = bf16[1] custom-call(%t, %q)\n}\n')
  entry = hlo.parse(text).entry
  # Three products over 10 of 16 pairs of 512 x 512 blocks, 16 heads.
  flops = work.flops_of_kernel(
      entry.instructions['splash_mha_dq_no_residuals.1'])
  assert flops == 2 * 3 * 16 * 128 * 10 * 512 * 512
  assert work.flops_of_kernel(entry.instructions['other']) == 0


def test_buffer_assignment():
  memory = hlo.memory(ASSIGNMENT)
  assert memory == hlo.Memory(
      arguments=4096, outputs=5120, aliased=4096, temporaries=9512, code=0)
  assert memory.peak == 4096 + 1024 + 9512
  assert hlo.largest(ASSIGNMENT, hlo.parse(GOLDEN), 2) == [
      hlo.Buffer(8192, 'bf16[32,128]', 'layer/dot'),
      hlo.Buffer(4096, 'f32[8,128]', 'x.1')]


@pytest.mark.parametrize('chip, shape, links', [
    (hardware.V5E, (2, 2), 2), (hardware.V5E, (2, 4), 2.5),
    (hardware.V5E, (4, 16), 3.5), (hardware.V5P, (2, 2, 4), 3.5),
    (hardware.V5P, (4, 4, 4), 6), (hardware.V6E, (1, 1), 0),
    (hardware.TPU7X, (2, 2, 1), 2), (hardware.TPU7X, (4, 4, 8), 6)])
def test_links(chip, shape, links):
  assert hardware.links_per_chip(chip, shape) == links


@pytest.mark.parametrize('name, found', [
    ('v5p-32', 'v5p:2x2x4'), ('v5e-8', 'v5e:2x4'), ('v6e-4', 'v6e:2x2'),
    ('v5litepod-16', 'v5e:4x4'), ('v5p:4x4x4', 'v5p:4x4x4'),
    ('tpu7x-2x2x1', 'tpu7x:2x2x1')])
def test_topologies(name, found):
  assert topology_lib.find(name).name == found


@pytest.mark.parametrize('arguments, message', [
    (['--topology=v5e:2x2'], '--config: missing'),
    ([TINY], '--topology: missing'),
    ([TINY, '--topology=v9:2x2'], "got 'v9:2x2'; must be GENERATION:CHIPS"),
    ([TINY, '--topology=v9:2x2'], 'libtpu knows v5e: 1x1, 2x2, 2x4'),
    ([TINY, '--topology=tpu7x-8'], "got 'tpu7x-8'; must be chips along each"),
    ([TINY, '--topology=v5p-30'], "got 'v5p-30'; must be one of v5p-8, "),
    ([TINY, '--topology=v5e:3x5'], "got 'v5e:3x5'; libtpu knows no such slice; "
     'of v5e it knows 1x1, 2x2'),
    ([TINY, '--topology=v5e:2x2', '--num_slices=none'],
     "--num_slices: got 'none'; must be a number >= 1"),
    ([TINY, '--topology=v5e:2x2', '--num_slices=3', '--config.mesh.data=4',
      '--config.mesh.fsdp=1', '--config.mesh.model=3'],
     'config.mesh: data 4 and fsdp 1: one must be a multiple of 3'),
    ([TINY, '--topology=v5e:2x2', '--programs=train'],
     "--programs: got 'train'; did you mean 'sft/train_step'"),
    ([TINY, '--topology=v5e:2x4', '--config.sft.batch_size=4',
      '--config.sft.data.num_streams=2'],
     'config.sft.batch_size: got 4; must be divisible by 8'),
    ([TINY, '--topology=v6e:8x8', '--config.mesh.model=4'],
     'config.mesh: data x fsdp x model = 16 x 1 x 4 cannot be laid out'),
    ([TINY, '--topology=v5e:2x2', '--config.mesh.fsdp=4',
      '--config.model.embed_dim=90'],
     "axis 'embed' of size 90 does not divide over mesh axes ('fsdp',)")])
def test_errors(arguments, message):
  with pytest.raises(config_lib.UserError) as e:
    compile_lib.main(arguments)
  assert message in str(e.value)
  assert '\n' not in str(e.value)


def test_without_libtpu(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  monkeypatch.delenv('TPU_LIBRARY_PATH', raising=False)
  with pytest.raises(config_lib.UserError, match='pip install libtpu'):
    topology_lib.find('v5e:2x2')


def run(capsys, *arguments):
  compile_lib.main([*arguments, '--json'])
  return json.loads(capsys.readouterr().out)


def test_every_program_of_tiny(capsys):
  report = run(
      capsys, TINY, '--topology=v5e:2x2', '--config.model.num_layers=2',
      '--config.model.execution.layer_loop=scan')
  assert set(report) == {
      'config', 'topology', 'chip', 'num_slices', 'num_devices', 'mesh', 'fits',
      'programs'}
  assert report['fits'] and report['num_devices'] == 4
  assert report['mesh'] == {'data': 4, 'fsdp': 1, 'model': 1}
  assert [p['name'] for p in report['programs']] == list(PROGRAMS)
  keys = {frozenset(p) for p in report['programs']}
  assert len(keys) == 1
  for program in report['programs']:
    hbm = program['hbm']
    assert hbm['peak'] == (
        hbm['arguments'] + hbm['outputs'] - hbm['aliased']
        + hbm['temporaries'] + hbm['code']) < hbm['capacity']
    assert program['largest_buffers'] and not program['unknown_loops']
    assert program['seconds']['overlapped'] <= program['seconds']['serial']
    if program['name'] != 'sft/init':
      assert 0 < program['mfu_serial'] <= program['mfu_overlapped'] <= 1
  step = report['programs'][PROGRAMS.index('sft/train_step')]
  # Weights and moments are updated in place, gradients summed over devices.
  assert step['hbm']['aliased'] > 0.99 * step['hbm']['outputs']
  config = countdown.get_config()
  config.model.num_layers = 2
  model = experiment_lib.parse(config).shared.model
  assert step['collectives']['all-reduce']['num_bytes'] == (
      pytest.approx(2 * model.num_params(), rel=0.15))  # in bfloat16
  # 255 tokens, one after the other, after the prompts; their attention to the
  # 16 slots of a prompt that rows share is a product, else element-wise.
  prefill, generate = report['programs'][-2:]
  assert generate['flops'] - prefill['flops'] == pytest.approx(
      64 * 255 * model.flops_per_token(16), rel=0.02)


def compiled(config, topology, name):
  """The model as it runs there, and one program."""
  experiment = programs_lib.for_accelerator(experiment_lib.parse(config))
  topology = topology_lib.find(topology)
  return experiment.shared.model, programs_lib.compile_program(
      experiment, topology, name)


def test_flops_are_those_of_the_formula():
  config = countdown.get_config('tiny')
  config.model.num_layers = 3
  config.model.execution.update(dict(layer_loop='scan', remat='full'))
  config.sft.num_accumulation = 2
  model, result = compiled(config, 'v6e:1x1', 'sft/train_step')
  rows, length = config.sft.batch_size, config.sft.data.sequence_length
  # Everything is made twice but the logits and the last product of a block.
  flops = 4 * model.flops_per_token(0) - 2 * model.embed_dim * (
      model.vocab_size + model.num_layers * model.mlp_dim)
  assert result.cost.flops - result.cost.kernel_flops == (
      pytest.approx(flops * rows * length, rel=0.01))
  # One block of 256 x 256 pairs; forward twice, backward 3 + 4 products.
  heads = rows * model.num_layers * model.num_heads
  assert result.cost.kernel_flops == (
      2 * (2 + 2 + 3 + 4) * heads * model.head_dim * 256 ** 2)
  assert result.model_flops == (
      3 * model.flops_per_token(length / 2) * rows * length)
  assert result.fits and result.memory.arguments > 12 * model.num_params()


def check_train_step(capsys, config, topology, peak_gib, utilisation):
  report = run(
      capsys, f'--config={config}', f'--topology={topology}',
      '--programs=train_step')
  (step,) = report['programs']
  assert step['fits'] and not step['unknown_loops']
  assert step['hbm']['peak'] == pytest.approx(
      peak_gib * hardware.GIB, rel=0.05)
  assert step['mfu_overlapped'] == pytest.approx(utilisation, rel=0.05)
  assert step['kernel_flops'] > 0
  return step


# The numbers of docs/pods.md.
@pytest.mark.slow
def test_8b_on_v5p(capsys):
  step = check_train_step(
      capsys, 'configs/llama31.py:8b_v5p_32', 'v5p-32', 60.0, 0.937)
  # Weights and two moments, a sixteenth of each.
  assert step['hbm']['arguments'] == pytest.approx(8.03e9 * 12 / 16, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize('config, topology, peak_gib, utilisation', [
    ('configs/countdown.py:pod', 'v5e-8', 14.0, 0.856),
    ('configs/llama31.py:8b_v5e_64', 'v5e-64', 10.9, 0.782),
    ('configs/llama31.py:70b_v5p_128', 'v5p-128', 62.9, 0.970)])
def test_pods(capsys, config, topology, peak_gib, utilisation):
  check_train_step(capsys, config, topology, peak_gib, utilisation)


def test_what_does_not_fit_is_refused_and_named(capsys):
  with pytest.raises(SystemExit) as e:
    compile_lib.main([
        '--config=configs/llama31.py:8b_v5p_32', '--topology=v5e:2x2',
        '--programs=init', '--config.sft.batch_size=16'])
  assert e.value.code == 1
  out = capsys.readouterr().out
  assert 'sft/init does not fit: it takes' in out
  # A quarter of the feed-forward weights, or of their moments.
  assert 'f32[32,1024,14336]' in out or 'f32[32,14336,1024]' in out


def test_too_much_is_seen_without_xla():
  _, result = compiled(
      countdown.get_config('tiny'), 'v6e:2x2', 'sft/eval_loss')
  assert result.fits
  assert not dataclasses.replace(
      result, capacity=result.memory.peak - 1).fits
