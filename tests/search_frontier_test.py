# SPDX-License-Identifier: Apache-2.0
"""Frontier searches against plain Python on thousands of random trees."""

import heapq

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import search
from tests import explicit_trees

A, DEPTH = explicit_trees.A, explicit_trees.DEPTH
NUM_TREES = 100  # of one example; compiling takes nearly all the time
SEEDS = st.integers(0, 2**32 - 1)
examples = hypothesis.settings(max_examples=6)


def compare(seed, run, reference, *, keys=False, steps=False, states=False,
            widths=(A,)):
  """Runs a search on trees of one seed, and the reference on each of them."""
  tables = explicit_trees.draw(seed, NUM_TREES)
  step_fn = (
      explicit_trees.step_fn_with_keys if keys else explicit_trees.step_fn)
  output = run(
      tables, jax.random.key(0), explicit_trees.roots(tables), step_fn)
  output = jax.tree.map(np.asarray, output)
  for b in range(NUM_TREES):
    tree = explicit_trees.Tree(
        tables, b, keys=keys, steps=steps, states=states, widths=widths)
    explicit_trees.check(output, b, tree, reference(tree))


def reference_best_first(
    tree, *, num_expansions, max_depth, goal_test, num_leaves, weight):
  newest, heap = {}, [(-tree.nodes[0]['value'], 0)]

  def is_goal(i):
    return tree.nodes[i]['is_terminal'] and tree.nodes[i]['reward'] > 0

  def is_stale(i):
    state = tree.nodes[i]['state']
    return tree.states and state is not None and newest[state] != i

  while True:
    while heap and is_stale(heap[0][1]):
      heapq.heappop(heap)
    if heap and is_goal(heap[0][1]):
      return heap[0][1]
    if goal_test == 'push' and tree.has_goal():
      return tree.best_terminal(weight)
    if not heap or len(tree.order) >= num_expansions:
      return tree.best_terminal(weight)
    leaves = []
    room = min(num_leaves, num_expansions - len(tree.order))
    while heap and len(leaves) < room and not is_goal(heap[0][1]):
      i = heapq.heappop(heap)[1]
      if not is_stale(i):
        leaves.append(i)
    for i in tree.expand(*leaves):
      node = tree.nodes[i]
      newest[node['state']] = i
      if tree.is_open(i, max_depth) or (goal_test == 'pop' and is_goal(i)):
        heapq.heappush(heap, (weight * node['cost'] - node['value'], i))


@pytest.mark.parametrize('goal_test, num_leaves, merges', [
    ('push', 1, False), ('pop', 3, False), ('push', 1, True),
    ('push', 3, True), ('pop', 1, True), ('pop', 3, True)])
@examples
@hypothesis.given(seed=SEEDS)
def test_best_first(seed, goal_test, num_leaves, merges):
  settings = dict(
      num_expansions=12, max_depth=3, goal_test=goal_test,
      num_leaves=num_leaves)
  weight = 0.5 if merges else 0.0
  compare(
      seed,
      lambda *args: search.best_first(
          *args, branching=A, path_cost_weight=weight, merge_steps=merges,
          merge_states=merges, **settings),
      lambda tree: reference_best_first(tree, weight=weight, **settings),
      keys=merges, steps=merges, states=merges)


def reference_beam(tree, *, width, max_depth, threshold=-1e9, stops=False):
  beam = [0]
  for _ in range(max_depth):
    if not beam:
      break
    children = tree.expand(*beam)
    if stops and tree.has_goal():
      break
    beam = [i for i in children if tree.is_open(i, max_depth)
            and tree.nodes[i]['value'] >= threshold]
    beam = sorted(beam, key=lambda i: -tree.nodes[i]['value'])[:width]
  return tree.best_terminal()


@pytest.mark.parametrize('width, merges', [
    (1, False), (2, True), (4, False), (5, True)])
@examples
@hypothesis.given(seed=SEEDS)
def test_beam(seed, width, merges):
  compare(
      seed,
      lambda *args: search.beam(
          *args, beam_width=width, branching=A, max_depth=DEPTH,
          merge_steps=merges, merge_states=merges),
      lambda tree: reference_beam(tree, width=width, max_depth=DEPTH),
      keys=merges, steps=merges, states=merges)


@examples
@hypothesis.given(seed=SEEDS)
def test_breadth_first(seed):
  compare(
      seed,
      lambda *args: search.breadth_first(
          *args, breadth_limit=4, branching=A, max_depth=DEPTH,
          value_threshold=0.25),
      lambda tree: reference_beam(
          tree, width=4, max_depth=DEPTH, threshold=0.25, stops=True))


def reference_dvts(tree, *, num_subtrees, max_depth):
  pick = lambda group: min(
      group, key=lambda i: (-tree.nodes[i]['value'], i), default=None)
  children = [i for i in tree.expand(0) if tree.is_open(i, max_depth)]
  heads = [pick(children[s::num_subtrees]) for s in range(num_subtrees)]
  while any(head is not None for head in heads):
    children = tree.expand(*[head for head in heads if head is not None])
    heads = [
        pick([i for i in children if tree.nodes[i]['parent'] == head
              and tree.is_open(i, max_depth)]) for head in heads]
  return tree.best_terminal()


@pytest.mark.parametrize('num_subtrees', [2, 3])
@examples
@hypothesis.given(seed=SEEDS)
def test_dvts(seed, num_subtrees):
  compare(
      seed,
      lambda *args: search.dvts(
          *args, num_subtrees=num_subtrees, branching=A, max_depth=DEPTH),
      lambda tree: reference_dvts(
          tree, num_subtrees=num_subtrees, max_depth=DEPTH))


