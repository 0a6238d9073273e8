# SPDX-License-Identifier: Apache-2.0
"""Symbolic searches over number puzzles, as Stream of Search runs them.

Every result is a non-negative integer, as the styles write them. With the
default options a `Strategy` visits the states of the original heuristic
searches in the original order (arXiv 2404.03683; method section 4.2.1); the
options take away what a small model cannot imitate.
"""

from collections.abc import Callable
import dataclasses
import heapq
import itertools
import random
from typing import ClassVar

from meta_cot.problem import Problem
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib

_MAX_BEAM_WIDTH = 5
_OPERATORS = '+-*/'
OPERANDS = ('listed', 'descending')  # see `Strategy.operands`

_State = tuple[int, ...]
_Heuristic = Callable[[_State], float]
_Child = tuple[str, _State]  # step and the state after it


@dataclasses.dataclass(frozen=True)
class Strategy:
  """One symbolic search.

  Raises:
    ValueError: a field is none of its allowed values; one line.
  """

  algorithm: str  # 'dfs' | 'bfs', best first, `beam_width` states a round
  heuristic: str  # 'sum', mean distance to target | 'mult', to its factors
  beam_width: int | None = None  # bfs: children kept of a state, 1..5
  threshold: bool = True  # dfs: prune children with heuristic > target
  max_value: int | None = None  # larger results are not considered
  # 'heuristic' | 'operator': the last operation is tried in the order + - * /,
  # without a look at its result (dfs only).
  leaf_order: str = 'heuristic'
  # 'listed': 'a+b' as the state lists them | 'descending': larger one first,
  # equal children once, and ties do not depend on how the state lists them.
  operands: str = 'listed'
  # dfs: so many first steps are searched at a time, each up to its first goal,
  # and the others after them only if none has found one. None: one by one.
  num_threads: int | None = None

  def __post_init__(self):
    for name, choices in (
        ('algorithm', ('dfs', 'bfs')),
        ('heuristic', ('sum', 'mult')),
        ('leaf_order', ('heuristic', 'operator')),
        ('operands', OPERANDS)):
      value = getattr(self, name)
      if value not in choices:
        raise ValueError(
            f'{name}: got {value!r}; must be one of {", ".join(choices)}.')
    is_dfs = self.algorithm == 'dfs'
    widths = (None,) if is_dfs else tuple(range(1, _MAX_BEAM_WIDTH + 1))
    if self.beam_width not in widths:
      raise ValueError(
          f'beam_width: got {self.beam_width!r}; must be one of '
          f'{", ".join(map(str, widths))} for {self.algorithm}.')
    if not is_dfs and self.leaf_order != 'heuristic':
      raise ValueError(
          f"leaf_order: got {self.leaf_order!r}; must be 'heuristic' for bfs.")
    if self.num_threads is not None and (
        self.num_threads < 1 or not is_dfs):
      raise ValueError(
          f'num_threads: got {self.num_threads!r}; must be None, or at least 1 '
          'and of dfs.')
    if self.max_value is not None and self.max_value < 1:
      raise ValueError(
          f'max_value: got {self.max_value!r}; must be None or at least 1.')

  @property
  def name(self) -> str:
    """'dfs_sum', 'bfs_mult_3', 'threads_4': other options do not show."""
    parts = (self.algorithm, self.heuristic, self.beam_width)
    if self.num_threads is not None:
      parts = ('threads', self.num_threads)
    return '_'.join(str(p) for p in parts if p is not None)


# Half the traces are depth first, half the heuristics are `sum`, and the beam
# widths are uniform.
STREAM_OF_SEARCH: dict[str, tuple[Strategy, float]] = {
    strategy.name: (strategy, weight)
    for strategy, weight in (
        *((Strategy('dfs', h), 0.25) for h in ('sum', 'mult')),
        *((Strategy('bfs', h, width), 0.05)
          for h in ('sum', 'mult')
          for width in range(1, _MAX_BEAM_WIDTH + 1)))
}

# For small models: no branch is chosen by looking at its result. Set
# `max_value` to the largest number of the vocabulary.
COMPACT = Strategy(
    'dfs', 'sum', threshold=False, leaf_order='operator',
    operands='descending')


# The search of `COMPACT`, with so many first steps at a time; four numbers have
# at most 24.
THREADS: dict[str, Strategy] = {
    strategy.name: strategy for strategy in (
        dataclasses.replace(COMPACT, num_threads=number)
        for number in (2, 4, 8, 24))}


