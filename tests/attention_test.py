# SPDX-License-Identifier: Apache-2.0
"""Fused attention: the same numbers as dense, and programs that compile."""

import functools
import re

from flax.linen import meta
import hypothesis
from hypothesis import strategies as st
import jax
from jax.experimental import topologies
import jax.numpy as jnp
import libtpu
import numpy as np
import pytest

from configs import models
from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import splash
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib

_SMALL = models.get('tiny') | dict(
    vocab_size=32, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2,
    head_dim=8, mlp_dim=24, max_length=1024)
_GEMMA = {
    'block.activation': 'gelu_tanh', 'block.norm_plus_one': True,
    'block.use_post_norms': True, 'block.use_qk_norm': True,
    'block.query_scale': 0.3, 'block.attention_softcap': 5.0,
    'block.sliding_window': 40, 'block.sliding_window_pattern': 2,
    'rope.local_theta': 100.0}
_MISTRAL = {'block.sliding_window': 40, 'execution.layer_loop': 'unroll'}
_QWEN = {
    'block.use_qkv_bias': True, 'block.sliding_window': 40,
    'block.sliding_window_pattern': 2}
VARIANTS = {'gemma': _GEMMA, 'mistral': _MISTRAL, 'qwen': _QWEN}
_SPLASH = {'execution.attention': 'splash'}
_CUDNN = {'execution.attention': 'cudnn'}
_FLOAT32 = {'execution.compute_dtype': 'float32'}
_BFLOAT16 = {'execution.compute_dtype': 'bfloat16'}
_SOFTCAP = {'block.attention_softcap': 5.0}
_LENGTH = 200  # no multiple of a block


def make_config(changes=()) -> model_config.ModelConfig:
  return config_lib.parse(model_config.ModelConfig, _SMALL | dict(changes))


@functools.cache
def make_params(config):
  shapes = meta.unbox(jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0)))
  noise = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: jnp.asarray(0.3 * noise.standard_normal(x.shape), x.dtype),
      shapes)


def make_tokens(shape):
  return jax.random.randint(jax.random.key(7), shape, 0, 32)


def pack(rows, length):
  """Lengths of segments per row -> positions, segment ids (0: padding)."""
  positions, ids = np.zeros((2, len(rows), length), np.int32)
  for row, lengths in enumerate(rows):
    start = 0
    for i, n in enumerate(lengths, start=1):
      positions[row, start:start + n] = np.arange(n)
      ids[row, start:start + n] = i
      start += n
  return positions, ids


def make_heads(config, batch_size, length, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(1), 3)
  heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
  return tuple(
      jax.random.normal(key, (batch_size, n, length, config.head_dim), dtype)
      for key, n in zip(keys, heads))


def _attend(config, heads, positions, ids, *, implementation, is_global):
  """One call of attention through its context."""
  context = attention.make_context(
      config, positions, segment_ids_BxL=ids, implementation=implementation,
      is_global=is_global)
  return attention.apply(config, *heads, context)


@functools.partial(
    jax.jit, static_argnames=('config', 'implementation', 'is_global'))
def attend_and_grads(
    config, heads, weights, positions, ids, *, implementation, is_global):
  """The output, and gradients of a random read-out of it."""

  def loss(heads):
    out = _attend(
        config, heads, positions, ids, implementation=implementation,
        is_global=is_global)
    return jnp.sum(out.astype(jnp.float32) * weights), out

  (_, out), grads = jax.value_and_grad(loss, has_aux=True)(heads)
  return out, grads


@hypothesis.settings(max_examples=8)
@hypothesis.given(
    st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=6),
             min_size=2, max_size=2), st.booleans())
def test_any_packing_gives_what_dense_gives(rows, is_global):
  length = 640  # five blocks of 128
  config = make_config({
      'num_heads': 2, 'num_kv_heads': 1, 'block.sliding_window': 150,
      'block.attention_softcap': 4.0})
  ends = [np.minimum(np.cumsum(row), length) for row in rows]
  rows = [np.diff(end, prepend=0) for end in ends]
  positions, ids = pack(rows, length)
  heads = make_heads(config, 2, length)
  is_text = jnp.asarray(ids > 0)[:, None, :, None]
  weights = jnp.where(
      is_text, jax.random.normal(jax.random.key(2), heads[0].shape), 0.0)
  run = lambda name: attend_and_grads(
      config, heads, weights, positions, ids, implementation=name,
      is_global=is_global)
  (got, got_grads), (want, want_grads) = run('splash'), run('dense')
  assert np.all(np.isfinite(got))  # padding too
  np.testing.assert_allclose(
      jnp.where(is_text, got, 0), jnp.where(is_text, want, 0), atol=2e-6)
  for one, two in zip(got_grads, want_grads):
    np.testing.assert_allclose(one, two, atol=1e-5)
  # What stands in padding reaches no text.
  heads = tuple(jnp.where(is_text, x, 3.0 - x) for x in heads)
  noisy, noisy_grads = run('splash')
  np.testing.assert_array_equal(
      jnp.where(is_text, noisy, 0), jnp.where(is_text, got, 0))
  jax.tree.map(np.testing.assert_array_equal, noisy_grads, got_grads)


