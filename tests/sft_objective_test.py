# SPDX-License-Identifier: Apache-2.0
"""The SFT loss: against a plain loop, whole and in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import types
from meta_cot.objectives import sft

_B, _L, _D, _V = 2, 12, 5, 7


def make_batch() -> types.Batch:
  noise = np.random.default_rng(0)
  segment_ids = np.ones((_B, _L), np.int32)
  segment_ids[1, 9:] = 0
  weights = noise.uniform(size=(_B, _L)) * (segment_ids > 0)
  return types.Batch(
      tokens=jnp.zeros((_B, _L), jnp.int32),
      targets=jnp.asarray(noise.integers(0, _V, (_B, _L)), jnp.int32),
      positions=jnp.zeros((_B, _L), jnp.int32),
      segment_ids=jnp.asarray(segment_ids),
      loss_mask=jnp.asarray(weights, jnp.float32))


def make_arrays():
  noise = np.random.default_rng(1)
  hidden = jnp.asarray(noise.normal(size=(_B, _L, _D)), jnp.float32)
  table = jnp.asarray(noise.normal(size=(_D, _V)), jnp.float32)
  return hidden, table


def test_against_a_loop():
  batch, (hidden, table) = make_batch(), make_arrays()
  logits = np.asarray(hidden @ table, np.float64)
  loss = correct = 0.0
  for b in range(_B):
    for i in range(_L):
      weight, target = float(batch.loss_mask[b, i]), int(batch.targets[b, i])
      row = logits[b, i]
      loss += weight * (np.log(np.exp(row).sum()) - row[target])
      correct += weight * (row.argmax() == target)
  sums = sft.loss_sums(hidden @ table, batch)
  np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
  np.testing.assert_allclose(sums.correct, correct, rtol=1e-5)
  np.testing.assert_allclose(sums.weight, batch.loss_mask.sum(), rtol=1e-6)
  assert sums.tokens == _L + 9


@pytest.mark.parametrize('num_chunks', [1, 2, 3, 12])
def test_pieces_change_nothing(num_chunks):
  batch, arrays = make_batch(), make_arrays()

  def whole(hidden, table):
    sums = sft.loss_sums(hidden @ table, batch)
    return sums.loss, sums

  def in_pieces(hidden, table):
    sums = sft.chunked_loss_sums(
        lambda x: x @ table, hidden, batch, num_chunks=num_chunks)
    return sums.loss, sums

  grads = [
      jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(*arrays)
      for f in (whole, in_pieces)]
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6),
      *grads)


def test_logits_never_exist_as_a_whole():
  batch, (hidden, table) = make_batch(), make_arrays()
  loss = lambda hidden, table: sft.chunked_loss_sums(
      lambda x: x @ table, hidden, batch, num_chunks=4).loss
  text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, table).as_text()
  assert f'{_B}x{_L // 4}x{_V}xf32' in text
  assert f'{_B}x{_L}x{_V}xf32' not in text
  assert f'4x{_B}x{_L // 4}x{_V}xf32' not in text


def test_rows_must_divide():
  hidden, table = make_arrays()
  with pytest.raises(ValueError, match='num_chunks: got 5; must divide the 12'):
    sft.chunked_loss_sums(
        lambda x: x @ table, hidden, make_batch(), num_chunks=5)