@dataclasses.dataclass(frozen=True)
class Teacher:
  """The searches by name, see `tasks.base.Teacher`.

  'compact' is `COMPACT`; 'stream_of_search' draws one of the twelve by the
  seed, and 'threads' one of `THREADS`; the others are those by themselves.
  """

  max_value: int | None = None  # as in `Strategy`
  operands: str = 'listed'  # of the twelve, as in `Strategy`

  strategies: ClassVar[tuple[str, ...]] = (
      'compact', 'stream_of_search', *STREAM_OF_SEARCH, 'threads', *THREADS)

  def search(
      self, problem: Problem, strategy: str, seed: int
  ) -> record_lib.TraceRecord:
    """Searches with one of `strategies`; see the function of this name.

    Raises:
      ValueError: no such strategy, or one that the problem does not allow.
    """
    if strategy not in self.strategies:
      raise ValueError(
          f'strategy: got {strategy!r}; must be one of '
          f'{", ".join(self.strategies)}.')
    if strategy == 'threads':
      strategy = random.Random(f'threads-{seed}').choice([*THREADS])
    if strategy == 'compact':
      chosen = COMPACT
    elif strategy in THREADS:
      chosen = THREADS[strategy]
    else:
      if strategy == 'stream_of_search':
        chosen = sample_strategy(random.Random(f'strategy-{seed}'))
      else:
        chosen = STREAM_OF_SEARCH[strategy][0]
      chosen = dataclasses.replace(chosen, operands=self.operands)
    return search(
        problem, dataclasses.replace(chosen, max_value=self.max_value), seed)


def sample_strategy(rng: random.Random) -> Strategy:
  """Draws one of `STREAM_OF_SEARCH` by its weight."""
  strategies, weights = zip(*STREAM_OF_SEARCH.values())
  return rng.choices(strategies, weights)[0]


def search(
    problem: Problem, strategy: Strategy, seed: int
) -> record_lib.TraceRecord:
  """Searches until the target is made or the search space is used up.

  Args:
    problem: a number puzzle; `data` has its `numbers` and `target`.
    seed: of the order in which bfs explores a state's children; dfs is
      deterministic.

  Returns:
    The tree. Nodes are listed in the order of exploration; a state is the
    comma-joined numbers left, a step the operation, e.g. '9-3=6'. Single
    numbers are terminal. `order` is the order in which states were entered:
    bfs also enters wrong single numbers, dfs does not.

  Raises:
    ValueError: 'mult' needs a target of at least 2 (one with factors), and
      threads need three numbers.
  """
  target = problem.data['target']
  heuristic = _make_heuristic(strategy.heuristic, target)
  tree = _Tree(target)
  tree.add(-1, '', tuple(problem.data['numbers']))
  is_dfs = strategy.algorithm == 'dfs'
  if strategy.num_threads is not None:
    _in_threads(tree, strategy, heuristic)
  elif is_dfs:
    _depth_first(tree, 0, strategy, heuristic)
  else:
    _best_first(tree, strategy, heuristic, random.Random(seed))
  return record_lib.TraceRecord(
      problem=problem, strategy=strategy.name,
      arguments=dataclasses.asdict(strategy), seed=seed, model='symbolic',
      nodes=tuple(tree.nodes), solution=from_tree.path(tree.nodes, tree.goal),
      traversal='depth_first' if is_dfs else 'expansion',
      is_exhausted=not is_dfs and tree.goal < 0)


class _Tree:
  """A tree under construction."""

  def __init__(self, target: int):
    self.target = target
    self.goal = -1
    self.states = []
    self.nodes = []
    self._num_entered = 0

  def add(self, parent: int, step: str, state: _State) -> int:
    """Adds a node and returns its index; sets `goal` if it is one."""
    index, is_goal = len(self.nodes), state == (self.target,)
    self.states.append(state)
    self.nodes.append(record_lib.Node(
        parent, step, ','.join(map(str, state)), is_terminal=len(state) == 1,
        is_correct=is_goal))
    if is_goal:
      self.goal = index
    return index

  def enter(self, index: int) -> None:
    """Marks the node as the next one in the order of expansion."""
    self.nodes[index] = dataclasses.replace(
        self.nodes[index], order=self._num_entered)
    self._num_entered += 1


def _depth_first(
    tree: _Tree, node: int, strategy: Strategy, heuristic: _Heuristic
) -> None:
  """Explores below `node` until there is a goal."""
  tree.enter(node)
  for step, state in _tried(tree, node, strategy, heuristic):
    child = tree.add(node, step, state)
    if len(state) > 1:
      _depth_first(tree, child, strategy, heuristic)
    if tree.goal >= 0:
      return


