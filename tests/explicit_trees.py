# SPDX-License-Identifier: Apache-2.0
"""Random trees written out in tables, as a step function and in plain Python.

Node i has the children i * A + 1, ..., i * A + A. Numbers are multiples of a
quarter, so that sums are exact, and few, so that there are many ties.
"""

import math

import jax.numpy as jnp
import numpy as np

from meta_cot import search

A, DEPTH = 3, 4  # children of a node; levels below the root
M = sum(A**d for d in range(DEPTH + 1))  # nodes of a tree


def draw(seed, num_trees, *, num_states=12, **shares):
  """Tables [trees, nodes]; each tree has its own shares of everything."""
  rng = np.random.default_rng(seed)
  shape = (num_trees, M)
  share = lambda low, high: rng.uniform(low, high, (num_trees, 1))
  levels = rng.integers(1, 6, (num_trees, 1))
  is_terminal = rng.random(shape) < shares.get('terminal', share(0, 0.4))
  is_valid = rng.random(shape) < shares.get('valid', share(0.3, 1.1))
  is_good = rng.random(shape) < shares.get('good', share(0, 0.6))
  reward = np.where(is_good, rng.integers(1, 4, shape) / 4,
                    rng.integers(-2, 1, shape) / 4)
  is_terminal[:, 0], is_valid[:, 0] = False, True
  return dict(
      value=(rng.integers(0, 9, shape) % levels / 4).astype(np.float32),
      reward=reward.astype(np.float32),
      log_prob=(-rng.integers(1, 6, shape) / 4).astype(np.float32),
      is_terminal=is_terminal, is_valid=is_valid,
      cost=rng.integers(0, 4, shape).astype(np.float32),
      num_tokens=rng.integers(1, 9, shape).astype(np.int32),
      step=rng.integers(0, 4, shape).astype(np.uint32),
      state=rng.integers(0, num_states, shape).astype(np.uint32))


def roots(tables, which=None, **fields):
  """The roots of the trees `which` of the tables; of all by default."""
  which = np.arange(len(tables['value'])) if which is None else which
  tree_B = jnp.asarray(which, jnp.int32)
  return search.Root(
      embedding={'tree': tree_B, 'node': jnp.zeros_like(tree_B)},
      value=jnp.asarray(tables['value'])[tree_B, 0],
      is_terminal=jnp.zeros(tree_B.shape, bool), **fields)


def step_fn(tables, rng, path):
  """The children that the tables say; without costs and keys."""
  del rng
  rows_R = jnp.arange(len(path.length))
  at = jnp.maximum(path.length - 1, 0)
  tree_Rx1 = path.embeddings['tree'][rows_R, at][:, None]
  leaf_R = path.embeddings['node'][rows_R, at]
  child_RxA = leaf_R[:, None] * A + 1 + jnp.arange(A)[None]
  of = lambda name: jnp.asarray(tables[name])[
      tree_Rx1, jnp.minimum(child_RxA, M - 1)]
  return search.Expansion(
      embedding={'tree': jnp.broadcast_to(tree_Rx1, child_RxA.shape),
                 'node': child_RxA},
      log_prob=of('log_prob'), value=of('value'), reward=of('reward'),
      is_terminal=of('is_terminal'), is_valid=of('is_valid'),
      num_tokens=of('num_tokens'))


def step_fn_with_keys(tables, rng, path):
  """The same with costs, and keys of steps and states; 7 is no state."""
  rows_R = jnp.arange(len(path.length))
  at = jnp.maximum(path.length - 1, 0)
  expansion = step_fn(tables, rng, path)
  tree_Rx1 = path.embeddings['tree'][rows_R, at][:, None]
  child_RxA = jnp.minimum(expansion.embedding['node'], M - 1)
  of = lambda name: jnp.asarray(tables[name])[tree_Rx1, child_RxA]
  state_RxA = jnp.where(of('state') == 7, jnp.uint32(2**32 - 1), of('state'))
  return expansion.replace(
      cost=of('cost'), step_key=jnp.stack([of('step')] * 2, -1),
      state_key=jnp.stack([state_RxA] * 2, -1))


