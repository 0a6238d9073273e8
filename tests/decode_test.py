# SPDX-License-Identifier: Apache-2.0
"""Sampling against exact distributions and against the uncached model."""

import functools

from flax.linen import meta
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import models
from meta_cot import decode
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib

_SMALL = models.get('tiny') | dict(
    vocab_size=12, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2,
    head_dim=8, mlp_dim=24, max_length=64, tie_embeddings=False)
_GREEDY = decode.Sampling(0.0)
_EOS = 3

generate = jax.jit(
    decode.generate, static_argnames=(
        'config', 'max_new_tokens', 'sampling', 'eos_ids', 'pad_id'))
forward = jax.jit(transformer.forward, static_argnums=0)
truncate = jax.jit(decode.truncate, static_argnums=1)


@functools.cache
def make_model(loop='unroll'):
  config = config_lib.parse(
      model_config.ModelConfig, _SMALL | {'execution.layer_loop': loop})
  shapes = meta.unbox(jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0)))
  noise = np.random.default_rng(0)
  return config, jax.tree.map(
      lambda x: jnp.asarray(0.3 * noise.standard_normal(x.shape), x.dtype),
      shapes)


def make_prompts():
  prompts_BxP = np.random.default_rng(1).integers(0, 12, (5, 6))
  return jnp.asarray(prompts_BxP, jnp.int32), jnp.array([6, 1, 3, 5, 2])


def reference_log_probs(logits_V, sampling):
  """NumPy, in float64, one row; -inf where a token is ruled out."""
  logits_V = np.asarray(logits_V, np.float64)
  if sampling.temperature > 0:
    logits_V = logits_V / sampling.temperature
  order = np.argsort(-logits_V, kind='stable')
  kept = len(order) if sampling.top_k is None else sampling.top_k
  order = order[:kept]
  probs = np.exp(logits_V[order] - logits_V.max())
  probs /= probs.sum()
  if sampling.top_p is not None:
    mass, count = 0.0, 0
    while count < len(order) and mass < sampling.top_p:
      mass += probs[count]
      count += 1
    order, probs = order[:count], probs[:count] / probs[:count].sum()
  log_probs_V = np.full(len(logits_V), -np.inf)
  log_probs_V[order] = np.log(probs)
  return log_probs_V


@pytest.mark.parametrize('arguments, message', [
    (dict(temperature=-1.0), 'temperature: got -1.0'),
    (dict(temperature=float('nan')), 'temperature: got nan'),
    (dict(temperature=1.0, top_k=0), 'top_k: got 0'),
    (dict(temperature=1.0, top_p=0.0), 'top_p: got 0.0'),
    (dict(temperature=1.0, top_p=1.5), 'top_p: got 1.5'),
    (dict(temperature=0.0, top_k=3), 'must be None where temperature is 0'),
])
def test_sampling_refuses_bad_settings(arguments, message):
  with pytest.raises(ValueError, match=message):
    decode.Sampling(**arguments)


def test_generate_refuses_ids_that_are_no_tokens():
  config, params = make_model()
  with pytest.raises(
      ValueError, match='eos_ids: got 12; must be a token id from 0 to 11'):
    decode.generate(
        config, params, *make_prompts(), jax.random.key(0), max_new_tokens=2,
        sampling=_GREEDY, eos_ids=(_EOS, 12))


@pytest.mark.parametrize('ids', [(), (0,), (7, 3, 3), tuple(range(12))])
def test_tokens_are_looked_up(ids):
  tokens_2x6 = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
  np.testing.assert_array_equal(
      decode.is_one_of(tokens_2x6, ids), np.isin(tokens_2x6, ids))


def test_generate_refuses_lengths_that_do_not_fit():
  config, params = make_model()
  prompts_BxP, lengths_B = make_prompts()
  for tokens, message in ((0, 'at least 1'), (59, 'max_length, 64')):
    with pytest.raises(ValueError, match=message):
      decode.generate(
          config, params, prompts_BxP, lengths_B, jax.random.key(0),
          max_new_tokens=tokens, sampling=_GREEDY, eos_ids=(_EOS,))


@hypothesis.given(
    st.lists(st.integers(-400, 400), min_size=8, max_size=8, unique=True),
    st.sampled_from([0.3, 1.0, 2.0]), st.sampled_from([None, 1, 3, 8, 50]),
    st.sampled_from([None, 0.2, 0.9, 1.0]))
def test_truncated_distribution_is_the_reference(
    logits, temperature, top_k, top_p):
  sampling = decode.Sampling(temperature, top_k, top_p)
  logits_V = np.array(logits) / 100
  want_V = reference_log_probs(logits_V, sampling)
  mass_V = np.cumsum(np.exp(np.sort(want_V)[::-1]))
  hypothesis.assume(top_p is None or np.all(abs(mass_V - top_p) > 1e-4))
  got_V = jax.nn.log_softmax(truncate(
      jnp.asarray(logits_V, jnp.float32)[None], sampling))[0]
  np.testing.assert_array_equal(got_V > -1e20, want_V > -1e20)
  kept_V = want_V > -1e20
  np.testing.assert_allclose(got_V[kept_V], want_V[kept_V], atol=1e-4)


