# SPDX-License-Identifier: Apache-2.0
"""Branching by depth: trees of all strategies, tokens, and one program."""

import dataclasses
import functools
import hashlib

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from meta_cot import reasoning
from meta_cot import search
from meta_cot.search import branching as branching_lib
from meta_cot.search import engine
from meta_cot.search.frontier import BestFirst
from meta_cot.search.mcts import Mcts
from tests import explicit_trees
from tests import language_search
from tests import mcts_test
from tests import search_frontier_test as frontier_test

A, DEPTH = explicit_trees.A, explicit_trees.DEPTH
# The first narrows, the second widens, the third has more levels than needed.
WIDTHS = ((3, 2, 1), (1, 3), (2, 3, 1, 2, 3))
SEARCHES = {
    'best_first': functools.partial(
        search.best_first, num_expansions=9, max_depth=3, num_leaves=2),
    'depth_first': functools.partial(
        search.depth_first, num_expansions=9, max_depth=4),
    'beam': functools.partial(search.beam, beam_width=4, max_depth=4),
    'dvts': functools.partial(search.dvts, num_subtrees=2, max_depth=4),
    'breadth_first': functools.partial(
        search.breadth_first, breadth_limit=4, max_depth=4),
    'mcts': functools.partial(
        search.mcts, num_simulations=12, max_depth=3, num_leaves=2)}
# Of the trees before there was branching by depth.
GOLDEN = {
    'best_first': '7267eee3221f4944', 'depth_first': 'c4e99bd440a9ab78',
    'beam': '4bef74faeaac25cd', 'dvts': '6d25175c55b7f339',
    'breadth_first': '9a84ed0496394617', 'mcts': 'c6d4418fd6b67623'}


def digest(tree):
  found = hashlib.sha256()
  for name in (
      'parents', 'first_child', 'depths', 'visit_counts', 'is_valid',
      'is_terminal', 'is_expanded', 'expansion_order', 'num_nodes',
      'num_expansions', 'num_tokens', 'values', 'rewards'):
    found.update(np.ascontiguousarray(getattr(tree, name)).tobytes())
  return found.hexdigest()[:16]


@pytest.mark.parametrize('name', SEARCHES)
def test_one_number_gives_the_trees_of_before(name):
  tables = explicit_trees.draw(11, 32)
  run = lambda branching: SEARCHES[name](
      tables, jax.random.key(0), explicit_trees.roots(tables),
      explicit_trees.step_fn, branching=branching)
  plain = run(A)
  assert digest(plain.tree) == GOLDEN[name]
  if name == 'beam':
    jax.tree.map(np.testing.assert_array_equal, plain, run((A, A)))


BEST_FIRST = dict(
    num_expansions=11, max_depth=3, goal_test='pop', num_leaves=3)
DEPTH_FIRST = dict(
    num_expansions=12, max_depth=DEPTH, value_threshold=0.25, order='value')
# Name: what is run, what it equals, and children by depth.
COMPARED = {
    'best_first': (
        functools.partial(
            search.best_first, path_cost_weight=0.5, merge_states=True,
            **BEST_FIRST),
        functools.partial(
            frontier_test.reference_best_first, weight=0.5, **BEST_FIRST),
        (3, 2, 1)),
    'depth_first': (
        functools.partial(search.depth_first, **DEPTH_FIRST),
        functools.partial(
            frontier_test.reference_depth_first, **DEPTH_FIRST), (1, 3)),
    'beam': (
        functools.partial(search.beam, beam_width=4, max_depth=DEPTH),
        functools.partial(
            frontier_test.reference_beam, width=4, max_depth=DEPTH),
        (2, 3, 1, 2, 3)),
    'dvts': (
        functools.partial(search.dvts, num_subtrees=2, max_depth=DEPTH),
        functools.partial(
            frontier_test.reference_dvts, num_subtrees=2, max_depth=DEPTH),
        (3, 1, 2)),
    'breadth_first': (
        functools.partial(
            search.breadth_first, breadth_limit=4, max_depth=DEPTH),
        functools.partial(
            frontier_test.reference_beam, width=4, max_depth=DEPTH,
            stops=True), (3, 2, 1))}


@pytest.mark.parametrize('name', COMPARED)
@hypothesis.settings(max_examples=2)
@hypothesis.given(seed=frontier_test.SEEDS)
def test_trees_are_those_of_plain_python(seed, name):
  run, reference, widths = COMPARED[name]
  merges = dict.fromkeys(('keys', 'steps', 'states'), name == 'best_first')
  frontier_test.compare(
      seed, functools.partial(run, branching=widths), reference,
      widths=widths, **merges)


def test_mcts_equals_a_search_written_anew():
  widths = 3, 1, 2
  strategy = Mcts(widths, 4, 20, 'puct', 0.7, num_leaves=2)
  assert mcts_test.compare(strategy, dataclasses.replace(
      mcts_test.settings_of(strategy), widths=widths))