class Tree:
  """One tree of the tables as a search sees it, node by node."""

  def __init__(self, tables, index, *, keys=False, steps=False, states=False,
               widths=(A,)):
    self.table = {name: table[index] for name, table in tables.items()}
    self.widths = widths  # children by depth, the last entry holds below
    self.keys, self.steps, self.states = keys, steps, states
    self.nodes = [dict(
        parent=-1, id=0, depth=0, value=float(self.table['value'][0]),
        reward=0.0, log_prob=0.0, cost=0.0, is_valid=True, is_terminal=False,
        step=None, state=None)]
    self.order = []  # what was expanded
    self.num_tokens = 0

  def _child(self, leaf, branch):
    parent, i = self.nodes[leaf], self.nodes[leaf]['id'] * A + 1 + branch
    of = lambda name: self.table[name][i].item()
    is_terminal = of('is_terminal') and of('is_valid')
    return dict(
        parent=leaf, id=i, depth=parent['depth'] + 1, value=of('value'),
        reward=of('reward') if is_terminal else 0.0, log_prob=of('log_prob'),
        cost=parent['cost'] + (of('cost') if self.keys else 0.0),
        is_valid=of('is_valid'), is_terminal=is_terminal, step=of('step'),
        state=None if of('state') == 7 else of('state'))

  def width(self, leaf):
    depth = self.nodes[leaf]['depth']
    return [*self.widths, *[self.widths[-1]] * depth][depth]

  def expand(self, *leaves):
    """Expands leaves together; gives the indices of valid new nodes."""
    families = [
        [self._child(leaf, a) for a in range(self.width(leaf))]
        for leaf in leaves]
    self.num_tokens += sum(
        int(self.table['num_tokens'][child['id']])
        for family in families for child in family)
    for family in families:
      if self.keys and self.steps:
        self._merge(family, 'step')
      if self.states:
        self._merge(family, 'state')
    if self.states:
      self._merge([c for family in families for c in family], 'state', False)
      for child in (c for family in families for c in family):
        if child['state'] is not None and any(
            node['is_valid'] and node['state'] == child['state']
            and node['cost'] <= child['cost'] for node in self.nodes):
          child['is_valid'] = False
    first = len(self.nodes)
    for family in families:
      self.nodes += family
    for child in (c for c in self.nodes[first:] if not c['is_valid']):
      child.update(reward=0.0, is_terminal=False)
    self.order += leaves
    return [i for i in range(first, len(self.nodes))
            if self.nodes[i]['is_valid']]

  @staticmethod
  def _merge(children, key, adds=True):
    groups = {}
    for child in children:
      if child['is_valid'] and child[key] is not None:
        groups.setdefault(child[key], []).append(child)
    for group in groups.values():
      cheapest = min(child['cost'] for child in group)
      kept = next(child for child in group if child['cost'] == cheapest)
      if adds:
        kept['log_prob'] = math.log(
            math.fsum(math.exp(child['log_prob']) for child in group))
      for child in group:
        child['is_valid'] = child is kept

  def best_terminal(self, weight=0.0):
    """Highest reward, then value (less the cost), then first; -1 = none."""
    ranked = [
        (-node['reward'], weight * node['cost'] - node['value'], i)
        for i, node in enumerate(self.nodes)
        if node['is_valid'] and node['is_terminal']]
    return min(ranked)[-1] if ranked else -1

  def has_goal(self):
    return any(node['is_valid'] and node['is_terminal'] and node['reward'] > 0
               for node in self.nodes)

  def is_open(self, i, max_depth):
    node = self.nodes[i]
    return (node['is_valid'] and not node['is_terminal']
            and node['depth'] < max_depth)


def check(output, b, tree, solution, has_tokens=True):
  """Fails unless problem b of a search has found this tree and solution."""
  num = len(tree.nodes)
  of = lambda name: np.asarray(getattr(output.tree, name))[b]
  field = lambda name: [node[name] for node in tree.nodes]
  assert of('num_nodes') == num
  assert of('num_expansions') == len(tree.order)
  by_order = sorted(
      (order, i) for i, order in enumerate(of('expansion_order'))
      if order >= 0)
  assert [i for _, i in by_order] == tree.order
  assert [order for order, _ in by_order] == list(range(len(tree.order)))
  for name, key in (
      ('parents', 'parent'), ('depths', 'depth'), ('values', 'value'),
      ('rewards', 'reward'), ('costs', 'cost'), ('is_valid', 'is_valid')):
    np.testing.assert_array_equal(of(name)[:num], field(key), err_msg=name)
  is_valid = np.array(field('is_valid'))
  np.testing.assert_allclose(
      of('log_probs')[:num][is_valid], np.array(field('log_prob'))[is_valid],
      rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(
      (of('is_terminal') & of('is_valid'))[:num],
      np.array(field('is_terminal')) & is_valid)
  np.testing.assert_array_equal(
      np.asarray(output.tree.embeddings['node'])[b, :num], field('id'))
  assert not of('is_valid')[num:].any() and not of('is_expanded')[num:].any()
  first, begin = {}, 1
  for i in tree.order:
    first[i], begin = begin, begin + tree.width(i)
  for i in range(num):
    assert of('is_expanded')[i] == (i in first)
    assert of('first_child')[i] == first.get(i, -1)
  assert int(output.solution_index[b]) == solution
  expected = tree.nodes[solution]['reward'] if solution >= 0 else 0.0
  assert float(output.solution_value[b]) == expected
  if has_tokens:
    assert of('num_tokens') == tree.num_tokens
