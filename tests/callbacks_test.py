# SPDX-License-Identifier: Apache-2.0
"""Functions on the host: in pieces, batched, and with one core alone."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.runtime import callbacks

_WIDTH = 5_000  # bytes of a row: thirteen go into one call

# A program that waits for the host while nobody waits for it, several times.
_ONE_CORE = '''
import os
if hasattr(os, 'sched_setaffinity'):  # on Linux
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np
from meta_cot.runtime import callbacks
total = lambda x: np.asarray(x).sum(axis=1).astype(np.float32)
@jax.jit
def sums(x):
  turn = lambda i, found: found + callbacks.by_rows(
      total, jax.ShapeDtypeStruct((), jnp.float32), x + i.astype(jnp.uint8))
  return jax.lax.fori_loop(0, 20, turn, jnp.zeros(len(x)))
x = jnp.zeros((256, 4096), jnp.uint8)
for _ in range(3):
  x = x + (sums(x)[:, None] < 0).astype(jnp.uint8)
print(sums(x).tolist() == [20 * 19 / 2 * 4096] * 256)
'''


def _make(sizes):
  def both(x, y):
    x, y = np.asarray(x), np.asarray(y)
    sizes.append(len(x))
    return x.sum(axis=1).astype(np.int32), np.stack([y, -y], axis=1)

  shape = lambda *s, dtype=jnp.int32: jax.ShapeDtypeStruct(s, dtype)
  return lambda x, y: callbacks.by_rows(
      both, (shape(), shape(2, dtype=jnp.float32)), x, y)


@pytest.mark.parametrize('number', [1, 13, 40])
def test_rows_go_to_the_host_in_pieces(number):
  sizes = []
  x = np.arange(number * _WIDTH).astype(np.uint8).reshape(number, _WIDTH)
  y = np.arange(number, dtype=np.float32)
  sums, pairs = jax.jit(_make(sizes))(x, y)
  np.testing.assert_array_equal(sums, x.astype(np.int32).sum(axis=1))
  np.testing.assert_array_equal(pairs, np.stack([y, -y], axis=1))
  assert set(sizes) == {min(number, 13)} and sum(sizes) - number < 13


def test_a_batch_is_its_elements():
  x = np.arange(3 * 4 * 7).astype(np.uint8).reshape(3, 4, 7)
  y = np.arange(12, dtype=np.float32).reshape(3, 4)
  sums, pairs = jax.jit(jax.vmap(_make([])))(x, y)
  np.testing.assert_array_equal(sums, x.astype(np.int32).sum(axis=2))
  np.testing.assert_array_equal(pairs, np.stack([y, -y], axis=2))


def test_with_one_core_no_program_waits_for_ever():
  done = subprocess.run(
      [sys.executable, '-c', _ONE_CORE], capture_output=True, text=True,
      timeout=120, check=False)
  assert done.stdout == 'True\n', done.stderr
