# SPDX-License-Identifier: Apache-2.0
"""Shared caches and pages against attention over everything; text hashes."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import models
from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import pages
from meta_cot.reasoning import node as node_lib
from meta_cot.settings import config as config_lib


def make_config(changes):
  return config_lib.parse(model_config.ModelConfig, models.get('tiny') | dict(
      num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8) | changes)


@pytest.mark.parametrize('rows, slots, cap', [
    ((2, 6, 24), (5, 7, 3), None), ((2, 2, 6), (5, 7, 3), 2.0),
    ((6, 6), (4, 4), None), ((1, 4), (6, 2), 5.0), ((2, 6, 6), (5, 0, 3), None),
    ((3,), (5,), None)])
def test_sharing_is_attention_over_all_parts(rows, slots, cap):
  config = make_config({'block.attention_softcap': cap})
  random = np.random.default_rng(5)
  draw = lambda *shape: jnp.asarray(
      random.standard_normal(shape), jnp.float32)
  num_rows, length = rows[-1], 2
  parts = tuple(
      cache_lib.Part(draw(n, 2, m, 8), draw(n, 2, m, 8))
      for n, m in zip(rows, slots))
  turned = tuple(
      cache_lib.Part(jnp.swapaxes(p.keys, 2, 3), p.values, is_turned=True)
      for p in parts[:-1])
  mask = jnp.asarray(
      random.random((num_rows, 1, 1, length, sum(slots))) < 0.6)
  mask = mask.at[..., -1].set(True)
  queries = draw(num_rows, 4, length, 8)
  keys, values = (
      jnp.concatenate(
          [jnp.repeat(x, num_rows // len(x), axis=0) for x in of], axis=2)
      for of in zip(*((p.keys, p.values) for p in parts)))
  found, also_found, expected = jax.jit(lambda: (
      pages.attend(config, queries, parts, mask),
      pages.attend(config, queries, (*turned, parts[-1]), mask),
      attention.attend(config, queries, keys, values, mask)))()
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(also_found, expected, atol=1e-5)


def test_pages_make_a_cache_and_back():
  for loop in ('scan', 'unroll'):
    config = make_config({'execution.layer_loop': loop})
    shape = jax.tree.leaves(cache_lib.create(config, 6, 4).keys)[0].shape
    keys = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    whole = lambda x: x if loop == 'scan' else (x, x + 0.5)
    cache = cache_lib.create(config, 6, 4).replace(
        keys=whole(keys), values=whole(-keys))
    length = jnp.array([[4, 2, 1], [3, 4, 2]])
    start = jnp.array([[5, 9, 11], [2, 5, 9]])
    page = pages.cut(cache, (2, 3), length, start)
    is_used = jnp.array([[True] * 3, [True, True, False]])
    joined = pages.join(page, is_used)
    assert joined.is_turned
    for at in (0, -1):
      own = np.asarray(jax.tree.leaves(cache.keys)[at])
      all_pages = np.swapaxes(jax.tree.leaves(joined.keys)[at], -1, -2)
      for row in range(2):
        np.testing.assert_array_equal(
            all_pages[..., row, :, :, :],
            np.concatenate(
                [own[..., 3 * row + u, :, :, :] for u in range(3)], axis=-2))
    np.testing.assert_array_equal(
        joined.positions[joined.is_valid],
        [5, 6, 7, 8, 9, 10, 11, 2, 3, 4, 5, 6, 7, 8])


@hypothesis.given(
    st.lists(st.integers(0, 130_000), max_size=8),
    st.lists(st.integers(0, 130_000), max_size=8), st.integers(0, 9))
def test_hashes_tell_texts_apart(one, two, padding):
  def hashed(tokens):
    row = np.full(8, padding, np.int32)
    row[:len(tokens)] = tokens
    return jax.jit(node_lib.hash_tokens)(row, np.int32(len(tokens))).tolist()

  assert (hashed(one) == hashed(two)) == (one == two)
  assert hashed(one) == jax.jit(node_lib.hash_tokens)(
      np.array(one + [7] * (8 - len(one)), np.int32),
      np.int32(len(one))).tolist()


def test_short_texts_have_no_equal_hashes():
  pairs = np.stack(np.meshgrid(range(300), range(300)), -1).reshape(-1, 2)
  for half in np.asarray(node_lib.hash_tokens(
      jnp.asarray(pairs, jnp.int32), jnp.full(len(pairs), 2))).T:
    # 90000 words of 32 bits: about one equal pair by chance.
    assert len(np.unique(half)) > len(pairs) - 12
