# SPDX-License-Identifier: Apache-2.0
"""Events: a search in the order in which it is told.

A record holds a tree; `linearize` replays how it grew. The search stands at
the root first; a `Step` always belongs to the node at which the search stands,
and a `Jump` makes it stand at another one (or again at the same one: a
depth-first search states its node anew after every child but the last).
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools

from meta_cot.traces import record as record_lib


@dataclasses.dataclass(frozen=True)
class Start:
  """The problem, e.g. '4,9,3>24'; always the first event."""

  question: str


@dataclasses.dataclass(frozen=True)
class Step:
  """The search tries a step at node `parent`, which makes node `node`."""

  node: int
  parent: int
  text: str  # e.g. '9-3=6'
  state: str  # e.g. '4,6'
  outcome: str  # 'goal' | 'dead_end' | '' (a state to go on from)
  # Whether it stood in the prompt: the message that a thread begins with.
  is_given: bool = dataclasses.field(default=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Jump:
  """The search goes on at node `node`."""

  node: int


@dataclasses.dataclass(frozen=True)
class Value:
  """An estimate for the node that the step before made.

  Only some styles write it; the others leave it out.
  """

  node: int
  value: float


@dataclasses.dataclass(frozen=True)
class Join:
  """A thread for each of the steps since the last one; what they returned.

  Only styles that have threads write it.
  """

  lines: tuple[str, ...]  # the solution found, one step per line; '' for none


@dataclasses.dataclass(frozen=True)
class Exhausted:
  """The search says that nothing is left to try."""


@dataclasses.dataclass(frozen=True)
class Answer:
  """The solution, one step per line; absent where the search failed."""

  text: str
  # As a policy wrote it, with what ended it; () where none did.
  tokens: tuple[int, ...] = dataclasses.field(default=(), compare=False)
  # As it is written, what was taken back included; '' where nothing was.
  draft: str = dataclasses.field(default='', compare=False)
  # Steps at its beginning that are read and not trained.
  num_given: int = dataclasses.field(default=0, compare=False)
  # False: it may go on, so that its end is not trained.
  is_whole: bool = dataclasses.field(default=True, compare=False)


@dataclasses.dataclass(frozen=True)
class Feedback:
  """What the environment says behind an attempt; no style writes it."""

  text: str


Event = Start | Step | Jump | Value | Join | Exhausted | Answer | Feedback


@dataclasses.dataclass(frozen=True)
class Span:
  """A piece of rendered text; the texts of all spans joined are the text."""

  text: str
  kind: str  # 'prompt' | 'search' | 'joined' (by threads) | 'solution'
  on_path: bool  # whether it tells a step on the path to the solution


@dataclasses.dataclass(frozen=True)
class Fault:
  """Something that is wrong in a text, and where."""

  # 'format' | 'unfinished' (the text ends, or was cut, before it is whole)
  # | 'line_feed' (only the one at the end is wrong) | what a style adds
  kind: str
  position: int  # of the first character that is wrong
  expected: str  # what should stand there
  is_grammar: bool = True  # False: the events tell what stands there


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a text tells, as far as it can be read."""

  events: tuple[Event, ...]
  faults: tuple[Fault, ...]  # in the order in which they were found
  # That the text claims at its very end, one step per line; '' where it claims
  # one that cannot be read, None where it claims none.
  answer: str | None


def linearize(record: record_lib.TraceRecord) -> tuple[Event, ...]:
  """Tells a search in the order that `record.traversal` names.

  The replay ends at the first correct node: where it is made, or, in
  'goal_expansion', where it is expanded. A failed search whose record
  `is_exhausted` ends with `Exhausted`. Nodes are numbered in the order of their
  steps. Behind the step of a node that has a value stands the `Value`, rounded
  to two decimals; the root, which no step makes, has none.

  Raises:
    ValueError: the tree contradicts itself; names the node.
  """
  replay = {
      'depth_first': _depth_first, 'expansion': _by_expansion,
      'goal_expansion': functools.partial(
          _by_expansion, is_over_when_made=False)}
  events = [
      Start(record.problem.question),
      *_renumbered(_valued(record, replay[record.traversal](record)))]
  if record.solution:
    events.append(answer(record, record.solution))
  elif record.is_exhausted:
    events.append(Exhausted())
  return tuple(events)


