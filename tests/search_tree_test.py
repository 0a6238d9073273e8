# SPDX-License-Identifier: Apache-2.0
"""The engine: trees, budgets, duplicates, independence of the problems."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import search
from meta_cot import sharding
from meta_cot.search import engine
from meta_cot.search.beam import Beam
from meta_cot.search.frontier import BestFirst
from meta_cot.search.frontier import DepthFirst
from tests import explicit_trees

A = explicit_trees.A
SEEDS = st.integers(0, 2**32 - 1)
STRATEGIES = (
    BestFirst(num_expansions=9, branching=A, max_depth=4, num_leaves=2),
    BestFirst(num_expansions=6, branching=A, max_depth=4, goal_test='pop'),
    Beam(beam_width=3, branching=A, max_depth=3),
    DepthFirst(num_expansions=7, branching=A, max_depth=3))


def drawn_step_fn(params, rng, path):
  """Children drawn from the keys of the rows; the path's sum is in values.

  Without any for params = 0.
  """
  del rng
  rows = len(path.length)
  is_on_RxD = jnp.arange(path.nodes.shape[1])[None] < path.length[:, None]
  sum_R = jnp.sum(jnp.where(is_on_RxD, path.embeddings, 0.0), axis=1)
  draw_Rx5xA = jax.vmap(lambda key: jax.random.uniform(key, (5, A)))(path.keys)
  value_RxA = params * draw_Rx5xA[:, 0] + sum_R[:, None] % 1.0
  return search.Expansion(
      embedding=draw_Rx5xA[:, 1], log_prob=jnp.log(draw_Rx5xA[:, 1]),
      value=value_RxA, reward=draw_Rx5xA[:, 2] - 0.5,
      is_terminal=draw_Rx5xA[:, 3] < 0.15,
      is_valid=draw_Rx5xA[:, 4] < 0.8 * jnp.minimum(10 * params, 1),
      num_tokens=jnp.full((rows, A), 2))


def drawn_root(problem_id):
  size = len(problem_id)
  return search.Root(
      embedding=jnp.zeros(size), value=jnp.full(size, 0.5),
      is_terminal=jnp.zeros(size, bool), problem_id=jnp.asarray(problem_id))


def run(strategy, root, step_fn=drawn_step_fn, scale=0.7):
  return engine.run(
      strategy, jnp.float32(scale), jax.random.key(3), root, step_fn)


ROOT = drawn_root(np.arange(100, 132))  # one size: programs are shared


def assert_equal(left, right, index=slice(None)):
  """`left` is row `index` of `right`, bit for bit."""
  jax.tree.map(
      lambda x, y: np.testing.assert_array_equal(x, np.asarray(y)[index]),
      left, right)


@pytest.mark.parametrize('strategy', [
    STRATEGIES[0], pytest.param(STRATEGIES[1], marks=pytest.mark.slow),
    STRATEGIES[2], pytest.param(STRATEGIES[3], marks=pytest.mark.slow)])
def test_a_problem_has_one_tree_in_any_batch(strategy):
  batch = run(strategy, ROOT)
  assert len(np.unique(batch.tree.num_expansions)) > 1
  for b in (0, 7, 31):
    assert_equal(run(strategy, drawn_root([100 + b])), batch, slice(b, b + 1))
  order = np.random.default_rng(0).permutation(32)
  assert_equal(run(strategy, drawn_root(100 + order)), batch, order)
  assert_equal(run(strategy, ROOT), batch)


@pytest.mark.parametrize('strategy', STRATEGIES[::2])
def test_eight_devices_search_as_one(strategy):
  mesh = sharding.make_mesh(sharding.MeshConfig(data=8, fsdp=1, model=1))
  placed = jax.device_put(ROOT, sharding.batch(mesh))
  with sharding.use_mesh(mesh):
    parts = run(strategy, placed)
  assert_equal(run(strategy, ROOT), parts)
  assert len(parts.tree.values.sharding.device_set) == 8
  assert parts.tree.values.addressable_shards[0].data.shape[0] == 4


@pytest.mark.parametrize('strategy', [
    STRATEGIES[0], pytest.param(STRATEGIES[1], marks=pytest.mark.slow),
    *STRATEGIES[2:]])
def test_chunks_of_steps_are_the_whole_search(strategy):
  advance = jax.jit(engine.advance, static_argnums=(0, 4),
                    static_argnames='num_steps')
  state = engine.start(strategy, ROOT)
  history = [state]
  for _ in range(strategy.max_steps):
    state = advance(strategy, jnp.float32(0.7), jax.random.key(3), state,
                    drawn_step_fn, num_steps=1)
    history.append(state)
  assert not np.array_equal(history[1].is_done, history[-1].is_done)
  assert np.all(state.is_done)
  assert_equal(engine.output(state), run(strategy, ROOT))
  # Done is done: later steps of others change no bit.
  for earlier, later in zip(history, history[1:]):
    done = np.flatnonzero(earlier.is_done)
    rows = lambda tree: jax.tree.map(lambda x: np.asarray(x)[done], tree)
    assert_equal(rows(earlier), rows(later))
    live = np.flatnonzero(~np.asarray(earlier.is_done))
    assert np.all(np.asarray(later.num_steps - earlier.num_steps)[live] == 1)


@dataclasses.dataclass(frozen=True)
class Counting(DepthFirst):
  """Counts its backups, whether they are asked for or not."""

  def start(self, tree):
    return jnp.zeros(tree.shape[0], jnp.int32)

  def backup(self, state, leaves_BxK, children):
    state = super().backup(state, leaves_BxK, children)
    return state.replace(extra=state.extra + 1)


def test_what_is_done_stays_as_it_is():
  strategy = Counting(num_expansions=7, branching=A, max_depth=3)
  state = engine.advance(
      strategy, jnp.float32(0.7), jax.random.key(3),
      engine.start(strategy, ROOT), drawn_step_fn, num_steps=99)
  np.testing.assert_array_equal(state.extra, state.num_steps)
  np.testing.assert_array_equal(state.extra, state.tree.num_expansions)
  assert len(np.unique(state.extra)) > 1


@pytest.mark.parametrize('strategy', STRATEGIES[:2])
def test_no_call_is_made_for_nothing(strategy):
  """The loop ends with the last problem, and every step expands something."""
  calls = []

  def counting(params, rng, path):
    jax.debug.callback(
        lambda length: calls.append(np.asarray(length)), path.length)
    return drawn_step_fn(params, rng, path)

  output = run(strategy, drawn_root([1, 2, 3, 4]), counting)
  jax.effects_barrier()
  assert all(np.any(length > 0) for length in calls)
  expanded = sum(int(np.sum(length > 0)) for length in calls)
  assert expanded == int(np.sum(output.tree.num_expansions))


@hypothesis.given(seed=SEEDS)
def test_the_path_of_a_row_leads_to_its_leaf(seed):
  """Every node's embedding is its own path, by way of the step function."""
  tables = explicit_trees.draw(seed, 8, valid=0.9, terminal=0.1, good=0.0)
  root = search.Root(
      embedding=jnp.full((8, 5), -1), value=jnp.zeros(8),
      is_terminal=jnp.zeros(8, bool))

  output = search.best_first(
      tables, jax.random.key(0), root, path_step_fn, num_expansions=9,
      branching=A, max_depth=4, num_leaves=3)
  output = jax.tree.map(np.asarray, output)
  for b in range(8):
    for i in range(1, output.tree.num_nodes[b]):
      ancestors, j = [], i
      while j > 0:
        j = output.tree.parents[b, j]
        ancestors.insert(0, j)
      ancestors += [-1] * (5 - len(ancestors))
      assert output.tree.embeddings[b, i].tolist() == ancestors


