# SPDX-License-Identifier: Apache-2.0
"""Scores of rows whose prompts are read once are those of whole rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import decode
from meta_cot.rl import scoring
from tests import language_search

_SAMPLING = decode.Sampling(temperature=0.7)


def _rows():
  """Two prompts of 3 and 5 tokens, three rows of up to 6 new tokens each."""
  rng = np.random.default_rng(0)
  prompts_QxP = rng.integers(8, 16, (2, 5)).astype(np.int32)
  lengths_Q = np.array([3, 5], np.int32)
  rows_RxX = np.zeros((6, 11), np.int32)
  is_new_RxX = np.zeros((6, 10), bool)
  for r in range(6):
    p, new = lengths_Q[r // 3], 6 - r % 3
    rows_RxX[r, :p] = prompts_QxP[r // 3, :p]
    rows_RxX[r, p:p + new] = rng.integers(8, 16, new)
    is_new_RxX[r, p - 1:p - 1 + new] = True
  return (
      jnp.asarray(rows_RxX[:, :-1]), jnp.asarray(rows_RxX[:, 1:]), is_new_RxX,
      scoring.Prompts(jnp.asarray(prompts_QxP), jnp.asarray(lengths_Q)))


@pytest.mark.parametrize('name', (
    'sampled', 'values', *(pytest.param(name, marks=pytest.mark.slow)
                           for name in ('plain', 'entropy'))))
def test_prompts_read_once_change_neither_scores_nor_gradients(name):
  config, params = language_search.make_model('qwen', 'unroll')
  tokens, targets, is_new, prompts = _rows()

  def total(params, prompts):
    scores = getattr(scoring.score(
        config, params, tokens, targets, sampling=_SAMPLING, prompts=prompts),
                     name)
    scores = jnp.where(is_new, scores, 0.0)
    weights = jnp.cos(jnp.arange(scores.size)).reshape(scores.shape)
    return jnp.sum(scores * weights), scores

  run = jax.jit(jax.grad(total, has_aux=True))
  (once, scores_once), (whole, scores_whole) = (
      run(params, prompts), run(params, None))
  np.testing.assert_allclose(scores_once, scores_whole, atol=1e-5)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), once, whole)
  assert np.abs(scores_whole).max() > 0.1


def test_only_dense_unrolled_models_that_store_everything_share():
  config, _ = language_search.make_model('qwen', 'unroll')
  assert scoring.can_share(config, 6, 10)
  for changes in (dict(layer_loop='scan'), dict(remat='full')):
    execution = dataclasses.replace(config.execution, **changes)
    assert not scoring.can_share(
        dataclasses.replace(config, execution=execution), 6, 10)