def _loss(config, params, tokens, positions, ids):
  output = transformer.forward(
      config, params, tokens, positions_BxL=positions, segment_ids_BxL=ids)
  is_text = ids > 0
  logits = jnp.where(is_text[:, :, None], output.logits, 0.0)
  loss = jnp.mean(logits ** 2) + jnp.mean(
      jnp.where(is_text, output.values, 0.0))
  return loss, output.logits


run_model = jax.jit(
    jax.value_and_grad(_loss, 1, has_aux=True), static_argnums=0)


@pytest.mark.parametrize('variant, implementation', [
    ('gemma', 'splash'),
    pytest.param('mistral', 'splash', marks=pytest.mark.slow),
    ('qwen', 'cudnn')])
def test_a_model_gives_the_same_numbers_and_gradients(variant, implementation):
  config = make_config(VARIANTS[variant])
  params, tokens = make_params(config), make_tokens((2, _LENGTH))
  positions, ids = pack([[90, 60], [_LENGTH]], _LENGTH)
  fused = make_config(
      VARIANTS[variant] | {'execution.attention': implementation})
  (want, want_logits), want_grads = run_model(
      config, params, tokens, positions, ids)
  (got, got_logits), got_grads = run_model(
      fused, params, tokens, positions, ids)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(
      got_logits[ids > 0], want_logits[ids > 0], atol=5e-5)
  assert np.all(np.isfinite(got_logits))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
      got_grads, want_grads)


@pytest.mark.parametrize('implementation', ['splash', 'cudnn'])
def test_bfloat16_differs_by_rounding_only(implementation):
  config = make_config()
  positions, ids = pack([[100, 28], [128]], 128)
  exact = make_heads(config, 2, 128, jnp.bfloat16)
  weights = jax.random.normal(jax.random.key(2), exact[0].shape)
  want, want_grads = attend_and_grads(
      config, tuple(x.astype(jnp.float32) for x in exact), weights, positions,
      ids, implementation='dense', is_global=True)
  got, got_grads = attend_and_grads(
      config, exact, weights, positions, ids, implementation=implementation,
      is_global=True)
  assert got.dtype == jnp.bfloat16
  for one, two in ((got, want), *zip(got_grads, want_grads)):
    error = jnp.linalg.norm(one.astype(jnp.float32) - two)
    assert 0 < error < 0.01 * jnp.linalg.norm(two)  # bfloat16: 2 ** -8


def test_prefill_and_decoding_write_what_dense_writes():
  config = make_config(_GEMMA)
  params, prompts = make_params(config), make_tokens((2, 70))
  lengths = jnp.array([70, 51])
  run = jax.jit(
      decode.generate, static_argnums=0,
      static_argnames=('max_new_tokens', 'sampling', 'eos_ids'))
  one, two = (
      run(c, params, prompts, lengths, jax.random.key(0), max_new_tokens=6,
          sampling=decode.Sampling(0.0), eos_ids=())
      for c in (config, make_config(_GEMMA | _SPLASH)))
  np.testing.assert_array_equal(one.tokens, two.tokens)
  np.testing.assert_allclose(one.log_probs, two.log_probs, atol=1e-4)


def _abstract(platform):
  """Stands for three axes of one device each of a platform not at hand."""
  return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh(
      (1, 1, 1), sharding.MESH_AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
      abstract_device=jax.sharding.AbstractDevice(
          device_kind='TPU v5 lite', num_cores=1, platform=platform)))


def _kernels(function, *args):
  """Names of the kernels in a function's program for TPUs."""
  with _abstract('tpu'):
    lowered = jax.jit(function).trace(*args).lower(
        lowering_platforms=('tpu',))
  return re.findall('kernel_name = "splash_mha_([a-z]*)', lowered.as_text())


def test_only_whole_rows_take_the_kernel():
  config = make_config(_SPLASH)
  params, tokens = make_params(config), make_tokens((1, 8))
  positions = jnp.arange(8, dtype=jnp.int32)[None]
  read = lambda **promise: _kernels(
      lambda p: transformer.decode(
          config, p, tokens, cache_lib.create(config, 1, 8),
          positions_BxL=positions, **promise).logits, params)
  assert read(is_prefill=True) == ['fwd']
  assert not read()


@pytest.mark.parametrize('remat, num_forward', [
    ('none', 1), ('dots', 1), ('attention', 1), ('full', 2), ('outputs', 2)])
@pytest.mark.parametrize('loop', ['scan', 'unroll'])
def test_remat_policies_that_keep_attention_run_it_once(
    remat, num_forward, loop):
  config = make_config(_SPLASH | {
      'num_layers': 1, 'execution.remat': remat,
      'execution.layer_loop': loop})
  tokens = make_tokens((1, 128))
  grad = jax.grad(
      lambda p: transformer.forward(config, p, tokens).logits.sum())
  names = sorted(_kernels(grad, make_params(config)))
  assert names == ['dkv', 'dq'] + ['fwd'] * num_forward


