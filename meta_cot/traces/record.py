# SPDX-License-Identifier: Apache-2.0
"""TraceRecord: one search, as it is stored.

The schema is versioned: `SCHEMA` is written into every record and checked on
reading. Nodes are listed in order of creation, so a node's index is its name
and a parent always comes before its children; node 0 is the root.
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from meta_cot.problem import Problem

SCHEMA = 2
KIND = 'trace'  # of a folder of records
TRAVERSALS = ('depth_first', 'expansion', 'goal_expansion')


@dataclasses.dataclass(frozen=True)
class Node:
  """One node of a search tree."""

  parent: int  # index of the parent; -1 for the root
  step: str  # text of the step that made it, e.g. '9-3=6'; '' for the root
  state: str  # text of the state after it, e.g. '4,6'
  order: int = -1  # place in the order of expansion; -1 = never expanded
  is_terminal: bool = False
  is_correct: bool = False
  visits: int = 0
  value: float | None = None
  log_prob: float | None = None
  tokens: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class TraceRecord:
  """A search over one problem: who searched, the tree, and what was found."""

  problem: Problem
  strategy: str  # e.g. 'dfs_sum'
  arguments: Mapping[str, Any]  # parameters of the strategy, JSON values
  seed: int
  model: str  # id of the policy; 'symbolic' where there is none
  nodes: tuple[Node, ...]
  solution: tuple[int, ...]  # node indices root..goal; () = nothing found
  traversal: str  # the order in which it is told, one of TRAVERSALS
  is_exhausted: bool = False  # having failed, it says that nothing is left
  schema: int = SCHEMA

  def __post_init__(self):
    if self.traversal not in TRAVERSALS:
      raise ValueError(
          f'trace record: traversal {self.traversal!r} must be one of '
          f'{", ".join(TRAVERSALS)}.')

  @property
  def is_solved(self) -> bool:
    """Whether the search found a solution."""
    return bool(self.solution)


def to_json(record: TraceRecord) -> str:
  """One line of JSON; `from_json` gives the record back."""
  return json.dumps(dataclasses.asdict(record), separators=(',', ':'))


def from_json(text: str | bytes) -> TraceRecord:
  """Reads one record.

  Raises:
    ValueError: not a record, or of another schema version; one line.
  """
  try:
    raw = json.loads(text)
    if raw['schema'] != SCHEMA:
      raise ValueError(
          f'trace record has schema {raw["schema"]}, this version reads '
          f'{SCHEMA}; generate the traces again.')
    nodes = tuple(
        Node(**{**node, 'tokens': tuple(node['tokens'])})
        for node in raw['nodes'])
    return TraceRecord(**{
        **raw, 'problem': Problem(**raw['problem']), 'nodes': nodes,
        'solution': tuple(raw['solution'])})
  except (KeyError, TypeError, json.JSONDecodeError) as e:
    raise ValueError(f'not a trace record: {e!r}') from e


def counts(record: TraceRecord) -> dict[str, int]:
  """Returns what a manifest adds up over records."""
  return {'num_solved': int(record.is_solved), 'num_nodes': len(record.nodes)}
