# SPDX-License-Identifier: Apache-2.0
"""One search as several texts: a parent, and a thread below every first step.

The parent lists as many first steps as it opens threads at a time, reads what
these returned, and goes on with the next ones until some thread has found a
solution. A thread's text is a search that begins with the step it was opened
for, behind a mark: without it the parent's text would begin as that of its
first thread does. The nodes are those of the record, each in one text.
"""

import dataclasses

from meta_cot.traces import events as events_lib
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib

NUM_THREADS = 'num_threads'  # the argument of a search that says how many

Events = tuple[events_lib.Event, ...]


def has_threads(record: record_lib.TraceRecord) -> bool:
  """Says whether a record is of a search that opens threads."""
  return bool(record.arguments.get(NUM_THREADS))


def parent(record: record_lib.TraceRecord) -> Events:
  """Tells first steps, what was returned of them, and the answer.

  Args:
    record: of a search that opens threads.
  """
  number, nodes = record.arguments[NUM_THREADS], record.nodes
  firsts = _firsts(record)
  events = [events_lib.Start(record.problem.question)]
  for start in range(0, len(firsts), number):
    some = firsts[start:start + number]
    events += [
        events_lib.Step(
            start + place, 0, nodes[i].step, nodes[i].state, '')
        for place, i in enumerate(some, start=1)]
    events.append(events_lib.Join(tuple(
        _answer(_below(record, i)) for i in some)))
  if record.solution:
    events.append(events_lib.answer(record, record.solution))
  return tuple(events)


def num_children(record: record_lib.TraceRecord) -> int:
  """Counts the threads: one below every first step."""
  return len(_firsts(record))


def found_by(record: record_lib.TraceRecord) -> int | None:
  """The thread that the parent answers with; None: no thread has a solution."""
  return _firsts(record).index(record.solution[1]) if record.solution else None


def child(record: record_lib.TraceRecord, number: int) -> Events:
  """Tells the text of thread `number`; its first step is given.

  A join of nothing stands before it, which no parent's text begins with.
  """
  start, first, *others = events_lib.linearize(
      _below(record, _firsts(record)[number]))
  return (start, events_lib.Join(()),
          dataclasses.replace(first, is_given=True), *others)


def _firsts(record: record_lib.TraceRecord) -> list[int]:
  """The nodes of first steps, in the order of the search."""
  return [i for i, node in enumerate(record.nodes) if node.parent == 0]


def _below(
    record: record_lib.TraceRecord, first: int) -> record_lib.TraceRecord:
  """The search below a first step, the step included."""
  kept = {0: 0}  # old index -> new index
  for i, node in enumerate(record.nodes):
    if i == first or (node.parent > 0 and node.parent in kept):
      kept[i] = len(kept)
  nodes = tuple(
      dataclasses.replace(
          record.nodes[i], parent=kept.get(record.nodes[i].parent, -1))
      for i in kept)
  goal = next((i for i, node in enumerate(nodes) if node.is_correct), -1)
  return dataclasses.replace(
      record, nodes=nodes, solution=from_tree.path(nodes, goal))


def _answer(record: record_lib.TraceRecord) -> str:
  return events_lib.answer(
      record, record.solution).text if record.solution else ''
