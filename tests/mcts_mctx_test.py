# SPDX-License-Identifier: Apache-2.0
"""`puct` and `gumbel` visit what the `mctx` package visits.

Its problems are tables: states, and for every action of a state the next one.
mctx makes one node per simulation, and with it learns the value of the node and
the log-probs of its actions. Here a node's value is known from its creation,
and its expansion gives the log-probs of all its children. So "mctx makes a
node" is "this search expands a node that it visits for the first time", and

- n simulations of mctx, whose root begins expanded, are n + 1 here;
- a terminal node, which mctx does not know, is one that all actions lead back
  to, reached with its reward and discount 0;
- mctx has no Q for an action not yet tried; `puct` here takes the value of the
  child, which `qtransform` below gives to mctx. `gumbel` needs nothing: it
  completes Q as mctx does.
"""

import functools

import jax
import jax.numpy as jnp
import mctx
from mctx._src import seq_halving
import numpy as np
import pytest

from meta_cot.search import base
from meta_cot.search import engine
from meta_cot.search import halving
from meta_cot.search.mcts import Mcts

B, S, A = 16, 60, 4


def make_worlds(seed):
  rng = np.random.default_rng(seed)
  return {
      'children': rng.integers(1, S, (B, S, A)).astype(np.int32),
      'value': rng.random((B, S)).astype(np.float32),
      'reward': rng.random((B, S)).astype(np.float32),
      'is_terminal': (rng.random((B, S)) < 0.15) & (np.arange(S) > 0),
      'log_prob': rng.normal(0, 1, (B, S, A)).astype(np.float32)}


def step_fn(params, rng, path):
  del rng
  state_B = path.embeddings[jnp.arange(B), jnp.maximum(path.length - 1, 0)]
  child_BxA = params['children'][jnp.arange(B), state_B]
  of = lambda name: params[name][jnp.arange(B)[:, None], child_BxA]
  return base.Expansion(
      embedding=child_BxA,
      log_prob=params['log_prob'][jnp.arange(B), state_B],
      value=of('value'), reward=of('reward'), is_terminal=of('is_terminal'),
      is_valid=jnp.ones((B, A), bool))


def recurrent_fn(params, rng, action_B, state_B):
  del rng
  of = lambda name, state_B: params[name][jnp.arange(B), state_B]
  was_over_B = of('is_terminal', state_B)
  next_B = jnp.where(
      was_over_B, state_B,
      params['children'][jnp.arange(B), state_B, action_B])
  is_over_B = of('is_terminal', next_B)
  reward_B = jnp.where(is_over_B & ~was_over_B, of('reward', next_B), 0.0)
  return mctx.RecurrentFnOutput(
      reward=reward_B, discount=1.0 - is_over_B.astype(jnp.float32),
      prior_logits=of('log_prob', next_B), value=of('value', next_B)), next_B


def mctx_root(params):
  return mctx.RootFnOutput(
      prior_logits=params['log_prob'][:, 0], value=params['value'][:, 0],
      embedding=jnp.zeros(B, jnp.int32))


@functools.partial(jax.jit, static_argnames='strategy')
def run(strategy, params, rng):
  root = base.Root(
      embedding=jnp.zeros(B, jnp.int32), value=params['value'][:, 0],
      is_terminal=jnp.zeros(B, bool))
  state = engine.advance(
      strategy, params, rng, engine.start(strategy, root), step_fn,
      num_steps=strategy.max_steps)
  return state, strategy.recommended(state)


def ours(tree, b, node=0, path=()):
  """(visits, Q) of the visited nodes below one, by actions."""
  found = {}
  first = tree.first_child[b, node]
  for action in range(A if first >= 0 else 0):
    child = first + action
    if tree.visit_counts[b, child]:
      key = (*path, action)
      found[key] = tree.visit_counts[b, child], tree.q_values[b, child]
      found |= ours(tree, b, child, key)
  return found


def theirs(tree, q_values, b, node=0, path=()):
  """The same of a tree of mctx; nothing below terminal nodes."""
  found = {}
  for action, child in enumerate(tree.children_index[b, node]):
    if child >= 0:
      key = (*path, action)
      found[key] = (
          tree.children_visits[b, node, action], q_values[b, node, action])
      if tree.children_discounts[b, node, action]:
        found |= theirs(tree, q_values, b, child, key)
  return found