# By vocabulary: 99.9% quantiles of chi-square with one degree of freedom less.
_QUANTILES = {10: 27.9, 16: 37.7, 100: 148.2}


@pytest.mark.parametrize('vocab_size, sampling', [
    (10, decode.Sampling(1.0)), (10, decode.Sampling(0.7, 4)),
    (10, decode.Sampling(1.5, None, 0.8)), (10, decode.Sampling(1.3, 6, 0.9)),
    (16, decode.Sampling(1.0)), (100, decode.Sampling(2.0)),
    (100, decode.Sampling(1.0, 11))])
def test_frequencies_are_the_truncated_distribution(vocab_size, sampling):
  draws = 20_000
  logits_V = np.random.default_rng(2).normal(0, 1.5, vocab_size)
  logits_BxV = jnp.broadcast_to(
      jnp.asarray(logits_V, jnp.float32), (draws, vocab_size))
  tokens_B, log_probs_B = jax.jit(decode.sample, static_argnums=2)(
      logits_BxV, jax.random.split(jax.random.key(3), draws), sampling)
  log_probs_V = reference_log_probs(logits_V, sampling)
  np.testing.assert_allclose(log_probs_B, log_probs_V[tokens_B], atol=1e-5)
  probs_V = np.exp(log_probs_V)
  counts_V = np.bincount(tokens_B, minlength=vocab_size)
  assert np.all(counts_V[probs_V == 0] == 0)
  kept_V = probs_V > 0
  expected_V = draws * probs_V[kept_V]
  chi_square = np.sum((counts_V[kept_V] - expected_V) ** 2 / expected_V)
  assert chi_square < _QUANTILES[vocab_size]


@pytest.mark.parametrize('vocab_size', [
    1, pytest.param(2, marks=pytest.mark.slow),
    pytest.param(9, marks=pytest.mark.slow), 64])
def test_what_has_no_mass_is_never_drawn(vocab_size):
  """One token is left, in any block; greedy takes the first of equals."""
  keys_B = jax.random.split(jax.random.key(0), vocab_size)
  only_BxV = jnp.where(jnp.eye(vocab_size, dtype=bool), 0.0, -1e30)
  tokens_B, log_probs_B = decode.sample(
      only_BxV, keys_B, decode.Sampling(1.0))
  np.testing.assert_array_equal(tokens_B, np.arange(vocab_size))
  np.testing.assert_array_equal(log_probs_B, 0.0)
  tokens_B, _ = decode.sample(jnp.maximum(only_BxV, 0.0), keys_B, _GREEDY)
  np.testing.assert_array_equal(tokens_B, 0)


@pytest.mark.parametrize('loop, sampling', [
    ('scan', _GREEDY), ('unroll', decode.Sampling(0.9, 8, 0.95)),
    pytest.param('unroll', _GREEDY, marks=pytest.mark.slow),
    pytest.param(
        'scan', decode.Sampling(0.9, 8, 0.95), marks=pytest.mark.slow)])
def test_generation_agrees_with_the_uncached_model(loop, sampling):
  config, params = make_model(loop)
  prompts_BxP, prompt_lengths_B = make_prompts()
  generation = generate(
      config, params, prompts_BxP, prompt_lengths_B, jax.random.key(5),
      max_new_tokens=20, sampling=sampling, eos_ids=(_EOS,), pad_id=11)
  for b, num_prompt in enumerate(prompt_lengths_B.tolist()):
    length = int(generation.lengths[b])
    new_T = np.asarray(generation.tokens[b])
    assert (_EOS in new_T[:length]) == bool(generation.is_finished[b])
    assert _EOS not in new_T[:length - 1]
    assert length == 20 or generation.is_finished[b]
    assert np.all(new_T[length:] == 11)
    assert np.all(generation.log_probs[b, length:] == 0)
    text = np.concatenate([prompts_BxP[b, :num_prompt], new_T[:length]])
    logits_LxV = forward(
        config, params, jnp.asarray(np.pad(text, (0, 26 - len(text))))[None]
        ).logits[0]
    for t in range(length):
      logits_V = logits_LxV[num_prompt + t - 1]
      want_V = reference_log_probs(logits_V, sampling)
      np.testing.assert_allclose(
          generation.log_probs[b, t], want_V[new_T[t]], atol=1e-4)
      if sampling is _GREEDY:
        assert new_T[t] == np.argmax(logits_V)
  assert generation.is_finished.any()


