# SPDX-License-Identifier: Apache-2.0
"""The model: laws that hold for any parameters, checked on small ones."""

import dataclasses
import functools

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from configs import models
from meta_cot import sharding
from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib

_SMALL = models.get('tiny') | dict(
    vocab_size=32, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2,
    head_dim=8, mlp_dim=24, max_length=64)
_GEMMA = {
    'block.activation': 'gelu_tanh', 'block.norm_plus_one': True,
    'block.use_post_norms': True, 'block.use_qk_norm': True,
    'block.query_scale': 0.3, 'block.attention_softcap': 5.0,
    'logit_softcap': 3.0, 'block.sliding_window': 3,
    'block.sliding_window_pattern': 2, 'rope.local_theta': 100.0,
    'embed_scale': True}
_QWEN = {'block.use_qkv_bias': True, 'tie_embeddings': False}
VARIANTS = {'llama': {}, 'gemma': _GEMMA, 'qwen': _QWEN}

forward = jax.jit(transformer.forward, static_argnums=0)
decode = jax.jit(transformer.decode, static_argnums=0)


def make_config(changes=()) -> model_config.ModelConfig:
  return config_lib.parse(model_config.ModelConfig, _SMALL | dict(changes))


@functools.cache
def make_params(config):
  """Random everywhere, so that no norm, bias or value is at its start."""
  shapes = meta.unbox(jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0)))
  noise = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: jnp.asarray(0.3 * noise.standard_normal(x.shape), x.dtype),
      shapes)


def make_tokens(shape, seed=7):
  return jax.random.randint(jax.random.key(seed), shape, 0, 32)


def other_loop(config):
  loops = {'scan': 'unroll', 'unroll': 'scan'}
  return dataclasses.replace(config, execution=dataclasses.replace(
      config.execution, layer_loop=loops[config.execution.layer_loop]))


@pytest.mark.parametrize('name', models.MODELS)
def test_models_parse_and_count_their_parameters(name):
  config = config_lib.parse(model_config.ModelConfig, models.get(name))
  shapes = jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0))
  size = sum(x.size for x in jax.tree.leaves(meta.unbox(shapes)))
  assert size == config.num_params()


@pytest.mark.parametrize('name, published', [
    ('smollm2_135m', 134_515_008), ('qwen3_0_6b', 596_049_920),
    ('qwen25_0_5b', 494_032_768), ('gemma3_270m', 268_098_176),
    ('gemma3_1b', 999_885_952), ('llama32_1b', 1_235_814_400),
    ('llama31_8b', 8_030_261_248), ('llama31_70b', 70_553_706_496),
    # All of its 27,432,406,640 but the images' encoder and its projection.
    ('gemma3_27b', 27_432_406_640 - 416_866_032 - 6_194_304)])
def test_models_have_the_published_size(name, published):
  config = config_lib.parse(
      model_config.ModelConfig, models.get(name) | {'value_head': 'none'})
  assert config.num_params() == published


def test_base_config_is_the_tiny_model():
  parse = lambda x: config_lib.parse(model_config.ModelConfig, x)
  config = base.get_config().model
  assert parse(config) == parse(models.get('tiny'))
  config.update_from_flattened_dict(models.get('llama31_8b'))
  assert parse(config) == parse(models.get('llama31_8b'))


def test_model_names_are_checked_and_dicts_are_fresh():
  with pytest.raises(ValueError, match="mean 'llama31_8b'"):
    models.get('llama31_8')
  models.get('tiny')['embed_dim'] = 7
  assert models.get('tiny')['embed_dim'] == 96


