# SPDX-License-Identifier: Apache-2.0
"""Searches in slots give what a search of all problems at once gives."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import sharding
from meta_cot.search import base
from meta_cot.search import batching
from meta_cot.search import engine
from meta_cot.search.beam import Beam
from meta_cot.search.frontier import BestFirst
from meta_cot.training import compilation

BRANCHING, DEPTH, NUM_PROBLEMS = 3, 4, 21
NUM_STATES = sum(BRANCHING**d for d in range(DEPTH + 1))
BEST_FIRST = BestFirst(
    num_expansions=9, branching=BRANCHING, max_depth=DEPTH, num_leaves=2)
BEAM = Beam(beam_width=2, branching=BRANCHING, max_depth=DEPTH)
RNG = jax.random.key(7)


def _inputs(problem_id):
  """A random tree: what the children of state s are is at row s."""
  rng = np.random.default_rng(problem_id)
  shape = (NUM_STATES, BRANCHING)
  return dict(
      value=(rng.integers(0, 8, shape) / 8).astype(np.float32),
      reward=rng.integers(0, 2, shape).astype(np.float32),
      is_terminal=(rng.random(shape) < 0.1) & (problem_id % 7 != 5),
      is_valid=(rng.random(shape) < 0.8) & (problem_id % 7 != 4),
      is_solved=np.bool_(problem_id % 7 == 3))


def _start(params, inputs):
  is_solved_B = inputs['is_solved']
  state_B = jnp.zeros(is_solved_B.shape, jnp.int32)
  return inputs, base.Root(
      embedding=dict(state=state_B), is_terminal=is_solved_B,
      value=params * is_solved_B.astype(jnp.float32))


def _step(params, rng, path):
  del rng
  scale, rows = params
  leaf_R = jnp.maximum(path.length - 1, 0)[:, None]
  state_R = jnp.take_along_axis(
      path.embeddings['state'], leaf_R, axis=1)[:, 0]
  num_leaves = state_R.shape[0] // rows['value'].shape[0]
  of_leaf = lambda table_BxSxA: jax.vmap(lambda t, s: t[s])(
      table_BxSxA, state_R.reshape(-1, num_leaves)).reshape(-1, BRANCHING)
  # Draws decide between equal values, so that they must be repeatable too.
  noise_RxA = jax.vmap(lambda key: jax.random.uniform(key, (BRANCHING,)))(
      path.keys)
  children_RxA = state_R[:, None] * BRANCHING + 1 + jnp.arange(BRANCHING)[None]
  return base.Expansion(
      embedding=dict(state=children_RxA), log_prob=jnp.log(noise_RxA),
      value=scale * of_leaf(rows['value']) + 0.1 * noise_RxA,
      reward=of_leaf(rows['reward']), is_terminal=of_leaf(rows['is_terminal']),
      is_valid=of_leaf(rows['is_valid']),
      num_tokens=jnp.ones(children_RxA.shape, jnp.int32))


def _problems(ids):
  return [batching.Problem(i, _inputs(i)) for i in ids]


def _make(num_slots, chunk_steps, strategy=BEST_FIRST, **more):
  return batching.Slots(
      strategy, _step, _start, num_slots=num_slots, chunk_steps=chunk_steps,
      **more)


@functools.cache
def _at_once(strategy):
  """{problem: (SearchOutput of NumPy rows, its steps)}, by one search."""

  @jax.jit
  def search(inputs):
    rows, root = _start(jnp.float32(1), inputs)
    state = engine.start(strategy, root)
    state = engine.advance(
        strategy, (jnp.float32(1), rows), RNG, state, _step, num_steps=1000)
    return batching.without_embeddings(state), state.num_steps

  ids = range(NUM_PROBLEMS)
  inputs = jax.tree.map(lambda *x: np.stack(x), *map(_inputs, ids))
  output, num_steps_B = jax.device_get(search(inputs))
  return {
      i: (jax.tree.map(lambda x, i=i: x[i], output), int(num_steps_B[i]))
      for i in ids}


def _assert_as_expected(found, ids, strategy=BEST_FIRST):
  assert sorted(f.problem.id for f in found) == sorted(ids)
  expected = _at_once(strategy)
  for f in found:
    output, num_steps = expected[f.problem.id]
    assert f.num_steps == num_steps
    jax.tree.map(np.testing.assert_array_equal, f.result, output)


@pytest.mark.parametrize('num_slots, chunk_steps, strategy', [
    pytest.param(1, 3, BEST_FIRST, marks=pytest.mark.slow),
    (4, 2, BEST_FIRST),
    pytest.param(30, 100, BEST_FIRST, marks=pytest.mark.slow), (4, 2, BEAM)])
def test_slots_change_nothing(num_slots, chunk_steps, strategy):
  ids = list(range(NUM_PROBLEMS))
  made = _make(num_slots, chunk_steps, strategy)
  found = list(made.run_all(jnp.float32(1), RNG, _problems(ids)))
  _assert_as_expected(found, ids, strategy)


def test_order_changes_nothing():
  ids = np.random.default_rng(0).permutation(NUM_PROBLEMS).tolist()
  found = list(_make(4, 2).run_all(jnp.float32(1), RNG, _problems(ids)))
  _assert_as_expected(found, ids)
  some = [5, 3, 17]  # 3 has nothing to search
  found = list(_make(4, 2).run_all(jnp.float32(1), RNG, _problems(some)))
  _assert_as_expected(found, some)


@pytest.mark.parametrize('num_devices', [
    pytest.param(2, marks=pytest.mark.slow), 8])
def test_devices_change_nothing(num_devices):
  ids = list(range(NUM_PROBLEMS))
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:num_devices])
  with sharding.use_mesh(mesh):
    made = _make(
        8, 2, put=lambda inputs: sharding.split_batch(inputs, mesh))
    found = list(made.run_all(jnp.float32(1), RNG, _problems(ids)))
  _assert_as_expected(found, ids)


@pytest.mark.parametrize('num_devices', [
    pytest.param(1, marks=pytest.mark.slow), 8])
def test_nothing_is_compiled_after_the_warm_up(num_devices):
  ids = list(range(NUM_PROBLEMS))
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:num_devices])
  scale = jnp.float32(1)
  with sharding.use_mesh(mesh):
    made = _make(16, 2, put=lambda inputs: sharding.split_batch(inputs, mesh))
    made.warm_up(scale, RNG, _problems([2])[0])
    before = compilation.num_programs()
    found = list(made.run_all(scale, RNG, _problems(ids)))
    again = list(made.run_all(scale, RNG, _problems(ids[:3])))
    assert compilation.num_programs() == before
  _assert_as_expected(found, ids)
  _assert_as_expected(again, ids[:3])


def _simulated(num_steps, num_slots, chunk_steps):
  """(live, all) slot-steps if problems are taken in turn."""
  queue, slots_left = list(num_steps), [0] * num_slots
  live = total = 0
  slots_left = [queue.pop(0) if queue else None for _ in slots_left]
  while any(left is not None for left in slots_left):
    work = [min(left or 0, chunk_steps) for left in slots_left]
    live, total = live + sum(work), total + max(work) * num_slots
    for b, left in enumerate(slots_left):
      if left is not None:
        slots_left[b] = left - work[b]
        if not slots_left[b]:
          slots_left[b] = queue.pop(0) if queue else None
  return live, total


@pytest.mark.parametrize('num_slots, chunk_steps', [(1, 3), (4, 2), (30, 100)])
def test_usage(num_slots, chunk_steps):
  usage, ids = batching.Usage(), range(NUM_PROBLEMS)
  found = list(_make(num_slots, chunk_steps).run_all(
      jnp.float32(1), RNG, _problems(ids), usage=usage))
  steps = [_at_once(BEST_FIRST)[i][1] for i in ids]
  assert len(set(steps)) > 3 and len(found) == NUM_PROBLEMS
  assert (usage.live_steps, usage.slot_steps) == _simulated(
      steps, num_slots, chunk_steps)
  assert usage.occupancy == usage.live_steps / usage.slot_steps
  if num_slots == 1:
    assert usage.occupancy == 1.0


def test_refilling_keeps_slots_busier():
  ids = range(NUM_PROBLEMS)
  share = {}
  for chunk_steps in (2, 100):
    usage = batching.Usage()
    for _ in _make(4, chunk_steps).run_all(
        jnp.float32(1), RNG, _problems(ids), usage=usage):
      pass
    share[chunk_steps] = usage.occupancy
  assert share[2] > share[100]


def test_reads_problems_as_slots_become_free():
  read = []

  def endless():
    for i in itertools.count():
      read.append(i)
      yield batching.Problem(i % NUM_PROBLEMS, _inputs(i % NUM_PROBLEMS))

  found = _make(4, 2).run_all(jnp.float32(1), RNG, endless())
  assert not read
  first = next(found)
  _assert_as_expected([first], [first.problem.id])
  assert len(read) <= 4 + 4


def test_problems_that_cannot_be_solved_end_without_a_solution():
  """Solved at the root, without any child, without any end: all in turn."""
  ids = [4, 3, 5, 11, 10, 12, 18, 17, 19]
  found = list(_make(4, 2).run_all(jnp.float32(1), RNG, _problems(ids)))
  _assert_as_expected(found, ids)
  for f in found:
    output, tree, kind = f.result, f.result.tree, f.problem.id % 7
    assert output.is_done
    assert output.solution_index == (0 if kind == 3 else -1)
    assert output.solution_value == (1.0 if kind == 3 else 0.0)
    assert f.num_steps == {3: 0, 4: 1}.get(kind, f.num_steps)
    assert tree.num_expansions == {
        3: 0, 4: 1, 5: BEST_FIRST.num_expansions}[kind]


def test_no_problems():
  usage = batching.Usage()
  assert not list(_make(4, 2).run_all(jnp.float32(1), RNG, [], usage=usage))
  assert usage.occupancy == 1.0


@pytest.mark.parametrize('name, arguments', [
    ('num_slots', (0, 2)), ('chunk_steps', (4, 0))])
def test_wrong_settings(name, arguments):
  with pytest.raises(ValueError, match=f'{name}: got 0; must be at least 1'):
    _make(*arguments)
