# SPDX-License-Identifier: Apache-2.0
"""Monte-Carlo tree search once more, with objects and recursion, in NumPy.

Means are float32 as in the library, scores are float64. Where two children
with different histories score almost the same, rounding decides, and NearTie is
raised.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from meta_cot import search

A, NUM_STATES = 3, 40  # children of a state; states of a problem


def worlds(seed, num_problems=32):
  """Random graphs of states; searching them gives trees with many ties."""
  rng = np.random.default_rng(seed)
  shape = (num_problems, NUM_STATES)
  share = rng.choice([0.0, 0.1, 0.3], num_problems)[:, None]
  grid = rng.choice([1, 2, 4, 1000], num_problems)[:, None]
  log_probs = rng.choice([-0.3, -1.17, -2.9], (*shape, A))
  return {
      'children': rng.integers(0, NUM_STATES, (*shape, A)).astype(np.int32),
      'value': (np.floor(rng.random(shape) * (grid + 1)) / grid).astype(
          np.float32),
      'reward': rng.integers(0, 2, shape).astype(np.float32),
      'is_terminal': rng.random(shape) < share,
      'is_valid': rng.random((*shape, A)) < 1 - share[:, :, None] / 2,
      'log_prob': log_probs.astype(np.float32),
      'cost': rng.integers(0, 3, (*shape, A)).astype(np.float32)}


def step_fn(params, rng, path):
  """The children of a state; an embedding is (problem, state)."""
  del rng
  at = jnp.arange(path.length.shape[0]), jnp.maximum(path.length - 1, 0)
  problem_R, state_R = (x[at] for x in path.embeddings)
  child_RxA = jnp.asarray(params['children'])[problem_R, state_R]
  of_child = lambda name: jnp.asarray(params[name])[
      problem_R[:, None], child_RxA]
  return search.Expansion(
      embedding=(jnp.repeat(problem_R[:, None], A, axis=1), child_RxA),
      log_prob=jnp.asarray(params['log_prob'])[problem_R, state_R],
      value=of_child('value'), reward=of_child('reward'),
      is_terminal=of_child('is_terminal'),
      is_valid=jnp.asarray(params['is_valid'])[problem_R, state_R],
      num_tokens=jnp.full_like(child_RxA, 2))


def step_fn_with_keys(params, rng, path):
  """The same with the states as keys; without costs."""
  expansion = step_fn(params, rng, path)
  return expansion.replace(state_key=jnp.stack(
      [expansion.embedding[1].astype(jnp.uint32)] * 2, -1))


def step_fn_with_costs(params, rng, path):
  """The same with keys and costs."""
  at = jnp.arange(path.length.shape[0]), jnp.maximum(path.length - 1, 0)
  problem_R, state_R = (x[at] for x in path.embeddings)
  return step_fn_with_keys(params, rng, path).replace(
      cost=jnp.asarray(params['cost'])[problem_R, state_R])


def roots(world, which=None):
  """The roots of the problems `which` of a world; all by default."""
  which = np.arange(len(world['value'])) if which is None else which
  problem_B = jnp.asarray(which, jnp.int32)
  return search.Root(
      embedding=(problem_B, jnp.zeros_like(problem_B)),
      value=jnp.asarray(world['value'])[problem_B, 0],
      is_terminal=jnp.zeros(problem_B.shape, bool), problem_id=problem_B,
      state_key=jnp.zeros((*problem_B.shape, 2), jnp.uint32))


class NearTie(Exception):
  """Rounding decides."""


@dataclasses.dataclass(eq=False)
class Node:
  index: int
  state: int
  value: float
  log_prob: float = 0.0
  is_sum: bool = False  # of the log-probs of several
  cost: float = 0.0  # from the root
  reward: float = 0.0
  is_terminal: bool = False
  depth: int = 0
  parent: 'Node | None' = None
  branch: int = 0
  visits: int = 0
  q: np.float32 = np.float32(0)
  children: list['Node'] | None = None  # the valid ones
  order: int = -1
  first: int = -1  # index of the first child, valid or not

  def path(self) -> list['Node']:
    return [*(self.parent.path() if self.parent else []), self]


@dataclasses.dataclass
class Settings:
  num_simulations: int
  max_depth: int
  rule: str = 'uct'
  exploration: float = 1.0
  backup: str = 'leaf'
  num_leaves: int = 1
  capacity: int | None = None
  max_considered: int = 16
  value_scale: float = 0.1
  max_visit_init: float = 50.0
  merges_states: bool = False
  has_costs: bool = False
  widths: tuple[int, ...] = (A,)  # children by depth, the last holds below


def visit(seen, node, value):
  visits, q = seen[node]
  step = (np.float32(value) - q) / np.float32(visits + 1)
  seen[node] = visits + 1, np.float32(q + step)


class Search:
  """Of problem b of a world."""

  def __init__(self, world, b, settings: Settings, noise=None):
    self.world = {name: array[b] for name, array in world.items()}
    self.s, self.noise = settings, noise
    value = float(self.world['value'][0])
    self.root = Node(0, 0, value, q=np.float32(value))
    self.num_nodes, self.num_expansions = 1, 0
    self.num_over, self.leaves = 0, []  # of a step
    self.base = {}  # visits of the root's children before these simulations
    self.num_planned = settings.num_simulations - 1

  def nodes(self, node=None) -> list[Node]:
    node = node or self.root
    return [node, *(n for c in node.children or [] for n in self.nodes(c))]

  def run(self) -> 'Search':
    while self.num_over < self.s.num_simulations:
      self.step()
    return self

  def step(self):
    events, tries = [], 0
    leaves = self.leaves = []
    while tries < self.s.num_leaves and (
        self.num_over + len(leaves) < self.s.num_simulations):
      seen = {n: (n.visits, n.q) for n in self.nodes()}
      for node in events:
        for above in node.path():
          visit(seen, above, 0.0)
      node = self.descend(self.root, seen)
      if self.is_open(node, seen):
        tries += 1
        events.append(node)
        if node not in leaves:
          leaves.append(node)
      else:
        self.back_up(node, node.reward if node.is_terminal else node.value)
    self.expand(leaves)
    for leaf in leaves:
      self.back_up(leaf, self.value_of(leaf))

  def is_open(self, node, seen):
    """Whether a simulation that ends at the node expands it."""
    del seen
    is_leaf = not node.is_terminal and node.children is None
    return is_leaf and node.depth < self.s.max_depth and (
        node in self.leaves or self.has_room())

  def has_room(self):
    num = self.num_expansions + len(self.leaves)
    return num < (self.s.capacity or math.inf)

  def reroot(self, node, noise=None) -> 'Search':
    """Goes on below a node; nothing else is left."""
    kept = sorted(
        (n for n in self.nodes(node) if n.children is not None),
        key=lambda n: n.first)
    for rank, inner in enumerate(sorted(kept, key=lambda n: n.order)):
      inner.order = rank
    for rank, inner in enumerate(kept):
      inner.first = 1 + rank * A
      for child in inner.children:
        child.index = inner.first + child.branch
    for below in self.nodes(node)[1:]:
      below.depth -= node.depth
    node.index, node.depth, node.parent = 0, 0, None
    self.root, self.noise = node, noise
    self.num_over, self.num_expansions = 0, len(kept)
    self.num_nodes = 1 + A * len(kept)
    self.base = {c: c.visits for c in node.children or []}
    self.num_planned = self.s.num_simulations - (node.children is None)
    return self

  def back_up(self, node, value):
    self.num_over += 1
    stats = {n: (n.visits, n.q) for n in node.path()}
    for above in stats:
      visit(stats, above, value)
      above.visits, above.q = stats[above]

  def value_of(self, leaf):
    values = [np.float32(c.value) for c in leaf.children]
    if self.s.backup == 'leaf' or not values:
      return leaf.value
    return max(values) if self.s.backup == 'max_child' else (
        np.float32(sum(values, np.float32(0)) / np.float32(len(values))))

  def expand(self, leaves):
    families = []
    for leaf in leaves:
      leaf.order, leaf.first = self.num_expansions, self.num_nodes
      families.append(self.family(leaf))
      self.num_nodes += self.width(leaf)
      self.num_expansions += 1
    if self.s.merges_states:
      known = self.nodes()  # before the new ones
      families = [self.merged(family) for family in families]
      everyone = [child for family in families for child in family]
      kept = [
          child for child in self.merged(everyone, adds=False)
          if not any(node.state == child.state and node.cost <= child.cost
                     for node in known)]
      families = [[c for c in family if c in kept] for family in families]
    for leaf, family in zip(leaves, families):
      leaf.children = family

  def width(self, leaf):
    return self.s.widths[min(leaf.depth, len(self.s.widths) - 1)]

  def family(self, leaf):
    """The valid children."""
    return [self.child(leaf, k) for k in range(self.width(leaf))
            if self.world['is_valid'][leaf.state, k]]

  def child(self, leaf, k):
    w = self.world
    state = int(w['children'][leaf.state, k])
    value = float(w['value'][state])
    cost = self.s.has_costs * float(w['cost'][leaf.state, k])
    return Node(
        leaf.first + k, state, value, float(w['log_prob'][leaf.state, k]),
        cost=leaf.cost + cost, reward=float(w['reward'][state]),
        is_terminal=bool(w['is_terminal'][state]), depth=leaf.depth + 1,
        parent=leaf, branch=k, visits=int(self.s.rule.startswith('uct')),
        q=np.float32(value))

  @staticmethod
  def merged(children, adds=True):
    """Of those with the same state the cheapest, the first of equal ones."""
    groups = {}
    for child in children:
      groups.setdefault(child.state, []).append(child)
    kept = []
    for group in groups.values():
      kept.append(min(group, key=lambda c: c.cost))
      if adds and len(group) > 1:
        kept[-1].is_sum, kept[-1].log_prob = True, math.log(
            math.fsum(math.exp(c.log_prob) for c in group))
    return [child for child in children if child in kept]

  def descend(self, node, seen):
    if not node.children:
      return node
    scores = getattr(self, self.s.rule)(node, seen)
    best = max(scores)
    chosen = node.children[scores.index(best)]
    for child, score in zip(node.children, scores):
      is_same = self.seen_of(child, seen) == self.seen_of(chosen, seen)
      if best - score < 1e-4 and (score != best or not is_same):
        raise NearTie
    return self.descend(chosen, seen)

  def seen_of(self, child, seen):
    """What the score of a child depends on."""
    visits, q = seen[child]
    if self.s.rule.startswith('uct'):
      return visits, q
    if child.is_sum:  # rounded
      return child.index
    if self.s.rule == 'gumbel':
      is_root = child.parent is self.root
      noise = self.noise[child.branch] if is_root else 0
      return visits, q if visits else None, child.log_prob, noise
    return visits, q, child.log_prob

  def uct(self, node, seen):
    total = sum(seen[c][0] for c in node.children)
    return [float(seen[c][1]) + self.s.exploration * math.sqrt(
        math.log(total) / seen[c][0]) for c in node.children]

  def uct_paper(self, node, seen):
    total = sum(seen[c][0] for c in node.children)
    return [float(seen[c][1]) + self.s.exploration * math.sqrt(
        math.log(seen[c][0]) / total) for c in node.children]

  def puct(self, node, seen):
    return [
        float(seen[c][1]) + self.s.exploration * p
        * math.sqrt(seen[node][0]) / (1 + seen[c][0])
        for c, p in zip(node.children, softmax(
            [c.log_prob for c in node.children]))]

  def gumbel(self, node, seen):
    completed = self.completed(node, seen)
    logits = [c.log_prob for c in node.children]
    if node is not self.root:
      total = sum(seen[c][0] for c in node.children)
      wish = softmax([a + b for a, b in zip(logits, completed)])
      return [p - seen[c][0] / (1 + total)
              for c, p in zip(node.children, wish)]
    visits = [seen[c][0] - self.base.get(c, 0) for c in node.children]
    turns = halving(
        min(self.s.max_considered, len(node.children)), self.num_planned)
    turn = turns[min(sum(visits), len(turns) - 1)]
    if turn not in visits:
      turn = None
    return [
        self.noise[c.branch] + logit - max(logits) + q
        if turn in (None, v) else -math.inf
        for c, logit, q, v in zip(node.children, logits, completed, visits)]

  def completed(self, node, seen):
    """Completed Q, rescaled."""
    priors = softmax([c.log_prob for c in node.children])
    visited = [
        (p, *seen[c]) for c, p in zip(node.children, priors) if seen[c][0]]
    total = sum(n for _, n, _ in visited)
    mixed = node.value
    if visited:
      mean = sum(p * float(q) for p, _, q in visited) / sum(
          p for p, _, _ in visited)
      mixed = (node.value + total * mean) / (1 + total)
    q = [float(seen[c][1]) if seen[c][0] else mixed for c in node.children]
    most = max(seen[c][0] for c in node.children)
    scale = self.s.value_scale * (self.s.max_visit_init + most)
    spread = max(q) - min(q)
    if 1e-6 < spread < 1e-4:
      raise NearTie
    return [scale * (x - min(q)) / spread if spread > 1e-5 else 0.0 for x in q]

  def solution(self) -> int:
    """Index of the best terminal node; -1 without one."""
    found = [n for n in self.nodes() if n.is_terminal]
    return max(
        found, key=lambda n: (n.reward, n.value, -n.index),
        default=Node(-1, 0, 0.0)).index

  def best_child(self) -> int:
    """Index of the most visited child of the root; -1 without one."""
    if not self.root.children:
      return -1
    return max(
        self.root.children, key=lambda n: (n.visits, n.q, -n.index)).index


def softmax(logits):
  weights = [math.exp(x - max(logits)) for x in logits]
  return [w / sum(weights) for w in weights]


def halving(num_considered, num_simulations):
  """By hand: children take turns, then the later half leaves."""
  if num_simulations == 0:
    return [0]
  visits, turns = dict.fromkeys(range(max(num_considered, 1)), 0), []
  rounds = max(1, math.ceil(math.log2(max(num_considered, 2))))
  while len(turns) < num_simulations:
    times = max(1, num_simulations // (rounds * len(visits)))
    for _ in range(times):
      for child in visits:
        turns.append(visits[child])
        visits[child] += 1
    keep = max(min(2, num_considered), len(visits) // 2, 1)
    visits = {c: visits[c] for c in list(visits)[:keep]}
  return turns[:num_simulations]