def reference_depth_first(
    tree, *, num_expansions, max_depth, value_threshold, order):
  def visit(i):
    """Whether the search is over."""
    if len(tree.order) == num_expansions:
      return True
    children = tree.expand(i)
    if order == 'value':
      children.sort(key=lambda j: -tree.nodes[j]['value'])
    return tree.has_goal() or any(
        visit(j) for j in children if tree.is_open(j, max_depth)
        and tree.nodes[j]['value'] >= value_threshold)

  visit(0)
  return tree.best_terminal()


@pytest.mark.parametrize('order', ['value', 'creation'])
@examples
@hypothesis.given(seed=SEEDS)
def test_depth_first(seed, order):
  settings = dict(
      num_expansions=15, max_depth=DEPTH, value_threshold=0.25, order=order)
  compare(
      seed,
      lambda *args: search.depth_first(*args, branching=A, **settings),
      lambda tree: reference_depth_first(tree, **settings))


WIDTH = 6  # of the mazes
MOVES = ((1, 0), (0, 1), (-1, 0), (0, -1))


def make_mazes(seed, num):
  """Grids of entry costs, 0 = wall; from one corner to the other."""
  rng = np.random.default_rng(seed)
  grids = rng.integers(1, 4, (num, WIDTH, WIDTH))
  grids[rng.random(grids.shape) < 0.25] = 0
  grids[:, 0, 0] = grids[:, -1, -1] = 1
  return grids


def maze_step_fn(grids, rng, path):
  del rng
  rows_R = jnp.arange(len(path.length))
  leaf_Rx3 = path.embeddings[rows_R, jnp.maximum(path.length - 1, 0)]
  child_Rx4x3 = leaf_Rx3[:, None] + jnp.array(
      [(0, *move) for move in MOVES])[None]
  maze, x, y = jnp.moveaxis(child_Rx4x3, -1, 0)
  is_inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < WIDTH)
  cost = grids[maze, jnp.clip(x, 0, WIDTH - 1), jnp.clip(y, 0, WIDTH - 1)]
  to_go = (2 * (WIDTH - 1) - x - y).astype(jnp.float32)
  cell = (x * WIDTH + y).astype(jnp.uint32)
  return search.Expansion(
      embedding=child_Rx4x3, log_prob=jnp.zeros(x.shape), value=-to_go,
      reward=jnp.ones(x.shape), is_terminal=to_go == 0,
      is_valid=is_inside & (cost > 0), cost=cost.astype(jnp.float32),
      state_key=jnp.stack([cell, cell], -1))


def reference_a_star(grid):
  """Cells in the order of their expansion, and the cost or None."""
  last, counter = WIDTH - 1, 0
  to_go = lambda x, y: 2 * last - x - y
  best, heap, order = {(0, 0): 0}, [(to_go(0, 0), 0, 0, (0, 0))], []
  while heap:
    _, _, cost, (x, y) = heapq.heappop(heap)
    if cost > best[x, y]:
      continue
    if (x, y) == (last, last):
      return order, cost
    order.append((x, y))
    for dx, dy in MOVES:
      u, v = x + dx, y + dy
      counter += 1
      if not (0 <= u < WIDTH and 0 <= v < WIDTH and grid[u, v]):
        continue
      new = cost + int(grid[u, v])
      if new < best.get((u, v), 10**9):
        best[u, v] = new
        heapq.heappush(heap, (new + to_go(u, v), counter, new, (u, v)))
  return order, None


def shortest(grid):
  """The cost of the shortest path by relaxing all edges; inf = none."""
  cost = np.full((WIDTH + 2, WIDTH + 2), np.inf)
  cost[1, 1] = 0
  enter = np.where(grid > 0, grid, np.inf)
  for _ in range(WIDTH * WIDTH):
    around = np.minimum.reduce([
        cost[:-2, 1:-1], cost[2:, 1:-1], cost[1:-1, :-2], cost[1:-1, 2:]])
    cost[1:-1, 1:-1] = np.minimum(cost[1:-1, 1:-1], around + enter)
  return cost[-2, -2]


@examples
@hypothesis.given(seed=SEEDS)
def test_a_star_on_mazes(seed):
  grids = make_mazes(seed, NUM_TREES)
  start = np.zeros((NUM_TREES, 3), np.int32)
  start[:, 0] = np.arange(NUM_TREES)
  root = search.Root(
      embedding=start, value=np.full(NUM_TREES, -2.0 * (WIDTH - 1)),
      is_terminal=np.zeros(NUM_TREES, bool),
      state_key=np.zeros((NUM_TREES, 2), np.uint32))
  output = search.best_first(
      jnp.asarray(grids), jax.random.key(0), root, maze_step_fn,
      num_expansions=WIDTH**2, branching=4, max_depth=WIDTH**2,
      goal_test='pop', merge_states=True)
  output = jax.tree.map(np.asarray, output)
  for b in range(NUM_TREES):
    order, cost = reference_a_star(grids[b])
    when = output.tree.expansion_order[b]
    expanded = sorted(np.flatnonzero(when >= 0), key=lambda i: when[i])
    assert [tuple(output.tree.embeddings[b, i, 1:]) for i in expanded] == order
    if cost is None:
      assert output.solution_index[b] == -1 and np.isinf(shortest(grids[b]))
    else:
      assert output.tree.costs[b, output.solution_index[b]] == cost
      assert cost == shortest(grids[b])
      assert output.solution_value[b] == 1