@pytest.mark.parametrize('changes, message', [
    (dict(num_kv_heads=3), 'config.num_heads: got 4; must be a multiple of'),
    (dict(head_dim=7), 'head_dim: got 7; must be even'),
    ({'block.sliding_window_pattern': 2},
     'config.block.sliding_window_pattern: got 2; must be None'),
    ({'rope.local_theta': 5.0}, 'config.rope.local_theta: got 5.0; must be'),
    ({'rope.theta': 0.0}, 'config.rope.theta: got 0.0; must be greater than 0'),
    ({'rope.low_freq_factor': 1.0},
     'config.rope.low_freq_factor: got 1.0; must be None'),
    ({'rope.scaling_factor': 2.0, 'rope.low_freq_factor': 1.0},
     'config.rope.high_freq_factor: got None; must be set with'),
    ({'rope.scaling_factor': 2.0, 'rope.low_freq_factor': 4.0,
      'rope.high_freq_factor': 4.0, 'rope.original_max_length': 8},
     'greater than low_freq_factor'),
    ({'execution.remat': 'all'}, "'none', 'dots', 'outputs', 'full'"),
])
def test_config_refuses_what_does_not_fit(changes, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    make_config(changes)


def test_too_long_input_names_the_limit():
  config = make_config({'max_length': 4})
  with pytest.raises(ValueError, match='5 tokens.*max_length, 4'):
    transformer.forward(config, {}, make_tokens((1, 5)))


def test_a_new_model_knows_nothing():
  config = make_config()
  params = meta.unbox(transformer.init(config, jax.random.key(0)))
  output = forward(config, params, make_tokens((2, 5)))
  np.testing.assert_array_equal(output.values, np.full((2, 5), 0.5))
  assert output.logits.std() < 0.3
  assert output.logits.dtype == jnp.float32


def test_without_a_value_head_there_are_no_values():
  config = make_config({'value_head': 'none'})
  output = forward(
      config, make_params(config), make_tokens((1, 3)))
  assert output.values is None and output.value_logits is None


@pytest.mark.parametrize('variant', [
    'gemma', pytest.param('qwen', marks=pytest.mark.slow)])
def test_scan_equals_unroll_in_outputs_and_gradients(variant):
  config = make_config(VARIANTS[variant])
  params, tokens_BxL = make_params(config), make_tokens((2, 9))

  def loss(config, params):
    output = forward(config, params, tokens_BxL)
    return jnp.mean(output.logits ** 2) + jnp.mean(output.values), output

  run = jax.jit(jax.value_and_grad(loss, 1, has_aux=True), static_argnums=0)
  (_, one), one_grads = run(config, params)
  (_, two), two_grads = run(other_loop(config), params)
  np.testing.assert_allclose(one.logits, two.logits, atol=1e-5)
  np.testing.assert_allclose(one.values, two.values, atol=1e-5)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
      one_grads, two_grads)


@pytest.mark.parametrize('variant, loop', [
    pytest.param('gemma', 'scan', marks=pytest.mark.slow),
    ('gemma', 'unroll'), ('qwen', 'scan'),
    pytest.param('qwen', 'unroll', marks=pytest.mark.slow)])
def test_cached_decoding_equals_the_full_pass(variant, loop):
  config = make_config(VARIANTS[variant] | {'execution.layer_loop': loop})
  params, tokens_BxL = make_params(config), make_tokens((2, 11))
  positions_BxL = jnp.broadcast_to(jnp.arange(11), (2, 11))
  full = forward(config, params, tokens_BxL)
  ready = transformer.slice_layers(config, params)
  cache, logits, values = cache_lib.create(config, 2, 13), [], []
  for start, end in ((0, 4), (4, 8), (8, 9), (9, 10), (10, 11)):
    output = decode(
        config, ready, tokens_BxL[:, start:end], cache,
        positions_BxL=positions_BxL[:, start:end])
    cache = output.cache
    logits.append(output.logits)
    values.append(output.values)
  np.testing.assert_allclose(
      jnp.concatenate(logits, 1), full.logits, atol=1e-4)
  np.testing.assert_allclose(
      jnp.concatenate(values, 1), full.values, atol=1e-4)
  assert int(cache.length) == 11