def check_equal(tree, mctx_tree):
  tree = jax.device_get(tree)
  mctx_tree = jax.device_get(mctx_tree)
  q_values = mctx_tree.children_rewards + (
      mctx_tree.children_discounts * mctx_tree.children_values)
  num_nodes = 0
  for b in range(B):
    mine, other = ours(tree, b), theirs(mctx_tree, q_values, b)
    num_nodes += len(mine)
    assert {k: int(n) for k, (n, _) in mine.items()} == {
        k: int(n) for k, (n, _) in other.items()}
    for key, (_, q) in mine.items():
      np.testing.assert_allclose(q, other[key][1], atol=1e-5, err_msg=str(key))
  assert num_nodes > 5 * B  # the trees are worth comparing


def with_child_values(params, tree, node):
  """Q of what was tried, else the child's value; one problem."""
  child_A = params['children'][tree.embeddings[node]]
  return jnp.where(
      tree.children_visits[node] > 0, tree.qvalues(node),
      params['value'][child_A])


@pytest.mark.parametrize('exploration, max_depth', [
    (1.25, 40), (0.3, 4), pytest.param(4.0, 6, marks=pytest.mark.slow)])
def test_puct(exploration, max_depth):
  num_simulations = 40

  @jax.jit
  def search(params, rng):
    # The table of every problem, where mctx looks at one tree.
    tables = {name: params[name] for name in ('children', 'value')}

    def qtransform(tree, node):
      return with_child_values(tree.extra_data, tree, node)

    select = functools.partial(
        mctx.muzero_action_selection, pb_c_init=exploration, pb_c_base=1e30,
        qtransform=qtransform)
    return mctx.search(
        params, rng, root=mctx_root(params), recurrent_fn=recurrent_fn,
        root_action_selection_fn=functools.partial(select, depth=0),
        interior_action_selection_fn=select, extra_data=tables,
        num_simulations=num_simulations, max_depth=max_depth)

  strategy = Mcts(
      A, max_depth, num_simulations + 1, 'puct', exploration)
  for seed in range(3):
    params = make_worlds(seed)
    state, _ = run(strategy, params, jax.random.key(seed))
    check_equal(state.tree, search(params, jax.random.key(seed)))


@pytest.mark.parametrize('max_considered, num_simulations, max_depth', [
    (16, 32, 40), pytest.param(3, 41, 5, marks=pytest.mark.slow),
    (1, 20, 6), pytest.param(2, 7, 3, marks=pytest.mark.slow)])
def test_gumbel(max_considered, num_simulations, max_depth):
  settings = halving.Settings(max_considered=max_considered)
  strategy = Mcts(
      A, max_depth, num_simulations + 1, 'gumbel', gumbel=settings)

  @jax.jit
  def search(params, rng, noise_BxA):
    return mctx.search(
        params, rng, root=mctx_root(params), recurrent_fn=recurrent_fn,
        root_action_selection_fn=functools.partial(
            mctx.gumbel_muzero_root_action_selection,
            num_simulations=num_simulations,
            max_num_considered_actions=max_considered),
        interior_action_selection_fn=(
            mctx.gumbel_muzero_interior_action_selection),
        extra_data=mctx.GumbelMuZeroExtraData(root_gumbel=noise_BxA),
        num_simulations=num_simulations, max_depth=max_depth)

  for seed in range(3):
    params = make_worlds(seed)
    state, _ = run(strategy, params, jax.random.key(seed))
    keys_B = jax.random.wrap_key_data(state.seeds, impl='threefry2x32')
    noise_BxA = jax.vmap(lambda key: halving.noise(key, A, settings))(keys_B)
    assert len(np.unique(noise_BxA)) == noise_BxA.size
    check_equal(state.tree, search(params, jax.random.key(0), noise_BxA))


def test_gumbel_policy():
  """Without noise the whole policy agrees, the chosen action included."""
  strategy = Mcts(
      A, 8, 25, 'gumbel', gumbel=halving.Settings(gumbel_scale=0.0))
  policy = jax.jit(lambda params, rng: mctx.gumbel_muzero_policy(
      params, rng, mctx_root(params), recurrent_fn, 24, max_depth=8,
      gumbel_scale=0.0))
  for seed in range(3):
    params = make_worlds(seed)
    state, child_B = run(strategy, params, jax.random.key(seed))
    output = policy(params, jax.random.key(seed))
    check_equal(state.tree, output.search_tree)
    np.testing.assert_array_equal(child_B - 1, output.action)


def test_schedule():
  for num_considered in range(17):
    for num_simulations in range(1, 60):
      np.testing.assert_array_equal(
          halving.schedule(num_considered, num_simulations),
          seq_halving.get_sequence_of_considered_visits(
              num_considered, num_simulations))
