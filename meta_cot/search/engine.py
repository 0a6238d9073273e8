# SPDX-License-Identifier: Apache-2.0
"""The loop of every search: select leaves, expand them, back up.

A strategy says which leaves and what to do with their children; all problems
of a batch advance together, finished ones are masked, and the loop ends when
all are done.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.search import base
from meta_cot.search import branching as branching_lib
from meta_cot.search import merging
from meta_cot.search import tree as tree_lib
from meta_cot.search import widening as widening_lib
from meta_cot.types import PRNGKey


@struct.dataclass
class State:
  """Searches on their way; every array has the problems in front."""

  tree: tree_lib.SearchTree
  is_done: jax.Array  # [B] bool
  solution: jax.Array  # [B] int32, best terminal node so far; NONE
  problem_id: jax.Array  # [B] int32
  # [B, 2] uint32, words of a threefry key for the strategy's own draws; they
  # follow from the search's rng and the problem's id. Zeros before `advance`.
  seeds: jax.Array
  num_steps: jax.Array  # [B] int32, steps while not done
  # [B, 2] int32, of the last `advance`: tokens that a problem's rows drew, and
  # passes over models that they took part in, waiting or done.
  work: jax.Array
  extra: Any  # the strategy's own arrays, [B, ...]


@struct.dataclass
class SearchOutput:
  """What a search found."""

  tree: tree_lib.SearchTree
  solution_index: jax.Array  # [B] int32, best terminal node; NONE = -1
  solution_value: jax.Array  # [B] float32, its reward; 0 without one
  is_done: jax.Array  # [B] bool; False: cut off by `num_steps`

  def path(self, index: jax.Array) -> jax.Array:
    """Nodes from the root to node `index` [B] of every tree, [B, D] int32.

    D is the largest depth of a node + 1: so not for jitted code. NONE behind
    the node, and where the index is NONE.
    """
    index = jnp.asarray(index)
    num_path = int(jnp.max(self.tree.depths)) + 1
    nodes_BxD = tree_lib.paths(self.tree, index[:, None], num_path)[:, 0]
    depths_B = tree_lib.at(self.tree.depths, index)
    is_on_BxD = (jnp.arange(num_path)[None] <= depths_B[:, None]) & (
        index[:, None] != tree_lib.NONE)
    return jnp.where(is_on_BxD, nodes_BxD, tree_lib.NONE)


@dataclasses.dataclass(frozen=True)
class Strategy(abc.ABC):
  """A search rule. Settings are static; all methods are pure.

  Raises:
    ValueError: settings that allow no search.
  """

  num_leaves = 1  # K, leaves expanded per step and problem
  widening = None  # alpha; nodes are expanded again where it is a number
  repeats = False  # a leaf may be expanded several times in one step
  num_nodes: ClassVar[int]  # N, slots of a tree
  max_steps: ClassVar[int]  # no problem needs more steps

  branching: branching_lib.Branching  # children of an expansion; A: the widest
  max_depth: int  # levels; nodes there are not expanded
  _: dataclasses.KW_ONLY
  max_tokens: int | None = None  # no more steps once a problem spent as many
  merge_steps: bool = True  # equal sibling steps become one
  merge_states: bool = False  # equal states of a tree become one
  goal_above: float = 0.0  # a goal is a finished node with a higher reward
  stops_at_goal: bool = False  # no more steps once a tree has one

  def __post_init__(self):
    branching_lib.check(self.branching)
    base.check_positive(
        max_depth=self.max_depth, num_leaves=self.num_leaves,
        max_tokens=self.max_tokens)

  @property
  def widest(self) -> int:
    """A, children of one row of the step function."""
    return branching_lib.widest(self.branching)

  def start(self, tree: tree_lib.SearchTree) -> Any:
    """The strategy's own arrays, [B, ...]; None: the tree says it all."""
    del tree

  @abc.abstractmethod
  def select(self, state: State) -> tuple[State, jax.Array]:
    """Leaves to expand now, [B, K]: distinct, or NONE.

    They have no children, unless the strategy has `widening`; and they may be
    equal where it has `repeats`.

    A problem that has none left must be marked as done; `backup` runs for it
    in the same step.
    """

  @abc.abstractmethod
  def backup(self, state: State, leaves_BxK: jax.Array,
             children: tree_lib.Children) -> State:
    """Takes in the children; marks problems that are done, sets solutions."""


