# SPDX-License-Identifier: Apache-2.0
"""Monte-Carlo tree search; Appendix D of arXiv 2501.04682, and its relatives.

A simulation goes down from the root to a node without children, or with too few
(see `widening`), expands it, and adds a value to the mean Q of every node on
the path. The first one expands the root. A simulation that ends at a terminal
node (its value is the reward), at max_depth, at a node whose children are all
invalid, or at one for which the tree has no room, expands nothing.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.search import base
from meta_cot.search import branching as branching_lib
from meta_cot.search import engine
from meta_cot.search import halving
from meta_cot.search import ranking
from meta_cot.search import selection
from meta_cot.search import subtree
from meta_cot.search import tree as tree_lib
from meta_cot.search import widening as widening_lib
from meta_cot.types import PRNGKey

RULES = {
    'uct': selection.uct,
    'uct_paper': selection.uct_paper,
    'puct': selection.puct,
    'gumbel': None,  # the root has a rule of its own: see `halving`
}
BACKUPS = ('leaf', 'max_child', 'mean_child')


@struct.dataclass
class _Simulations:
  """Simulations of one step; those that expand a leaf are pending."""

  real: selection.Statistics  # [B, N]
  # With the pending ones as losses; None where one leaf is expanded per step.
  virtual: selection.Statistics | None
  leaves: jax.Array  # [B, K] int32
  num_tries: jax.Array  # [B] int32, up to K
  num_pending: jax.Array  # [B] int32
  num_over: jax.Array  # [B] int32


@dataclasses.dataclass(frozen=True)
class Mcts(engine.Strategy):
  """The rule of `mcts`.

  The solution is the terminal node with the highest reward, then value, then
  the one created first; with `stops_at_goal` the step that makes a goal is the
  last. `best_child` gives the step to commit to. Equal states
  are merged without a look at costs, of which the rules know nothing: a state
  is there again where a shorter way to it was found, and both are searched.
  """

  num_simulations: int  # per problem; the first one expands the root
  # How a simulation goes down: by a formula of `selection`, where c is
  # `exploration` and the Q of a new child its value, or 'gumbel': sequential
  # halving at the root, completed Q below it (see `halving`).
  rule: str = 'uct'
  exploration: float = 1.0
  # What an expansion adds to the mean of every node of its path, the expanded
  # one included: its own value ('leaf', the paper's), or the highest
  # ('max_child') or the mean ('mean_child') of its new children's values;
  # without a valid child its own.
  backup_value: str = 'leaf'
  # Leaves expanded together, chosen one after another, each a loss (a visit
  # with value 0) to those after it; a choice that falls on a leaf of the same
  # step is dropped, and not counted. What expands nothing is over at once.
  num_leaves: int = 1
  capacity: int | None = None  # expansions with room; None: num_simulations
  # A simulation ends at a node of n visits with fewer than `widening_scale` *
  # n**widening children, which is expanded again; None: it goes on below it.
  widening: float | None = None
  widening_scale: float = 1.0
  gumbel: halving.Settings = halving.DEFAULTS

  def __post_init__(self):
    super().__post_init__()
    base.check_positive(
        num_simulations=self.num_simulations, capacity=self.capacity)
    base.check_choice('rule', self.rule, RULES)
    base.check_choice('backup', self.backup_value, BACKUPS)
    if not 0.0 <= self.exploration < float('inf'):
      raise ValueError(
          f'exploration: got {self.exploration}; must be finite, at least 0.')
    widening_lib.check(self.widening, self.widening_scale)
    if self.widening is not None and self.rule == 'gumbel':
      raise ValueError(
          f"widening: got {self.widening} with rule 'gumbel'; must be None, as "
          'sequential halving plans for all children of the root.')

  @property
  def max_steps(self) -> int:
    return self.num_simulations

  @property
  def num_nodes(self) -> int:
    room, level, num_inner = self.capacity or self.num_simulations, 1, 0
    for depth in range(self.max_depth):
      num_inner += level
      level *= branching_lib.at(self.branching, depth)
      if num_inner >= room:
        break
    if self.widening is not None:
      return 1 + self.widest * room
    # A slice of A slots begins at every family.
    return 1 + self.widest + branching_lib.most_children(
        self.branching, self.max_depth, min(room, num_inner) - 1)

  def start(self, tree: tree_lib.SearchTree) -> subtree.Progress:
    return subtree.begin(tree, self.widest)

  def select(self, state: engine.State) -> tuple[engine.State, jax.Array]:
    real = selection.Statistics(
        state.tree.visit_counts, state.tree.q_values)
    none_B = jnp.zeros_like(state.num_steps)
    simulations = _Simulations(
        real=real, virtual=real if self.num_leaves > 1 else None,
        leaves=jnp.full(
            (len(none_B), self.num_leaves), tree_lib.NONE, jnp.int32),
        num_tries=none_B, num_pending=none_B,
        num_over=state.extra.num_simulations)
    # Embeddings are large and not needed to choose.
    tree = state.tree.replace(embeddings=None)
    noise_BxA, num_children_BxN = self._noise(state), None
    if self.widening is not None:
      num_children_BxN = widening_lib.num_children(tree)
    simulations = jax.lax.while_loop(
        lambda s: jnp.any(self._wants(state, s)),
        lambda s: self._simulate(state, tree, num_children_BxN, noise_BxA, s),
        simulations)
    state = state.replace(
        tree=state.tree.replace(
            visit_counts=simulations.real.visits,
            q_values=simulations.real.q_values),
        extra=state.extra.replace(num_simulations=simulations.num_over),
        is_done=state.is_done | (simulations.num_pending == 0))
    return state, simulations.leaves

  def backup(self, state: engine.State, leaves_BxK: jax.Array,
             children: tree_lib.Children) -> engine.State:
    tree, visits_BxN = state.tree, state.tree.visit_counts
    if self.rule in ('uct', 'uct_paper'):  # new children have one visit
      flat = lambda x: x.reshape(len(x), -1)
      visits_BxN = tree_lib.put(
          visits_BxN, flat(children.nodes), flat(children.is_valid))
    statistics = selection.Statistics(visits_BxN, tree.q_values)
    values_BxK = self._values(tree, leaves_BxK, children)
    paths_BxKxD = tree_lib.paths(tree, leaves_BxK, self.max_depth)
    is_leaf_BxK = leaves_BxK != tree_lib.NONE
    depths_BxK = jnp.where(
        is_leaf_BxK, tree_lib.at(tree.depths, leaves_BxK), -1)
    statistics = jax.lax.fori_loop(
        0, self.num_leaves, lambda k, s: jax.vmap(selection.back_up)(
            s, paths_BxKxD[:, k], depths_BxK[:, k], values_BxK[:, k]),
        statistics)
    tree = tree.replace(
        visit_counts=statistics.visits, q_values=statistics.q_values)
    num_over_B = state.extra.num_simulations + jnp.sum(
        is_leaf_BxK, axis=1, dtype=jnp.int32)
    solution_B = _better(tree, state.solution, children)
    is_done_B = state.is_done | (num_over_B >= self.num_simulations)
    if self.stops_at_goal:
      is_done_B |= (solution_B != tree_lib.NONE) & (
          tree_lib.at(tree.rewards, solution_B) > self.goal_above)
    return state.replace(
        tree=tree, extra=state.extra.replace(num_simulations=num_over_B),
        is_done=is_done_B, solution=solution_B)

  def recommended(self, state: engine.State) -> jax.Array:
    """The child of the root to commit to, [B] int32; NONE without children.

    The one of `best_child`; with `rule='gumbel'` the one with the highest
    noise + log-prob + completed Q of the most visited, which is the step whose
    expected value no other policy of the same log-probs exceeds.
    """
    if self.rule != 'gumbel':
      return best_child(state.tree)

    def one(tree, noise_A):
      statistics = selection.Statistics(tree.visit_counts, tree.q_values)
      choice, first = selection.children_of(
          tree, statistics, jnp.zeros((), jnp.int32), self.widest)
      scores_A = halving.final_scores(choice, noise_A, self.gumbel)
      best = selection.best_of(choice, scores_A)
      is_any = tree.is_expanded[0] & jnp.any(choice.is_valid)
      return jnp.where(is_any, first + best, tree_lib.NONE)

    return jax.vmap(one)(
        state.tree.replace(embeddings=None), self._noise(state))

  def _noise(self, state) -> jax.Array | None:
    """Of the problems, not of their rows: [B, A]; None where it is not used."""
    if self.rule != 'gumbel':
      return None
    keys_B = jax.random.wrap_key_data(state.seeds, impl='threefry2x32')
    return jax.vmap(
        lambda key: halving.noise(key, self.widest, self.gumbel))(keys_B)

  def _wants(self, state, s: _Simulations) -> jax.Array:
    """Whether the problem has another simulation to do now, [B] bool."""
    return ~state.is_done & (s.num_tries < self.num_leaves) & (
        s.num_over + s.num_pending < self.num_simulations)

  def _simulate(
      self, state, tree, num_children_BxN, noise_BxA, s: _Simulations
  ) -> _Simulations:
    """One more simulation of the problems that want one."""
    is_wanted_B = self._wants(state, s)
    seen = s.real if s.virtual is None else s.virtual
    pending_BxK = jnp.where(
        s.leaves == tree_lib.NONE, 0, branching_lib.of_depths(
            self.branching, tree_lib.at(tree.depths, s.leaves)))
    num_taken_B = tree.num_nodes + jnp.sum(pending_BxK, axis=1)
    has_room_B = num_taken_B + self.widest <= tree.shape[1]
    if self.widening is not None:
      tree = self._widened(tree, num_children_BxN, seen, s, has_room_B)
    node_B, path_BxD = jax.vmap(self._descend)(
        tree, seen, state.extra, noise_BxA)
    of_node = lambda array: tree_lib.gather(array, node_B)
    depth_B, is_terminal_B = of_node(tree.depths), of_node(tree.is_terminal)
    is_taken_B = jnp.any(s.leaves == node_B[:, None], axis=1)
    has_room_B |= is_taken_B
    is_try_B = is_wanted_B & has_room_B & ~is_terminal_B & (
        ~of_node(tree.is_expanded) & (depth_B < self.max_depth))
    is_over_B = is_wanted_B & ~is_try_B
    value_B = jnp.where(
        is_terminal_B, of_node(tree.rewards), of_node(tree.values))

    back_up = jax.vmap(selection.back_up)
    real = back_up(
        s.real, path_BxD, jnp.where(is_over_B, depth_B, -1), value_B)
    virtual = s.virtual
    if virtual is not None:
      virtual = back_up(
          virtual, path_BxD, jnp.where(is_wanted_B, depth_B, -1),
          jnp.where(is_over_B, value_B, 0.0))
    # A leaf of this step that is met again is a lost try: it can be expanded
    # only once, and its virtual visits lead the next try elsewhere.
    is_new_B = is_try_B & ~is_taken_B
    at_B = jnp.where(is_new_B, s.num_tries, self.num_leaves)
    return _Simulations(
        real=real, virtual=virtual,
        leaves=tree_lib.put(s.leaves, at_B, node_B),
        num_tries=s.num_tries + is_try_B,
        num_pending=s.num_pending + is_new_B, num_over=s.num_over + is_over_B)

  def _widened(self, tree, num_children_BxN, seen, s, has_room_B):
    """The tree in which nodes that are to be expanded again were never."""
    num_slots = tree.shape[1]
    leaves_BxK = jnp.where(s.leaves == tree_lib.NONE, num_slots, s.leaves)
    is_leaf_BxN = tree_lib.put(
        jnp.zeros(tree.shape, bool), leaves_BxK, s.leaves != tree_lib.NONE)
    is_narrow_BxN = widening_lib.is_narrow(
        num_children_BxN, seen.visits, self.widening, self.widening_scale)
    return tree.replace(is_expanded=tree.is_expanded & ~(
        is_narrow_BxN & ~is_leaf_BxN & has_room_B[:, None]))

  def _descend(self, tree, statistics, progress, noise_A):
    """The node where a simulation of one problem ends, and the path to it."""

    def scores(choice: selection.Choice) -> jax.Array:
      if self.rule != 'gumbel':
        return RULES[self.rule](choice, self.exploration)
      return jnp.where(
          choice.node == 0,
          halving.root_scores(
              choice, progress, noise_A, num_simulations=self.num_simulations,
              settings=self.gumbel),
          halving.inner_scores(choice, self.gumbel))

    return selection.descend(
        tree, statistics, scores, max_depth=self.max_depth,
        branching=self.widest if self.widening is None else None)

  def _values(self, tree, leaves_BxK, children) -> jax.Array:
    """What the expansions back up, [B, K] float32."""
    own_BxK = tree_lib.at(tree.values, leaves_BxK)
    if self.backup_value == 'leaf':
      return own_BxK
    last = tree.shape[1] - 1
    values_BxKxA = tree_lib.gather(
        tree.values, jnp.minimum(children.nodes, last))
    if self.backup_value == 'max_child':
      found_BxK = jnp.max(
          values_BxKxA, axis=2, where=children.is_valid, initial=-jnp.inf)
    else:
      num_BxK = jnp.sum(children.is_valid, axis=2, dtype=jnp.int32)
      found_BxK = jnp.sum(values_BxKxA, axis=2, where=children.is_valid)
      found_BxK /= jnp.maximum(num_BxK, 1).astype(jnp.float32)
    return jnp.where(jnp.any(children.is_valid, axis=2), found_BxK, own_BxK)


def mcts(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn, *,
    backup: str = 'leaf', **settings: Any,
) -> engine.SearchOutput:
  """Searches by simulations: Monte-Carlo tree search.

  Takes the arguments of `engine.run`, with a step function whose values lie in
  [0, 1], and the fields of `Mcts`, of which `backup` is `backup_value`; raises
  a ValueError where these allow no search or a shape is wrong.
  """
  strategy = Mcts(backup_value=backup, **settings)
  return engine.run(strategy, params, rng, root, step_fn)


def best_child(tree: tree_lib.SearchTree) -> jax.Array:
  """The child of the root with most visits, then Q, then the first.

  Returns:
    [B] int32; NONE without children.
  """
  is_child_BxN = tree.is_valid & (tree.parents == 0)
  return ranking.best(
      is_child_BxN, tree.visit_counts.astype(jnp.float32), tree.q_values)


def _better(tree, solution_B, children: tree_lib.Children) -> jax.Array:
  """The best terminal node, given the best one before the last step, [B]."""
  last = tree.shape[1] - 1
  # The solution is older than the children, and so comes before equal ones.
  nodes_BxM = jnp.concatenate(
      [solution_B[:, None], children.nodes.reshape(len(solution_B), -1)], 1)
  nodes_BxM = jnp.where(nodes_BxM > last, tree_lib.NONE, nodes_BxM)
  of = lambda array: tree_lib.at(array, nodes_BxM)
  is_terminal_BxM = of(tree.is_terminal & tree.is_valid) & (
      nodes_BxM != tree_lib.NONE)
  best_B = ranking.best(is_terminal_BxM, of(tree.rewards), of(tree.values))
  best_node_B = jnp.take_along_axis(
      nodes_BxM, jnp.maximum(best_B, 0)[:, None], axis=1)[:, 0]
  return jnp.where(best_B == tree_lib.NONE, tree_lib.NONE, best_node_B)