@pytest.mark.parametrize('loop', ['scan', 'unroll'])
def test_holes_and_spare_slots_change_nothing(loop):
  config = make_config({'execution.layer_loop': loop})
  params, tokens_BxL = make_params(config), make_tokens((1, 6))
  full = forward(config, params, tokens_BxL)
  # Three tokens, two holes full of noise, then the other three.
  padded_BxL = jnp.concatenate([tokens_BxL[:, :3], make_tokens((1, 2), 9)], 1)
  first = decode(
      config, params, padded_BxL, cache_lib.create(config, 1, 5),
      positions_BxL=jnp.array([[0, 1, 2, 0, 1]]),
      is_valid_BxL=jnp.array([[True] * 3 + [False] * 2]))
  cache = cache_lib.share_rows(
      cache_lib.grow(first.cache, 12), jnp.array([5, 3]))  # the same: holes
  second = decode(
      config, params, jnp.tile(tokens_BxL[:, 3:], (2, 1)), cache,
      positions_BxL=jnp.array([[3, 4, 5]] * 2))
  for row in range(2):
    np.testing.assert_allclose(
        second.logits[row], full.logits[0, 3:], atol=1e-4)
  with pytest.raises(ValueError, match='got 4; must be at least the 12'):
    cache_lib.grow(cache, 4)


def test_read_at_picks_positions():
  config = make_config()
  params, tokens_BxL = make_params(config), make_tokens((2, 6))
  full = forward(config, params, tokens_BxL)
  part = forward(
      config, params, tokens_BxL, read_at_BxR=jnp.array([[5, 0], [2, 2]]))
  assert part.logits.shape == (2, 2, 32)
  np.testing.assert_allclose(part.logits[0, 0], full.logits[0, 5], atol=1e-5)
  np.testing.assert_allclose(part.values[1, 1], full.values[1, 2], atol=1e-5)


@pytest.mark.parametrize('variant', [
    pytest.param('llama', marks=pytest.mark.slow), 'gemma'])
def test_packed_rows_equal_separate_rows(variant):
  config = make_config(VARIANTS[variant])
  params = make_params(config)
  one, two = make_tokens((1, 4), 1), make_tokens((1, 5), 2)
  pad = jnp.zeros((1, 3), jnp.int32)
  packed = forward(
      config, params, jnp.concatenate([one, two, pad], 1),
      positions_BxL=jnp.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0, 0]]),
      segment_ids_BxL=jnp.array([[1] * 4 + [2] * 5 + [0] * 3]))
  for part, where in ((one, slice(0, 4)), (two, slice(4, 9))):
    alone = forward(config, params, part)
    np.testing.assert_allclose(
        packed.logits[:, where], alone.logits, atol=1e-5)
  assert np.all(np.isfinite(packed.logits))


def _influence(config, params, segment_ids_BxL=None):
  """Norm of d logits[l] / d embedding of token m, as [L, M]."""
  length, size = 8, config.vocab_size
  tokens_BxL = jnp.arange(length)[None]  # each token is its own table row

  def logits_of(table):
    new = params | {'embedder': params['embedder'] | {'embedding': table}}
    return transformer.forward(
        config, new, tokens_BxL, segment_ids_BxL=segment_ids_BxL).logits[
            0, :, size // 2:].sum(-1)  # logits that read no input row

  grad = jax.jit(jax.jacrev(logits_of))(params['embedder']['embedding'])
  return np.abs(np.asarray(grad))[:, :length].max(-1)


@pytest.mark.parametrize('loop', [
    pytest.param('scan', marks=pytest.mark.slow), 'unroll'])
def test_no_position_sees_the_future_or_another_segment(loop):
  config = make_config({'execution.layer_loop': loop})
  params = make_params(config)
  past_LxM = np.tril(np.ones((8, 8), bool))
  np.testing.assert_array_equal(_influence(config, params) > 0, past_LxM)
  segments_L = np.array([1, 1, 1, 2, 2, 2, 0, 0])
  same_LxM = segments_L[:, None] == segments_L[None]
  seen_LxM = _influence(config, params, jnp.asarray(segments_L)[None]) > 0
  np.testing.assert_array_equal(seen_LxM, past_LxM & same_LxM)


@pytest.mark.parametrize('loop', ['scan', 'unroll'])
@pytest.mark.parametrize('pattern, reach', [(None, 6), (3, None)])
def test_windows_limit_the_reach(loop, pattern, reach):
  config = make_config({
      'num_layers': 3, 'execution.layer_loop': loop,
      'block.sliding_window': 3, 'block.sliding_window_pattern': pattern})
  seen_LxM = _influence(config, make_params(config)) > 0
  distance_LxM = np.arange(8)[:, None] - np.arange(8)[None]
  # Three windowed layers of 3 reach 3 * 2 back; a global third layer, all.
  want_LxM = (distance_LxM >= 0) & (distance_LxM <= (reach or 8))
  np.testing.assert_array_equal(seen_LxM, want_LxM)


@pytest.mark.parametrize('loop, remat', [
    pytest.param('scan', 'dots', marks=pytest.mark.slow),
    ('unroll', 'outputs'), ('scan', 'full')])
def test_remat_changes_memory_not_numbers(loop, remat):
  config = make_config({'execution.layer_loop': loop})
  params, tokens_BxL = make_params(config), make_tokens((2, 9))

  def loss(config, params):
    return jnp.mean(transformer.forward(
        config, params, tokens_BxL).logits ** 2)

  def residuals(config):
    stored = jax.eval_shape(
        lambda p: jax.vjp(lambda p: loss(config, p), p)[1], params)
    return sum(x.size for x in jax.tree.leaves(stored))

  run = jax.jit(jax.value_and_grad(loss, 1), static_argnums=0)
  changed = dataclasses.replace(config, execution=dataclasses.replace(
      config.execution, remat=remat))
  (value, grads), (want, want_grads) = run(changed, params), run(config, params)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      grads, want_grads)
  assert residuals(changed) < residuals(config)


