# SPDX-License-Identifier: Apache-2.0
"""Searches as trees to draw, from a record or from what a model wrote."""

import dataclasses

from meta_cot import traces


@dataclasses.dataclass(frozen=True)
class Tree:
  """A search and who wrote it."""

  title: str
  nodes: tuple[traces.Node, ...]  # in order of creation, the root first


def from_record(record: traces.TraceRecord) -> Tree:
  """The tree of a stored search."""
  return Tree(f'{record.problem.question} ({record.strategy})', record.nodes)


def from_text(text: str, style: str) -> Tree | None:
  """The tree that a model's text tells; None if it departs from the grammar."""
  try:
    start, *events = traces.parse(text, style=style)
  except ValueError:
    return None
  steps = [e for e in events if isinstance(e, traces.Step)]
  numbers = start.question.partition('>')[0]
  expanded = dict.fromkeys(step.parent for step in steps)
  order = {node: i for i, node in enumerate(expanded)}
  root = traces.Node(parent=-1, step='', state=numbers, order=order.get(0, -1))
  return Tree(f'{start.question} (the model)', (root, *(
      traces.Node(
          parent=step.parent, step=step.text, state=step.state,
          order=order.get(step.node, -1), is_terminal=bool(step.outcome),
          is_correct=step.outcome == 'goal')
      for step in steps)))