def start(strategy: Strategy, root: base.Root) -> State:
  """Searches that have not begun; a ValueError where shapes are wrong."""
  base.check_root(root)
  batch_size = root.value.shape[0]
  tree = tree_lib.create(
      root, strategy.num_nodes, has_state_keys=strategy.merge_states,
      has_step_keys=strategy.merge_steps and strategy.widening is not None)
  problem_id = root.problem_id
  if problem_id is None:
    problem_id = jnp.arange(batch_size, dtype=jnp.int32)
  is_terminal = tree.is_terminal[:, 0]
  return State(
      tree=tree, is_done=is_terminal,
      solution=jnp.where(is_terminal, 0, tree_lib.NONE).astype(jnp.int32),
      problem_id=problem_id.astype(jnp.int32),
      seeds=jnp.zeros((batch_size, 2), jnp.uint32),
      num_steps=jnp.zeros(batch_size, jnp.int32),
      work=jnp.zeros((batch_size, 2), jnp.int32), extra=strategy.start(tree))


def advance(
    strategy: Strategy, params: Any, rng: PRNGKey, state: State,
    step_fn: base.StepFn, *, num_steps: int,
) -> State:
  """At most `num_steps` more steps of every search.

  Pure; jit it with `strategy`, `step_fn` and `num_steps` static.
  """

  def body(carry):
    step, state = carry
    return step + 1, _step(strategy, params, rng, state, step_fn)

  state = state.replace(
      seeds=_seeds(rng, state.problem_id), work=jnp.zeros_like(state.work))
  return jax.lax.while_loop(
      lambda carry: (carry[0] < num_steps) & ~jnp.all(carry[1].is_done),
      body, (jnp.zeros((), jnp.int32), state))[1]


def output(state: State) -> SearchOutput:
  """What the searches have found so far."""
  reward_B = tree_lib.at(state.tree.rewards, state.solution)
  return SearchOutput(
      tree=state.tree, solution_index=state.solution,
      solution_value=jnp.where(
          state.solution == tree_lib.NONE, 0.0, reward_B),
      is_done=state.is_done)


@functools.partial(jax.jit, static_argnames=('strategy', 'step_fn'))
def run(
    strategy: Strategy, params: Any, rng: PRNGKey, root: base.Root,
    step_fn: base.StepFn,
) -> SearchOutput:
  """A whole search, from the roots to the last problem that is done.

  Compiled; calls with the same strategy, step function and shapes share the
  program. `params` are for the step function, `rng` is consumed.

  Raises:
    ValueError: wrong shapes in the root, or in what the step function gives.
  """
  state = advance(
      strategy, params, rng, start(strategy, root), step_fn,
      num_steps=strategy.max_steps)
  return output(state)