def path_step_fn(tables, rng, path):
  del rng
  rows, num_path = path.nodes.shape
  is_on_RxD = jnp.arange(num_path)[None] < path.length[:, None]
  own_RxD = jnp.where(is_on_RxD, path.nodes, -1)
  own_Rx5 = jnp.pad(
      own_RxD, ((0, 0), (0, 5 - num_path)), constant_values=-1)
  problem_R = jnp.arange(rows) // 3
  leaf_R = jnp.take_along_axis(
      path.nodes, jnp.maximum(path.length - 1, 0)[:, None], 1)
  of = lambda name: jnp.asarray(tables[name])[
      problem_R[:, None], leaf_R + 1 + jnp.arange(A)[None]]
  return search.Expansion(
      embedding=jnp.repeat(own_Rx5[:, None], A, axis=1),
      log_prob=of('log_prob'), value=of('value'), reward=of('reward'),
      is_terminal=of('is_terminal'), is_valid=of('is_valid'))


@pytest.mark.parametrize('strategy, max_tokens', [
    (STRATEGIES[0], 7), (STRATEGIES[2], 18)])
def test_no_step_begins_beyond_the_tokens(strategy, max_tokens):
  free = run(strategy, ROOT)
  bound = run(dataclasses.replace(strategy, max_tokens=max_tokens), ROOT)
  per_step = 2 * A * strategy.num_leaves
  spent, wanted = (np.asarray(o.tree.num_tokens) for o in (bound, free))
  assert np.all(spent == 2 * A * np.asarray(bound.tree.num_expansions))
  assert np.all(spent < max_tokens + per_step)
  assert np.all((spent >= max_tokens) | (spent == wanted))
  assert np.any(spent < wanted) and np.all(bound.is_done)


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_a_terminal_root_is_its_own_answer(strategy):
  even = jnp.arange(32) % 2 == 0
  output = run(strategy, ROOT.replace(is_terminal=even))
  np.testing.assert_array_equal(output.solution_index[::2], 0)
  np.testing.assert_array_equal(output.solution_value[::2], 0.5)
  np.testing.assert_array_equal(output.tree.num_nodes[::2], 1)
  assert_equal(
      jax.tree.map(lambda x: x[1::2], output), run(strategy, ROOT),
      slice(1, None, 2))


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_no_children_is_no_solution(strategy):
  output = run(strategy, ROOT, scale=0.0)
  assert np.all(output.solution_index == -1)
  assert np.all(output.solution_value == 0)
  assert np.all(output.tree.num_expansions == 1) and np.all(output.is_done)
  assert np.all(output.path(output.solution_index) == -1)


