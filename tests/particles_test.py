# SPDX-License-Identifier: Apache-2.0
"""Particle filtering against enumeration of small trees, and its laws."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot import search
from meta_cot.search import engine
from meta_cot.search.particles import log_evidence
from meta_cot.search.particles import Particles
from meta_cot.search.particles import Population
from meta_cot.search.particles import resample
from tests import explicit_trees

A, DEPTH, M = explicit_trees.A, explicit_trees.DEPTH, explicit_trees.M
P = 5
NUM = 4096  # searches of one tree


def _tree(seed):
  """Probabilities of children, values above 0, and which nodes are ends."""
  rng = np.random.default_rng(seed)
  prob = rng.dirichlet(np.ones(A), M).astype(np.float32)
  value = rng.uniform(0.05, 1.0, M).astype(np.float32)
  is_end = rng.random(M) < 0.25
  is_end[0] = False
  # Some ends are worth nothing.
  value[is_end & (rng.random(M) < 0.4)] = 0.0
  return prob, value, is_end


def _step(tree, rng, path):
  """Draws one child of every leaf by the key of its row."""
  del rng
  prob, value, is_end = map(jnp.asarray, tree)
  rows_R = jnp.arange(len(path.length))
  leaf_R = path.embeddings[rows_R, jnp.maximum(path.length - 1, 0)]
  branch_R = jax.vmap(jax.random.categorical)(
      path.keys, jnp.log(prob[jnp.minimum(leaf_R, M - 1)]))
  node_Rx1 = (leaf_R * A + 1 + branch_R)[:, None]
  at = jnp.minimum(node_Rx1, M - 1)
  return search.Expansion(
      embedding=node_Rx1, log_prob=jnp.zeros(at.shape), value=value[at],
      reward=value[at], is_terminal=is_end[at],
      is_valid=jnp.ones(at.shape, bool),
      num_tokens=jnp.full(at.shape, 2, jnp.int32))


def _root(tree, ids):
  shape = (len(ids),)
  return search.Root(
      embedding=jnp.zeros(shape, jnp.int32),
      value=jnp.full(shape, tree[1][0]), is_terminal=jnp.zeros(shape, bool),
      problem_id=jnp.asarray(ids, jnp.int32))


@functools.partial(jax.jit, static_argnames='strategy')
def _run(strategy, tree, root):
  return engine.advance(
      strategy, tree, jax.random.key(1), engine.start(strategy, root), _step,
      num_steps=strategy.max_steps)


def _final(tree):
  """The probability of every node to be where a text ends, [M]."""
  prob, _, is_end = tree
  reach, depth = np.zeros(M), np.zeros(M, int)
  reach[0] = 1.0
  for node in range(1, M):
    parent = (node - 1) // A
    depth[node] = depth[parent] + 1
    if not is_end[parent]:
      reach[node] = reach[parent] * prob[parent, (node - 1) % A]
  return reach * (is_end | (depth == DEPTH))


@pytest.mark.parametrize('seed, below', [(0, 1.0), (1, 0.5), (2, 0.0)])
def test_weights_are_unbiased(seed, below):
  """For every end: the mean weight there is its probability times its value."""
  tree = _tree(seed)
  strategy = Particles(
      1, DEPTH, num_particles=P, resample_below=below)
  state = _run(strategy, tree, _root(tree, np.arange(NUM)))
  population = jax.device_get(state.extra)
  at_BxP = np.take_along_axis(
      np.asarray(state.tree.embeddings), population.nodes, axis=1)
  weights_BxP = np.exp(population.log_weights)
  assert np.isfinite(weights_BxP).all()
  found_BxM = np.stack([
      (weights_BxP * (at_BxP == node)).mean(axis=1) for node in range(M)], 1)
  wanted_M = _final(tree) * tree[1]
  error_M = found_BxM.std(axis=0) / np.sqrt(NUM)
  off_M = np.abs(found_BxM.mean(axis=0) - wanted_M)
  is_common_M = _final(tree) * NUM * P > 50
  assert is_common_M.sum() > 8
  assert (off_M <= 5 * error_M + 1e-6)[is_common_M].all()
  evidence_B = np.exp(log_evidence(state.extra))
  assert abs(evidence_B.mean() - wanted_M.sum()) <= (
      5 * evidence_B.std() / np.sqrt(NUM))
  assert wanted_M.sum() > 0.05
  drawn = np.sort(population.nodes)
  has_copies = (np.diff(drawn, axis=1) == 0).any(axis=1).mean()
  assert has_copies > 0.3 if below else has_copies == 0


def test_resampling_changes_no_mean():
  tree = _tree(3)
  found = {}
  for below in (0.0, 1.0):
    strategy = Particles(
        1, DEPTH, num_particles=16, resample_below=below)
    state = _run(strategy, tree, _root(tree, np.arange(512)))
    found[below] = np.exp(log_evidence(state.extra))
  np.testing.assert_allclose(
      found[0.0].mean(), found[1.0].mean(),
      atol=5 * np.hypot(*(x.std() for x in found.values())) / np.sqrt(512))


def test_copies_of_a_node_go_their_own_ways():
  tree = _tree(4)
  strategy = Particles(1, DEPTH, num_particles=64)
  state = _run(strategy, tree, _root(tree, [7]))
  nodes = np.asarray(state.tree.embeddings)[0]
  parents = np.asarray(state.tree.parents)[0]
  of_root = nodes[parents == 0]
  assert len(of_root) == 64 and set(of_root) == {1, 2, 3}
  share = np.bincount(of_root, minlength=4)[1:] / 64
  assert (np.abs(share - tree[0][0]) < 5 * np.sqrt(0.25 / 64)).all()
  assert state.tree.num_tokens[0] == 2 * (state.tree.num_nodes[0] - 1)
  assert state.tree.expansion_order[0, 0] == 0
  assert state.tree.first_child[0, 0] == 1


def test_a_search_is_the_same_alone_and_in_a_batch():
  tree = _tree(5)
  strategy = Particles(1, DEPTH, num_particles=P)
  whole = _run(strategy, tree, _root(tree, np.arange(8)))
  alone = _run(strategy, tree, _root(tree, [5]))
  for x, y in zip(jax.tree.leaves((whole.tree, whole.extra)),
                  jax.tree.leaves((alone.tree, alone.extra))):
    np.testing.assert_array_equal(np.asarray(x)[5], np.asarray(y)[0])


def test_all_dead_is_the_end():
  prob, value, is_end = _tree(6)
  value, is_end = np.zeros_like(value), np.zeros_like(is_end)
  value[0] = 1.0
  tree = prob, value, is_end
  strategy = Particles(1, DEPTH, num_particles=P)
  state = _run(strategy, tree, _root(tree, [0, 1]))
  assert state.is_done.all() and (state.num_steps == 1).all()
  assert (log_evidence(state.extra) == -np.inf).all()
  assert (state.solution == -1).all()


@hypothesis.given(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]), min_size=4,
             max_size=4).filter(any), st.integers(0, 99))
@hypothesis.settings(max_examples=60, deadline=None)
def test_systematic_resampling_takes_the_share_or_the_next_number(
    weights, seed):
  population = Population(
      jnp.arange(4)[None], jnp.log(jnp.asarray([weights], jnp.float32)))
  drawn = resample(
      population, jax.random.split(jax.random.key(seed), 1), 1.0)
  wanted = 4 * np.array(weights) / np.sum(weights)
  counts = np.bincount(np.asarray(drawn.nodes)[0], minlength=4)
  assert (counts >= np.floor(wanted - 1e-4)).all()
  assert (counts <= np.ceil(wanted + 1e-4)).all()
  np.testing.assert_allclose(
      log_evidence(drawn), np.log(np.mean(weights)), rtol=1e-5,
      atol=1e-6)


@pytest.mark.parametrize('changes, words', [
    (dict(branching=2), 'branching, merge_states: got 2'),
    (dict(merge_states=True), 'must be 1 and False'),
    (dict(resample_below=1.5), 'resample_below: got 1.5'),
    (dict(num_particles=0), 'num_particles: got 0')])
def test_settings_that_allow_no_search(changes, words):
  settings = dict(branching=1, max_depth=2, num_particles=3) | changes
  with pytest.raises(ValueError, match=words):
    Particles(**settings)