def _step(strategy, params, rng, state: State, step_fn) -> State:
  before = state
  state, leaves_BxK = strategy.select(state)
  leaves_BxK = jnp.where(
      state.is_done[:, None], tree_lib.NONE, leaves_BxK)
  num_children_BxK = branching_lib.of_depths(
      strategy.branching, tree_lib.at(state.tree.depths, leaves_BxK))
  path = _path(strategy, rng, state, leaves_BxK, num_children_BxK)
  call_rng = jax.random.fold_in(rng, jnp.max(before.num_steps))
  expansion = step_fn(params, call_rng, path)
  base.check_expansion(
      expansion, state.tree.embeddings, leaves_BxK.size, strategy.widest)
  work_Bx2 = _work(expansion, len(leaves_BxK))
  is_child_RxA = jnp.arange(strategy.widest)[None] < path.num_children[:, None]
  expansion = expansion.replace(
      is_terminal=expansion.is_terminal.astype(bool),
      is_valid=expansion.is_valid.astype(bool) & is_child_RxA)
  expansion = merging.merge(
      state.tree, leaves_BxK, expansion, steps=strategy.merge_steps,
      states=strategy.merge_states)
  tree, children = tree_lib.insert(
      state.tree, leaves_BxK, expansion, num_children_BxK,
      tree_lib.ranks(leaves_BxK) if strategy.repeats else None)
  state = strategy.backup(state.replace(tree=tree), leaves_BxK, children)
  is_spent = jnp.zeros_like(state.is_done)
  if strategy.max_tokens is not None:
    is_spent = state.tree.num_tokens >= strategy.max_tokens
  num_steps = before.num_steps + ~before.is_done
  state = state.replace(
      is_done=state.is_done | is_spent | (num_steps >= strategy.max_steps),
      num_steps=num_steps)
  # A problem that was done before this step stays as it was. Its tree does so
  # by itself: no leaf of it was expanded. To compare it would cost more than
  # all the rest of a step on large trees.
  old, new = (s.replace(tree=None) for s in (before, state))
  return tree_lib.select_rows(before.is_done, old, new).replace(
      tree=state.tree, work=before.work + work_Bx2)


def _work(expansion: base.Expansion, num_problems: int) -> jax.Array:
  """As `State.work`, of one call of the step function."""
  if expansion.num_passes is None:
    return jnp.zeros((num_problems, 2), jnp.int32)
  return jnp.stack([
      jnp.sum(x_RxA.reshape(num_problems, -1), axis=1, dtype=jnp.int32)
      for x_RxA in (expansion.num_tokens, expansion.num_passes)], axis=1)


def _path(
    strategy, rng, state: State, leaves_BxK, num_children_BxK) -> base.Path:
  """The rows of one call of the step function."""
  nodes_BxKxD = tree_lib.paths(state.tree, leaves_BxK, strategy.max_depth)
  rows = nodes_BxKxD.shape[0] * nodes_BxKxD.shape[1]
  embeddings = jax.tree.map(
      lambda x: tree_lib.gather(x, nodes_BxKxD).reshape(
          rows, strategy.max_depth, *x.shape[2:]), state.tree.embeddings)
  depths_BxK = tree_lib.at(state.tree.depths, leaves_BxK)
  of_leaf = lambda x: jnp.where(leaves_BxK == tree_lib.NONE, 0, x).reshape(rows)
  keys_BxK = jax.vmap(_fold)(
      _fold(rng, state.problem_id), jnp.maximum(leaves_BxK, 0))
  if strategy.widening is not None:
    keys_BxK = widening_lib.keys(keys_BxK, tree_lib.at(
        widening_lib.num_children(state.tree), leaves_BxK))
  if strategy.repeats:
    keys_BxK = widening_lib.keys(keys_BxK, tree_lib.ranks(leaves_BxK))
  return base.Path(
      embeddings=embeddings, length=of_leaf(depths_BxK + 1),
      nodes=nodes_BxKxD.reshape(rows, -1),
      keys=keys_BxK.reshape(rows, *keys_BxK.shape[2:]),
      num_children=of_leaf(num_children_BxK))


def _fold(rng, numbers):
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, numbers)


def _seeds(rng, problem_id_B) -> jax.Array:
  """Words for the draws of a strategy itself, [B, 2]."""
  def words(key):
    # No leaf has this number.
    key = jax.random.fold_in(key, 2**32 - 1)
    return jax.random.bits(key, (2,), jnp.uint32)

  return jax.vmap(words)(_fold(rng, problem_id_B))
