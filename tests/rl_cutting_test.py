# SPDX-License-Identifier: Apache-2.0
"""Rows without a gradient are left out, and nothing else changes."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_cot.rl import cutting
from meta_cot.rl import update as update_lib
from tests import small_rl

_FREE = dict(kl_coefficient=0.0, episode_length=8, num_episodes=1)
_SHAPES = cutting.shapes(
    32, 30, num_questions=8, width=10, pieces=4, num_minibatches=2,
    num_parts=1, num_chunks=1, may_skip=True)


def test_shapes():
  assert _SHAPES == cutting.Shapes((2, 4, 6, 8), (20, 30))
  assert _SHAPES.number == 8
  of = functools.partial(
      cutting.shapes, num_questions=8, width=10, pieces=4, num_minibatches=1,
      num_parts=1, num_chunks=1, may_skip=True)
  assert of(32, 30, may_skip=False).questions == (8,)
  assert of(32, 30, num_minibatches=3).questions == (8,)  # 4 of a question
  assert of(32, 30, pieces=16).questions == (4, 8)
  assert of(32, 30, num_parts=4).questions == (4, 8)
  assert of(32, 30, num_chunks=6).widths == (24, 30)
  assert of(32, 10).widths == (10,)  # nothing is behind the prompts
  assert of(1, 11, num_questions=1, pieces=1).questions == (1,)


@hypothesis.given(
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.lists(st.integers(10, 30), min_size=32, max_size=32))
def test_what_has_a_gradient_is_kept(is_flat, ends):
  flat_N = np.repeat(is_flat, 4)
  flat_N[::4] = True  # one sample alone says nothing
  order, number, width = cutting.choose(_SHAPES, flat_N, ends)
  assert sorted(order.tolist()) == list(range(8))
  kept = order[:number].tolist()
  needed = [q for q in range(8) if not is_flat[q]]
  assert {*needed} <= {*kept} and number in _SHAPES.questions
  smaller = [n for n in _SHAPES.questions if n < number]
  assert not smaller or smaller[-1] < len(needed)
  longest = max(ends[4 * q + g] for q in kept for g in range(4))
  assert width == (20 if longest <= 20 else 30)


@functools.cache
def _run(**changes) -> small_rl.Run:
  run = small_rl.Run(**_FREE | dict(skip_flat_groups=False) | changes)
  run.after, run.rows = run.iterate(3)
  return run


@pytest.mark.parametrize('weights, minibatches, window', [
    ('sequence', 2, None),
    pytest.param('token', 1, None, marks=pytest.mark.slow),
    pytest.param('constant', 1, 0, marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_the_whole_batch(weights, minibatches, window):
  run = _run(
      token_weights=weights, num_minibatches=minibatches, window=window,
      num_episodes=1 if window is None else 2)
  batch, settings = run.batches[0], run.settings
  is_flat_Q = np.array([True, False, True, False])
  at_R = np.repeat(is_flat_Q, len(batch.weights) // 4)[:, None]
  batch = batch.replace(advantages=jnp.where(at_R, 0.0, batch.advantages))
  longest = run.calls[0][2].shape[1] - 1 + int(run.calls[0][4].lengths.max())
  part = cutting.cut(
      batch, np.array([1, 3, 0, 2], np.int32), num_questions=2, width=longest)
  assert part.weights.shape == (len(batch.weights) // 2, longest)
  step = jax.jit(update_lib.make(
      run.model, settings, run.learner.objective, optax.sgd(1.0),
      lambda step: 1.0))
  params = jax.tree.map(
      lambda x: x + 0.02 * jnp.sin(jnp.arange(x.size).reshape(x.shape)),
      run.setup.start)

  def gradient(batch, number):
    state = run.state().replace(
        params=params, opt_state=optax.sgd(1.0).init(params))
    new, metrics = step(
        state, batch, jnp.int32(number), jnp.float32(0.0), {})
    assert metrics['grad_norm'] > 1e-3
    return jax.tree.map(jnp.subtract, params, new.params), metrics['loss']

  for number in range(minibatches):
    for one, other in zip(
        jax.tree.leaves(gradient(batch, number)),
        jax.tree.leaves(gradient(part, number)), strict=True):
      np.testing.assert_allclose(one, other, atol=1e-6, rtol=1e-6)


def test_a_run_is_the_same_and_compiles_each_shape_once():
  whole, run = _run(), small_rl.Run(**_FREE)
  after, rows = run.iterate(3)
  for one, other in zip(
      jax.tree.leaves(whole.after.params), jax.tree.leaves(after.params)):
    np.testing.assert_allclose(one, other, atol=1e-5)
  for one, other in zip(whole.rows, rows):
    assert one['success'] == other['success']
    np.testing.assert_allclose(one['loss'], other['loss'], atol=1e-6)
  kept = {batch.weights.shape for batch in run.batches}
  assert max(kept) <= whole.batches[0].weights.shape
  number = run.updates_compiled()
  assert number == len(kept)
  again, _ = run.iterate(3)
  assert run.updates_compiled() == number
  for one, other in zip(
      jax.tree.leaves(after.params), jax.tree.leaves(again.params)):
    np.testing.assert_array_equal(one, other)


def test_every_row_is_read_where_every_row_has_a_gradient():
  for changes in (dict(kl_coefficient=0.1), dict(entropy_bonus=0.1),
                  dict(advantage='gae'), dict(kl_target=0.1)):
    objective = small_rl.settings(**_FREE | changes).objective('single')
    assert not objective.is_by_advantage
  for changes in ({}, dict(kl_in='none', kl_coefficient=0.1),
                  dict(kl_in='reward', kl_estimator='k1',
                       kl_coefficient=0.1)):
    objective = small_rl.settings(**_FREE | changes).objective('single')
    assert objective.is_by_advantage