def _in_threads(
    tree: _Tree, strategy: Strategy, heuristic: _Heuristic) -> None:
  """Explores below first steps by the threads; the goal is the first one."""
  if len(tree.states[0]) < 3:
    raise ValueError(
        f'num_threads: got {strategy.num_threads} for the numbers '
        f'{list(tree.states[0])}; threads need at least three.')
  tree.enter(0)
  goals = []
  for i, (step, state) in enumerate(_tried(tree, 0, strategy, heuristic)):
    if goals and i % strategy.num_threads == 0:
      break
    tree.goal = -1
    _depth_first(tree, tree.add(0, step, state), strategy, heuristic)
    goals += [tree.goal] if tree.goal >= 0 else []
  tree.goal = goals[0] if goals else -1


def _tried(
    tree: _Tree, node: int, strategy: Strategy, heuristic: _Heuristic
) -> list[_Child]:
  """The children of a node in the order in which they are visited."""
  children = _children(tree.states[node], strategy)
  if len(tree.states[node]) == 2 and strategy.leaf_order == 'operator':
    children.sort(key=_operator_rank)
  else:
    children.sort(key=lambda child: heuristic(child[1]))
  return [
      child for child in children
      if not strategy.threshold or heuristic(child[1]) <= tree.target]


@dataclasses.dataclass(order=True, slots=True)
class _Open:
  """A heap entry; ties are left to heapq, as the original leaves them."""

  priority: float
  node: int = dataclasses.field(compare=False)


def _best_first(
    tree: _Tree, strategy: Strategy, heuristic: _Heuristic, rng: random.Random
) -> None:
  """Explores from node 0 in rounds of the `beam_width` best open states."""
  frontier = [_Open(heuristic(tree.states[0]), 0)]
  while frontier:
    size = min(strategy.beam_width, len(frontier))
    for entry in [heapq.heappop(frontier) for _ in range(size)]:
      tree.enter(entry.node)
      children = sorted(
          _children(tree.states[entry.node], strategy),
          key=lambda child: heuristic(child[1]))[:strategy.beam_width]
      rng.shuffle(children)
      opened = []
      for step, state in children:
        child = tree.add(entry.node, step, state)
        if tree.goal >= 0:
          return
        opened.append(_Open(heuristic(state), child))
      for child_entry in sorted(opened):
        heapq.heappush(frontier, child_entry)


def _children(state: _State, strategy: Strategy) -> list[_Child]:
  """All children in the order that decides ties of the heuristic.

  'listed': pairs and operands as the state lists them, + * - /; repeats stay.
  'descending': pairs by value, larger operand first, + - * /; each child once.
  """
  is_listed = strategy.operands == 'listed'
  indices = range(len(state))
  if not is_listed:
    indices = sorted(indices, key=lambda k: state[k])
  children, seen = [], set()
  for i, j in itertools.combinations(indices, 2):
    rest = tuple(n for k, n in enumerate(state) if k not in (i, j))
    if is_listed:
      steps = _combine(state[i], state[j])
    else:
      steps = sorted(_combine(state[j], state[i]), key=_operator_rank)
    for step, result in steps:
      key = (step, *sorted(rest))
      is_kept = strategy.max_value is None or result <= strategy.max_value
      if is_kept and (is_listed or key not in seen):
        seen.add(key)
        children.append((step, (*rest, result)))
  return children


def _combine(a: int, b: int) -> list[tuple[str, int]]:
  """Steps and results: sum, product, difference and, if exact, quotient."""
  big, small = max(a, b), min(a, b)
  steps = [
      (f'{a}+{b}={a + b}', a + b),
      (f'{a}*{b}={a * b}', a * b),
      (f'{big}-{small}={big - small}', big - small)]
  if small != 0 and big % small == 0:
    steps.append((f'{big}/{small}={big // small}', big // small))
  return steps


def _operator_rank(child: tuple) -> int:
  """Place of the operation of (step, ...) in + - * /."""
  return next(_OPERATORS.index(c) for c in child[0] if c in _OPERATORS)


def _make_heuristic(name: str, target: int) -> _Heuristic:
  """Distance of a state from the target; smaller is better."""
  if name == 'sum':
    return lambda state: sum(abs(n - target) for n in state) / len(state)
  factors = [f for f in range(2, target + 1) if target % f == 0]
  if not factors:
    raise ValueError(
        f'target: got {target}; must be at least 2 for the mult heuristic.')
  return lambda state: sum(min(abs(n - f) for f in factors) for n in state)
