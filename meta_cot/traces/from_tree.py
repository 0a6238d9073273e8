# SPDX-License-Identifier: Apache-2.0
"""The arrays of a search tree -> TraceRecord."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

from meta_cot.problem import Problem
from meta_cot.traces import record as record_lib


class Arrays(Protocol):
  """A tree of one problem, NumPy; see `search.SearchTree`."""

  parents: np.ndarray  # [N] int, -1 at the root
  is_valid: np.ndarray  # [N] bool; False: not a node
  is_terminal: np.ndarray  # [N] bool
  expansion_order: np.ndarray  # [N] int, -1 = never
  visit_counts: np.ndarray  # [N] int
  values: np.ndarray  # [N] float
  log_probs: np.ndarray  # [N] float


@dataclasses.dataclass(frozen=True)
class NodeText:
  """What a node says, and whether it solves the problem."""

  step: str  # '' at the root
  state: str
  is_correct: bool
  tokens: tuple[int, ...]


def from_tree(
    problem: Problem, tree: Arrays, texts: Mapping[int, NodeText],
    solution: int, *, strategy: str, arguments: Mapping[str, Any], seed: int,
    model: str,
) -> record_lib.TraceRecord:
  """Makes the record of one search, told in its order of expansion.

  Slots that hold no node are left out, so that nodes are numbered anew; their
  order stays.

  Args:
    texts: of every valid node, by slot.
    solution: slot of the node that is the answer, -1 if there is none. Only a
      correct one is a solution of the record.

  Raises:
    ValueError: a node whose parent is none.
  """
  slots = np.flatnonzero(tree.is_valid).tolist()
  index = {slot: i for i, slot in enumerate(slots)} | {-1: -1}
  nodes = []
  for slot in slots:
    parent = int(tree.parents[slot])
    if parent not in index:
      raise ValueError(
          f'problem {problem.id!r}: the node in slot {slot} has parent '
          f'{parent}, which is not valid.')
    nodes.append(record_lib.Node(
        parent=index[parent], step=texts[slot].step, state=texts[slot].state,
        order=int(tree.expansion_order[slot]),
        is_terminal=bool(tree.is_terminal[slot]),
        is_correct=texts[slot].is_correct,
        visits=int(tree.visit_counts[slot]), value=float(tree.values[slot]),
        log_prob=float(tree.log_probs[slot]), tokens=texts[slot].tokens))
  is_solved = solution >= 0 and texts[solution].is_correct
  return record_lib.TraceRecord(
      problem=problem, strategy=strategy, arguments=arguments, seed=seed,
      model=model, nodes=tuple(nodes),
      solution=path(nodes, index[solution] if is_solved else -1),
      traversal='expansion')


def path(nodes: Sequence[record_lib.Node], node: int) -> tuple[int, ...]:
  """Indices of the nodes from the root to `node`; () where it is -1."""
  indices = []
  while node >= 0:
    indices.append(node)
    node = nodes[node].parent
  return tuple(reversed(indices))