def test_path_of_a_node():
  output = run(STRATEGIES[0], ROOT)
  index = output.tree.num_nodes - 1
  paths = np.asarray(output.path(index))
  for b in range(32):
    node, expected = int(index[b]), []
    while node >= 0:
      expected.insert(0, node)
      node = int(output.tree.parents[b, node])
    assert paths[b].tolist() == expected + [-1] * (
        paths.shape[1] - len(expected))
  assert np.all(output.path(jnp.full(32, -1)) == -1)
  assert np.all(output.path(jnp.zeros(32, int))[:, 0] == 0)


def test_old_style_keys_do():
  output = engine.run(
      STRATEGIES[0], jnp.float32(0.7), jax.random.PRNGKey(3), ROOT,
      drawn_step_fn)
  assert_equal(run(STRATEGIES[0], ROOT), output)


@pytest.mark.parametrize('function, settings, message', [
    (search.best_first, dict(num_expansions=0), 'num_expansions: got 0'),
    (search.best_first, dict(branching=0), 'branching: got 0'),
    (search.best_first, dict(max_depth=0), 'max_depth: got 0'),
    (search.best_first, dict(num_leaves=0), 'num_leaves: got 0'),
    (search.best_first, dict(max_tokens=0), 'max_tokens: got 0'),
    (search.best_first, dict(goal_test='both'), 'one of push, pop'),
    (search.best_first, dict(branching=2), r'must be \(1, 2\)'),
    (search.best_first, dict(merge_states=True), 'gives no state_key'),
    (search.beam, dict(beam_width=0), 'beam_width: got 0'),
    (search.dvts, dict(num_subtrees=4), 'num_subtrees: got 4; .* 3'),
    (search.breadth_first, dict(breadth_limit=0), 'breadth_limit: got 0'),
    (search.depth_first, dict(order='age'), 'one of value, creation'),
    (search.depth_first, dict(num_expansions=-1), 'num_expansions: got -1'),
])
def test_impossible_settings(function, settings, message):
  needed = {
      search.beam: dict(beam_width=1), search.dvts: dict(num_subtrees=1),
      search.breadth_first: dict(breadth_limit=1)}.get(
          function, dict(num_expansions=3))
  settings = dict(branching=3, max_depth=2) | needed | settings
  with pytest.raises(ValueError, match=message):
    function(jnp.float32(1.0), jax.random.key(0), drawn_root([0]),
             drawn_step_fn, **settings)


@pytest.mark.parametrize('field, value, message', [
    ('value', np.zeros((2, 1)), r'value has shape \(2, 1\)'),
    ('is_terminal', np.zeros(3, bool), r'is_terminal has shape \(3,\)'),
    ('problem_id', np.zeros(1, int), r'problem_id has shape \(1,\)'),
    ('state_key', np.zeros(2, int), r'state_key has shape \(2,\)'),
    ('embedding', {'x': np.zeros(3)}, r"embedding\['x'\] has shape \(3,\)")])
def test_roots_of_a_wrong_shape(field, value, message):
  root = drawn_root([0, 1]).replace(**{field: value})
  with pytest.raises(ValueError, match=message):
    engine.run(STRATEGIES[0], jnp.float32(1.0), jax.random.key(0), root,
               drawn_step_fn)