def answer(record: record_lib.TraceRecord, path: Sequence[int]) -> Answer:
  """Makes the answer of the steps on a path from the root."""
  nodes = [record.nodes[i] for i in path[1:]]
  is_written = all(node.tokens for node in nodes)
  return Answer('\n'.join(node.step for node in nodes), tuple(
      token for node in nodes for token in node.tokens if is_written))


def on_path(events: Sequence[Event]) -> tuple[bool, ...]:
  """Per event: whether it tells a step on the path to the goal.

  A jump counts if the search stays where it leads to until a step on the path,
  and if it leads to the goal; a value if its node's step does.
  """
  nodes = _path(events)
  goals = {
      e.node for e in events if isinstance(e, Step) and e.outcome == 'goal'}
  flags, leads_to_path = [], False
  for event in reversed(events):
    if isinstance(event, Step):
      is_on = event.node in nodes
      leads_to_path = leads_to_path or is_on
    elif isinstance(event, Jump):
      is_on, leads_to_path = leads_to_path or event.node in goals, False
    elif isinstance(event, Value):
      is_on = event.node in nodes
    else:
      is_on = isinstance(event, Answer)
    flags.append(is_on)
  return tuple(reversed(flags))


def _path(events: Sequence[Event]) -> frozenset[int]:
  """The nodes from the root to the goal; empty if no step reaches a goal."""
  parents = {}
  for event in events:
    if isinstance(event, Step):
      parents[event.node] = event.parent
      if event.outcome == 'goal':
        nodes, node = {0}, event.node
        while node in parents and node not in nodes:
          nodes.add(node)
          node = parents[node]
        return frozenset(nodes)
  return frozenset()


def _depth_first(record: record_lib.TraceRecord) -> Iterator[Event]:
  # Depth first, the order of creation is the order of the visits. Between two
  # creations every node on the way up was at its last child, which tells
  # nothing, so that only the next parent is stated.
  last = len(record.nodes) - 1
  for i, node in enumerate(record.nodes[1:], start=1):
    _check_parent(record, i)
    if i > 1:
      if node.parent != i - 1 and _is_visited(record.nodes[i - 1]):
        yield Jump(i - 1)
      yield Jump(node.parent)
    yield _step(record, i)
    if node.is_correct:
      return
  if last > 0 and _is_visited(record.nodes[last]):
    yield Jump(last)


def _by_expansion(
    record: record_lib.TraceRecord, is_over_when_made: bool = True
) -> Iterator[Event]:
  children = [[] for _ in record.nodes]
  for i in range(1, len(record.nodes)):
    _check_parent(record, i)
    children[record.nodes[i].parent].append(i)
  expanded = sorted(
      (node.order, i) for i, node in enumerate(record.nodes) if node.order >= 0)
  here = 0
  for _, i in expanded:
    if i != here:
      yield Jump(i)
    here = i
    if record.nodes[i].is_correct:
      return
    for child in children[i]:
      yield _step(record, child)
      if is_over_when_made and record.nodes[child].is_correct:
        return


def _valued(
    record: record_lib.TraceRecord, events: Iterable[Event]
) -> Iterator[Event]:
  for event in events:
    yield event
    if isinstance(event, Step):
      value = record.nodes[event.node].value
      if value is not None:
        yield Value(event.node, round(value, 2))


def _renumbered(events: Iterable[Event]) -> Iterator[Event]:
  numbers = {0: 0}
  for event in events:
    if isinstance(event, Step):
      numbers[event.node] = len(numbers)
      yield dataclasses.replace(
          event, node=numbers[event.node], parent=numbers[event.parent])
    else:
      yield dataclasses.replace(event, node=numbers[event.node])


def _step(record: record_lib.TraceRecord, i: int) -> Step:
  node = record.nodes[i]
  outcome = 'goal' if node.is_correct else 'dead_end' * node.is_terminal
  return Step(i, node.parent, node.step, node.state, outcome)


def _is_visited(node: record_lib.Node) -> bool:
  return node.order >= 0 and not node.is_terminal


def _check_parent(record: record_lib.TraceRecord, i: int) -> None:
  parent = record.nodes[i].parent
  if not 0 <= parent < i or record.nodes[parent].order < 0:
    raise ValueError(
        f'record of problem {record.problem.id!r}: node {i} has parent '
        f'{parent}, which must come before it and have an order of expansion.')