def _mesh(data, fsdp, model):
  return sharding.make_mesh(
      sharding.MeshConfig(data, fsdp, model), jax.devices()[:8])


@pytest.mark.parametrize('implementation', ['splash', 'cudnn'])
def test_sharded_and_fused_equals_dense(implementation):
  config = make_config()
  params, tokens = make_params(config), make_tokens((4, 128))
  positions, ids = pack([[50, 60], [128], [9] * 9, [100, 28]], 128)
  args = (tokens, jnp.asarray(positions), jnp.asarray(ids))
  (want, _), want_grads = run_model(config, params, *args)
  config = make_config({'execution.attention': implementation})
  mesh = _mesh(2, 2, 2)
  with sharding.use_mesh(mesh):
    params = jax.device_put(params, sharding.of_params(mesh, jax.eval_shape(
        lambda rng: transformer.init(config, rng), jax.random.key(0))))
    (got, _), grads = run_model(config, params, *args)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        grads, want_grads)


@pytest.mark.parametrize('platform, changes, length, want', [
    ('cpu', {}, 4096, 'dense'),
    ('tpu', {}, 4096, 'splash'),
    ('tpu', {'execution.attention': 'dense'}, 4096, 'dense'),
    ('tpu', {}, 127, 'dense'),
    ('tpu', _SPLASH, 127, 'splash'),
    ('tpu', _SOFTCAP | _FLOAT32, 128, 'splash'),
    ('gpu', _BFLOAT16, 4096, 'cudnn'),
    ('gpu', _FLOAT32, 4096, 'dense'),
    ('gpu', _BFLOAT16 | _SOFTCAP, 4096, 'dense'),
    ('gpu', _BFLOAT16 | {'head_dim': 512}, 4096, 'dense')])
def test_auto_chooses_by_platform_and_shapes(platform, changes, length, want):
  with _abstract(platform):
    assert attention.choose(make_config(changes), 8, length) == want


@pytest.mark.parametrize('platform, changes, message', [
    ('gpu', _SPLASH, 'model.execution.attention: .*for TPUs, this is a gpu'),
    ('tpu', _CUDNN, 'cuDNN is for GPUs, this is a tpu'),
    ('gpu', _CUDNN | _FLOAT32, 'bfloat16, compute_dtype is float32'),
    ('gpu', _CUDNN | _SOFTCAP, 'has one'),
    ('gpu', _CUDNN | {'head_dim': 12}, 'the model has 12')])
def test_a_kernel_that_cannot_run_says_why(platform, changes, message):
  with _abstract(platform):
    with pytest.raises(config_lib.ConfigError, match=message):
      attention.choose(make_config(changes), 8, 128)


@pytest.mark.parametrize('mesh, batch_size, message', [
    ((1, 8, 1), 4, '4 rows in a batch do not divide over 8 parts'),
    ((1, 1, 8), 8, '4 num_heads do not divide over 8 parts'),
    ((1, 2, 4), 8, '2 num_kv_heads do not divide over 4 parts')])
def test_what_does_not_divide_is_named(mesh, batch_size, message):
  with sharding.use_mesh(_mesh(*mesh)):
    with pytest.raises(config_lib.ConfigError, match=message):
      attention.choose(make_config(_SPLASH), batch_size, 128)


def test_splash_compiles_for_tpus(monkeypatch):
  for name, value in (  # this is no TPU machine, and others may use libtpu
      ('TPU_SKIP_MDS_QUERY', '1'), ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
      ('TPU_LIBRARY_PATH', libtpu.get_library_path())):
    monkeypatch.setenv(name, value)
  topology = topologies.get_topology_desc(
      platform='tpu', topology_name='v5e:2x2')
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 2, 2), topology.devices)
  config = make_config(_BFLOAT16 | {
      'embed_dim': 256, 'head_dim': 64, 'block.attention_softcap': 20.0,
      'block.sliding_window': 300, 'block.sliding_window_pattern': 2,
      'execution.layer_loop': 'scan'})
  with sharding.use_mesh(mesh):
    assert attention.choose(config, 4, 640) == 'splash'  # by 'auto'
    boxed = jax.eval_shape(
        lambda: transformer.init(config, jax.random.key(0)))
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    params = jax.tree.map(
        place, meta.unbox(boxed), sharding.of_params(mesh, boxed))
    ids = jax.ShapeDtypeStruct(
        (4, 640), jnp.int32, sharding=sharding.batch(mesh))
    text = run_model.lower(config, params, ids, ids, ids).compile().as_text()
  for kernel in ('fwd', 'dq', 'dkv'):  # one for either kind of layer
    assert len(re.findall(
        f'splash_mha_{kernel}_segmented[^ ]* = .* custom-call', text)) == 2


def test_blocks_divide_rows():
  for length, block in ((128, 128), (384, 384), (512, 512), (640, 128),
                        (768, 384), (2048, 512), (1664, 128)):
    assert splash._block(length) == block