@pytest.mark.parametrize('loop', [
    'scan', pytest.param('unroll', marks=pytest.mark.slow)])
def test_sharded_equals_unsharded(loop):
  config = make_config(_GEMMA | {'execution.layer_loop': loop})
  tokens_BxL = make_tokens((8, 9))

  def loss(params):
    output = transformer.forward(config, params, tokens_BxL)
    return jnp.mean(output.logits ** 2) + jnp.mean(output.values)

  # Gradients of one loop are enough: the test above equates the two.
  run = jax.value_and_grad(loss) if loop == 'scan' else (
      lambda params: (loss(params), {}))
  params = make_params(config)
  want, want_grads = jax.jit(run)(params)
  mesh = sharding.make_mesh(sharding.MeshConfig(2, 2, 2), jax.devices()[:8])
  with sharding.use_mesh(mesh):
    params = jax.device_put(params, sharding.of_params(mesh, jax.eval_shape(
        lambda rng: transformer.init(config, rng), jax.random.key(0))))
    value, grads = jax.jit(run)(params)
    kernel = params['layers']['mlp']['up_proj']['kernel']
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    np.testing.assert_allclose(value, want, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        grads, want_grads)


def test_bfloat16_keeps_parameters_and_logits_in_float32():
  config = make_config({'execution.compute_dtype': 'bfloat16'})
  params, tokens_BxL = make_params(config), make_tokens((2, 6))
  output = forward(config, params, tokens_BxL)
  want = forward(make_config(), params, tokens_BxL)
  assert output.logits.dtype == output.values.dtype == jnp.float32
  assert cache_lib.create(config, 1, 1).keys[0].dtype == jnp.bfloat16
  np.testing.assert_allclose(output.logits, want.logits, atol=0.15)
  assert np.abs(output.logits - want.logits).max() > 0
  grads = jax.eval_shape(jax.grad(lambda p: jnp.mean(
      forward(config, p, tokens_BxL).logits)), params)
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))


def test_attention_equals_a_loop_over_heads():
  config = make_config({
      'block.attention_softcap': 2.0, 'block.query_scale': 0.7})
  keys = jax.random.split(jax.random.key(0), 4)
  q = jax.random.normal(keys[0], (2, 4, 3, 8))
  k, v = (jax.random.normal(x, (2, 2, 5, 8)) for x in keys[1:3])
  mask = jax.random.bernoulli(keys[3], 0.6, (2, 1, 1, 3, 5))
  mask = mask.at[..., 0].set(True)
  got = attention.attend(config, q, k, v, mask)
  for b, h in np.ndindex(2, 4):
    scores = np.asarray(q[b, h] @ k[b, h // 2].T, np.float64) * 0.7
    scores = 2.0 * np.tanh(scores / 2.0)
    weights = np.exp(scores) * np.asarray(mask[b, 0, 0])
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(
        got[b, h], weights @ np.asarray(v[b, h // 2]), atol=1e-5)