def test_a_row_draws_the_same_alone_and_in_any_order():
  config, params = make_model()
  prompts_BxP, lengths_B = make_prompts()
  run = functools.partial(
      generate, max_new_tokens=20, sampling=decode.Sampling(1.0),
      eos_ids=(_EOS,))
  rng = jax.random.key(8)
  together = run(config, params, prompts_BxP, lengths_B, rng)
  order_B = jnp.array([3, 0, 4, 2, 1])
  shuffled = run(
      config, params, prompts_BxP[order_B], lengths_B[order_B], rng,
      row_ids_B=order_B)
  np.testing.assert_array_equal(shuffled.tokens, together.tokens[order_B])
  for b in (2, 3):
    alone = run(
        config, params, prompts_BxP[b:b + 1, :int(lengths_B[b])],
        lengths_B[b:b + 1], rng, row_ids_B=jnp.array([b]))
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[b])
    np.testing.assert_allclose(
        alone.log_probs[0], together.log_probs[b], atol=1e-4)
  other = run(config, params, prompts_BxP, lengths_B, jax.random.key(9))
  assert np.any(other.tokens != together.tokens)


@pytest.mark.parametrize('loop, num_new', [
    ('scan', 1), ('scan', 58),
    pytest.param('unroll', 20, marks=pytest.mark.slow)])
def test_rows_that_share_a_prompt_draw_what_they_draw_apart(loop, num_new):
  config, params = make_model(loop)
  prompts_RxP, lengths_R = make_prompts()
  run = functools.partial(
      generate, max_new_tokens=num_new, sampling=decode.Sampling(1.0),
      eos_ids=(_EOS,), row_ids_B=jnp.arange(7, 22))
  rng = jax.random.key(8)
  shared = run(config, params, prompts_RxP, lengths_R, rng)
  apart = run(
      config, params, jnp.repeat(prompts_RxP, 3, 0), jnp.repeat(lengths_R, 3),
      rng)
  for name in ('tokens', 'lengths', 'is_finished'):
    np.testing.assert_array_equal(getattr(shared, name), getattr(apart, name))
  np.testing.assert_allclose(shared.log_probs, apart.log_probs, atol=1e-4)
  assert len(np.unique(shared.tokens[:3], axis=0)) == 3 or num_new == 1
  with pytest.raises(ValueError, match='row_ids_B: got 7 for 5 prompts'):
    generate(
        config, params, prompts_RxP, lengths_R, rng, max_new_tokens=1,
        sampling=_GREEDY, eos_ids=(), row_ids_B=jnp.arange(7))


def test_growing_in_stages_changes_nothing():
  config, params = make_model()
  prompts_BxP, lengths_B = make_prompts()
  run = functools.partial(
      generate, config, params, prompts_BxP, lengths_B, jax.random.key(8),
      sampling=decode.Sampling(1.0), eos_ids=())
  assert len(decode.stages(58)) == 1 and len(decode.stages(64)) == 4
  short, long = run(max_new_tokens=3), run(max_new_tokens=58)
  np.testing.assert_array_equal(short.tokens, long.tokens[:, :3])
  assert not long.is_finished.any() and np.all(long.lengths == 58)


def test_a_continued_text_draws_what_it_would_have_drawn():
  config, params = make_model()
  prompts_BxP, _ = make_prompts()
  run = functools.partial(
      generate, sampling=decode.Sampling(1.0), eos_ids=())
  rng, full_B = jax.random.key(8), jnp.full(5, 6)
  whole = run(config, params, prompts_BxP, full_B, rng, max_new_tokens=9)
  longer_BxP = jnp.concatenate([prompts_BxP, whole.tokens[:, :4]], 1)
  rest = run(config, params, longer_BxP, full_B + 4, rng, max_new_tokens=5)
  np.testing.assert_array_equal(rest.tokens, whole.tokens[:, 4:])


def test_a_second_call_does_not_compile():
  config, params = make_model()
  prompts_BxP, lengths_B = make_prompts()
  run = functools.partial(
      generate, max_new_tokens=20, sampling=_GREEDY, eos_ids=(_EOS,), pad_id=1)
  run(config, params, prompts_BxP, lengths_B, jax.random.key(0))
  entries = generate._cache_size()
  config, params = make_model.__wrapped__()  # an equal config, another object
  run(config, params, prompts_BxP + 0, lengths_B + 0, jax.random.key(1))
  assert generate._cache_size() == entries


@pytest.mark.parametrize('settings', [
    dict(temperature=0.0), dict(temperature=1.0),
    dict(temperature=0.7, top_k=3), dict(temperature=1.0, top_p=0.9),
    dict(temperature=1.0, top_k=5, top_p=0.5)])
@pytest.mark.parametrize('vocab_size', [2, 11, 16, 37])
def test_without_a_distribution_the_log_prob_is_nan(settings, vocab_size):
  finite_V = np.linspace(-2, 2, vocab_size, dtype=np.float32)
  one_nan_VxV = np.where(np.eye(vocab_size), np.nan, finite_V)
  logits_BxV = jnp.asarray(np.stack([
      np.full(vocab_size, -np.inf), np.full(vocab_size, np.nan),
      *one_nan_VxV, finite_V]), jnp.float32)
  tokens_B, log_probs_B = decode.sample(
      logits_BxV, jax.random.split(jax.random.key(0), len(logits_BxV)),
      decode.Sampling(**settings))
  assert np.all((tokens_B >= 0) & (tokens_B < vocab_size))
  assert np.isnan(log_probs_B[:-1]).all() and np.isfinite(log_probs_B[-1])
