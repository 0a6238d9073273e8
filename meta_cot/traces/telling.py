# SPDX-License-Identifier: Apache-2.0
"""What a style can write of a search, and searches read from texts."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from meta_cot.problem import Problem
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib


def writable(
    record: record_lib.TraceRecord, style: str) -> record_lib.TraceRecord:
  """Leaves out the nodes that a style has no words for, and all below them.

  A record whose solution has such a node has none any more.

  Raises:
    ValueError: no such style.
  """
  part = _part(record, style, _way)
  if not _can_tell(part, style):  # nodes that do not go together; takes longer
    part = _part(record, style, lambda nodes: nodes)
  return part


def from_text(
    problem: Problem, text: str, style: str, **about: Any
) -> record_lib.TraceRecord | None:
  """Reads the search that a text tells.

  Args:
    problem: that the text begins with.
    text: prompt and continuation.
    style: a name of `format.STYLES`.
    **about: strategy, arguments, seed and model of the record.

  Returns:
    The record; its solution is the path to the goal. None where the text tells
    no search, has a fault, or is in no order that records can be told in.

  Raises:
    ValueError: no such style.
  """
  reading = format_lib.read(text, style)
  steps = [e for e in reading.events if isinstance(e, events_lib.Step)]
  if reading.faults or not steps:
    return None
  stood = {0: 0}  # node -> its place in the order of expansion
  values = {}
  for event in reading.events:
    if isinstance(event, events_lib.Jump):
      stood.setdefault(event.node, len(stood))
    elif isinstance(event, events_lib.Value):
      values[event.node] = event.value
  nodes = [record_lib.Node(-1, '', '', 0), *(
      record_lib.Node(
          step.parent, step.text, step.state, stood.get(step.node, -1),
          is_terminal=bool(step.outcome), is_correct=step.outcome == 'goal',
          value=values.get(step.node)) for step in steps)]
  goal = next((i for i, node in enumerate(nodes) if node.is_correct), -1)
  for traversal in record_lib.TRAVERSALS:
    record = record_lib.TraceRecord(
        problem=problem, nodes=tuple(nodes),
        solution=from_tree.path(nodes, goal), traversal=traversal, **about)
    if _told(record) == reading.events:
      return record
  return None


def can_write(events: Sequence[events_lib.Event], style: str) -> bool:
  """Says whether a style can write all of the events."""
  try:
    format_lib.render(events, style)
  except ValueError:
    return False
  return True


def _told(
    record: record_lib.TraceRecord) -> tuple[events_lib.Event, ...] | None:
  """The events of a record; None where its tree cannot be told so."""
  try:
    return events_lib.linearize(record)
  except ValueError:
    return None


def _part(
    record: record_lib.TraceRecord, style: str, looked_at: Callable
) -> record_lib.TraceRecord:
  """The record with the nodes that can be told, one after the other.

  A node is kept if the style can write what `looked_at` makes of it and the
  nodes kept before.
  """
  kept, index = [], {-1: -1}
  for i, node in enumerate(record.nodes):
    if node.parent not in index:
      continue
    nodes = [*kept, dataclasses.replace(node, parent=index[node.parent])]
    if _can_tell(dataclasses.replace(
        record, nodes=tuple(looked_at(nodes)), solution=()), style):
      index[i] = len(kept)
      kept = nodes
  is_whole = all(i in index for i in record.solution)
  return dataclasses.replace(
      record, nodes=tuple(kept), solution=tuple(
          index[i] for i in record.solution) if is_whole else ())


def _way(nodes: Sequence[record_lib.Node]) -> list[record_lib.Node]:
  """The way to the last of the nodes alone."""
  way = from_tree.path(nodes, len(nodes) - 1)
  return [
      dataclasses.replace(
          nodes[i], parent=depth - 1, order=depth if i != way[-1] else -1)
      for depth, i in enumerate(way)]


def _can_tell(record: record_lib.TraceRecord, style: str) -> bool:
  """Whether the style can write all of a record."""
  events = _told(record)
  return events is not None and can_write(events, style)