def test_no_token_goes_to_a_child_that_no_one_wants():
  """Children of a narrower node are the first of those of a wide one."""
  config, params = language_search.make_model()
  step, rows = language_search.make_step(config), []

  def counting(params, rng, path):
    expansion = step(params, rng, path)
    jax.debug.callback(
        lambda *x: rows.append(map(np.asarray, x)), path.num_children,
        expansion.num_tokens)
    return expansion

  given, root = jax.jit(lambda: reasoning.start(
      config, params, *language_search.make_prompts(2),
      step_length=language_search.LENGTH))()
  run = lambda step, branching: jax.device_get(search.beam(
      given, jax.random.key(7), root, step, beam_width=2, max_depth=3,
      branching=branching, merge_steps=False).tree)
  tree = run(counting, (3, 2, 1))
  jax.effects_barrier()
  assert len(rows) == 3
  for num_children_R, num_tokens_RxA in rows:
    np.testing.assert_array_equal(
        num_tokens_RxA > 0, np.arange(3) < num_children_R[:, None])
  np.testing.assert_array_equal(
      tree.num_tokens,
      np.sum(tree.embeddings.page.length, axis=1, where=tree.is_valid))
  for b, first in enumerate(tree.first_child):
    for i in np.flatnonzero(tree.is_expanded[b]):
      assert np.flatnonzero(tree.parents[b] == i).tolist() == list(range(
          first[i], first[i] + (3, 2, 1)[tree.depths[b, i]]))
  # The root and what was drawn below it are as they were.
  wide = run(step, 3)
  assert tree.shape[1] < wide.shape[1]
  np.testing.assert_array_equal(
      tree.embeddings.tokens[:, :4], wide.embeddings.tokens[:, :4])


def test_nothing_is_compiled_again():
  """One program serves all levels of a tree, and any number of chunks."""
  traces = []

  def counting(*args):
    traces.append(args)
    return explicit_trees.step_fn(*args)

  tables = explicit_trees.draw(3, 4)
  strategy = BestFirst((3, 2, 1), 4, num_expansions=8)
  advance = jax.jit(engine.advance, static_argnums=(0, 4),
                    static_argnames='num_steps')
  state = engine.start(strategy, explicit_trees.roots(tables))
  for _ in range(8):
    state = advance(
        strategy, tables, jax.random.key(0), state, counting, num_steps=1)
  assert len(traces) == 1 and len(set(np.asarray(state.tree.depths).flat)) > 3


def reachable(widths, max_depth, num_expansions):
  """The most children, by trying all numbers of expansions of every level."""
  def most(depth, there, left):
    if depth == max_depth:
      return 0
    width = branching_lib.at(widths, depth)
    return max(
        width * n + most(depth + 1, width * n, left - n)
        for n in range(min(there, left) + 1))

  return most(0, 1, num_expansions)


@hypothesis.given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    st.integers(1, 4), st.integers(1, 8))
def test_trees_have_room_and_not_much_more(widths, max_depth, num_expansions):
  bound = branching_lib.most_children(widths, max_depth, num_expansions)
  exact = reachable(widths, max_depth, num_expansions)
  assert bound >= exact
  if list(widths) == sorted(widths, reverse=True):
    assert bound == exact
  assert branching_lib.of_depths(widths, np.arange(6)).tolist() == [
      branching_lib.at(widths, d) for d in range(6)]


def test_below_a_step_that_was_taken_depths_count_anew():
  strategy = Mcts((3, 1, 2), 3, 6, 'puct', capacity=12)
  world = mcts_test.reference.worlds(5, 8)
  state, child_B = mcts_test.run(strategy, world, jax.random.key(0))
  before, after = mcts_test.go_on(
      strategy, world, jax.random.key(1), state, child_B)
  assert int(np.max(before.tree.num_expansions)) > 1
  tree = jax.device_get(after.tree)
  for b in range(8):
    for i in np.flatnonzero(tree.is_expanded[b]):
      size = int(np.sum(tree.parents[b] == i))
      is_old = tree.expansion_order[b, i] < before.tree.num_expansions[b]
      # What was expanded before keeps the children that it has.
      assert size == (3, 1, 2)[min(tree.depths[b, i] + int(is_old), 2)]


@pytest.mark.parametrize('branching, message', [
    ((), r'branching: got \(\); must have at least 1 entry'),
    ((4, 0), r'branching: got \(4, 0\); must be at least 1 everywhere'),
    (0, 'branching: got 0; must be at least 1')])
def test_branching_that_leaves_no_child_is_refused(branching, message):
  for name, run in SEARCHES.items():
    with pytest.raises(ValueError, match=message) as error:
      run(None, jax.random.key(0), None, None, branching=branching)
    assert '\n' not in str(error.value), name
  with pytest.raises(ValueError, match='must be at most branching, 2'):
    search.beam(
        None, None, None, None, beam_width=3, num_groups=3, max_depth=2,
        branching=(2, 9))
