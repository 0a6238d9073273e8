# SPDX-License-Identifier: Apache-2.0
"""A tolerant replay of model-written text: it counts faults and reads on."""

from collections.abc import Sequence
import re

from meta_cot.traces import events as events_lib
from meta_cot.traces.arithmetic import compact
from meta_cot.traces.arithmetic import operations
from meta_cot.traces.arithmetic import stream_of_search

ERROR_KINDS = (
    'arithmetic',  # a result that is not exact
    'illegal_state',  # numbers or nodes that are not there
    'format',  # text outside the grammar
    'unfinished',  # no end of sequence within the limit
    'wrong_answer',  # a hit claimed or overlooked against the target
    'no_answer',  # ended without claiming a solution
)

_UNFINISHED = re.compile('[-+*/=,@0-9]*')


class Replay:
  """The tree as the text tells it, and what is wrong with it."""

  def __init__(self, numbers: tuple[int, ...], target: int):
    self.target = target
    self.states = [numbers]
    self.sizes = [len(numbers)]
    self.here = 0
    self.backtracks = 0
    self.errors = dict.fromkeys(ERROR_KINDS, 0)
    self._parents = [0]

  def step(
      self, operation: operations.Operation, numbers: tuple[int, ...]) -> int:
    """Tries a step at the present node; returns the node it makes."""
    self.errors['arithmetic'] += not operation.is_true
    # Comparing sizes first keeps the work in proportion to the text.
    is_legal = len(numbers) == self.sizes[self.here] - 1
    if is_legal:
      left = operations.remaining(self.states[self.here], operation)
      is_legal = left is not None and sorted(left) == sorted(numbers)
    self.errors['illegal_state'] += not is_legal
    return self.add(numbers)

  def add(self, numbers: tuple[int, ...]) -> int:
    """Adds a child of the present node."""
    self.states.append(numbers)
    self.sizes.append(len(numbers))
    self._parents.append(self.here)
    return len(self.states) - 1

  def move(self, node: int) -> None:
    """Goes on at `node`."""
    self.backtracks += (
        node != self.here and (self._parents[node] != self.here or node == 0))
    self.here = node

  def compare(self, numbers: Sequence[int], claims_goal: bool) -> None:
    """Checks a verdict of the text on a last number."""
    is_goal = tuple(numbers) == (self.target,)
    self.errors['wrong_answer'] += claims_goal != is_goal


def read_compact(replay: Replay, body: str, is_finished: bool) -> None:
  """Replays a compact text after its prompt."""
  search, mark, _ = body.partition('S')
  _Compact(replay, search, not is_finished and not mark).read()
  if not mark:
    return
  solution = compact.SOLUTION.fullmatch(body, len(search))
  if solution is None:
    replay.errors['format'] += is_finished
    return
  checked = Replay(replay.states[0], replay.target)
  for line in solution[1].split(','):
    operation = operations.parse(line)
    left = operations.remaining(checked.states[checked.here], operation)
    node = checked.step(operation, left or checked.states[checked.here])
    checked.move(node)
  checked.compare(checked.states[-1], True)
  for kind, count in checked.errors.items():
    replay.errors[kind] += count


def read_sentences(replay: Replay, body: str, is_finished: bool) -> None:
  """Replays a Stream-of-Search text after its prompt."""
  lines = body.split('\n')
  # The last piece is '' after a whole line, and half a line if it was cut.
  if not is_finished or not lines[-1]:
    lines.pop()
  reader = _Sentences(replay)
  for line in lines:
    reader.read(line)


class _Compact:
  """Reads a compact search up to where it leaves the grammar."""

  def __init__(self, replay: Replay, text: str, is_cut: bool):
    self._replay = replay
    self._text = text
    self._is_cut = is_cut  # the last step may be half written
    self._at = 0
    self._previous = None
    self._is_open = False  # among the leaves of a state
    self._is_placed = False  # after `@`

  def read(self) -> None:
    """Reads everything; text that cannot be read is one format error."""
    while self._at < len(self._text) and not self._is_goal():
      if not (self._read_jump() or self._read_inner() or self._read_leaf()):
        break
    rest = self._text[self._at:]
    is_whole = not rest and not self._is_open
    if not is_whole and not (self._is_cut and _UNFINISHED.fullmatch(rest)):
      self._replay.errors['format'] += 1

  def _is_goal(self) -> bool:
    return self._previous is not None and self._previous.outcome == 'goal'

  def _read_jump(self) -> bool:
    match = compact.JUMP.match(self._text, self._at)
    if match is None or self._is_open:
      return False
    node = int(match[1])
    if node < len(self._replay.states):
      self._replay.move(node)
    else:
      self._replay.errors['illegal_state'] += 1
    self._is_placed = True
    self._at = match.end()
    return True

  def _read_inner(self) -> bool:
    match = compact.INNER.match(self._text, self._at)
    if match is None or self._is_open:
      return False
    operation = operations.parse(match[1])
    numbers = (*operations.numbers(match[2]), operation.result)
    self._place(len(numbers))
    self._add(operation, numbers, '')
    self._at = match.end()
    return True

  def _read_leaf(self) -> bool:
    comma = self._is_open and self._text[self._at] == ','
    match = compact.LEAF.match(self._text, self._at + comma)
    if match is None:
      return False
    if not self._is_open:
      self._place(1)
    after = self._text[match.end():match.end() + 1]
    numbers = (int(match[2]),)
    if after or not self._is_cut:
      self._replay.compare(numbers, after == '!')
    self._add_leaf(match, numbers, 'goal' if after == '!' else 'dead_end')
    self._is_open = after not in ('!', 'x')
    self._at = match.end() + (not self._is_open)
    return True

  def _add_leaf(self, match, numbers: tuple[int, ...], outcome: str) -> None:
    replay = self._replay
    if replay.sizes[replay.here] == 2:
      text = compact.leaf_text(replay.states[replay.here], match[1], match[2])
      self._add(operations.parse(text), numbers, outcome)
    else:
      replay.errors['illegal_state'] += 1
      self._note(replay.add(numbers), outcome)

  def _place(self, size: int) -> None:
    if not self._is_placed:
      replay = self._replay
      node = compact.implied_jump(
          self._previous, replay.sizes, replay.here, size)
      if node is not None:
        replay.move(node)

  def _add(self, operation, numbers: tuple[int, ...], outcome: str) -> None:
    self._note(self._replay.step(operation, numbers), outcome)

  def _note(self, node: int, outcome: str) -> None:
    self._previous = events_lib.Step(
        node, self._replay.here, '', '', outcome)
    self._is_placed = False


class _Sentences:
  """Reads a Stream-of-Search text line by line."""

  def __init__(self, replay: Replay):
    self._replay = replay
    self._tree = stream_of_search.Tree(replay.states[0])
    self._nodes = {('0', ()): 0}  # (index, operations) -> node
    self._expected = 'step'  # 'step' | 'outcome' | 'state' | 'end'
    self._index = ''  # of the node moved to
    self._last = 0  # the node made last

  def read(self, line: str) -> None:
    """Counts what one line tells, and its faults."""
    for name, pattern, function in (
        ('step', stream_of_search.EXPLORE, self._explore),
        ('outcome', stream_of_search.COMPARE, self._compare),
        ('outcome', stream_of_search.GENERATED, self._generated),
        ('outcome', stream_of_search.PATH_NODE, self._path_node),
        ('step', stream_of_search.MOVE, self._move),
        ('state', stream_of_search.STATE, self._state)):
      match = pattern.fullmatch(line)
      if match is not None:
        if name == self._expected:
          function(match)
        else:
          self._replay.errors['format'] += 1
        return
    if line == stream_of_search.NO_SOLUTION and self._expected == 'step':
      self._expected = 'end'
    else:
      self._replay.errors['format'] += 1

  def _explore(self, match) -> None:
    numbers = self._numbers(match[2])
    if numbers is None:
      return
    self._last = self._replay.step(operations.parse(match[1]), numbers)
    self._tree.add(events_lib.Step(
        self._last, self._replay.here, match[1], ','.join(map(str, numbers)),
        'dead_end' if len(numbers) == 1 else ''))
    key = self._tree.index[self._last], self._tree.operations[self._last]
    self._nodes.setdefault(key, self._last)
    self._expected = 'outcome'

  def _compare(self, match) -> None:
    numbers = self._replay.states[self._last]
    claims_goal = match[3].startswith('equal')
    self._replay.compare(numbers, claims_goal)
    self._require(
        (int(match[1]),) == numbers and int(match[2]) == self._replay.target)
    self._expected = 'end' if claims_goal else 'step'

  def _generated(self, match) -> None:
    self._require(
        match[1] == self._tree.index[self._last]
        and int(match[2]) == self._replay.target
        and self._numbers(match[3]) == self._replay.states[self._last]
        and match[4] == self._tree.operations[self._last][-1])
    self._expected = 'step'

  def _path_node(self, match) -> None:
    self._require(
        self._numbers(match[2]) == self._replay.states[self._last]
        and match[3] == self._tree.operations[self._last][-1])
    self._index = self._tree.index[self._last]
    self._expected = 'state'

  def _move(self, match) -> None:
    self._index = match[1]
    self._expected = 'state'

  def _state(self, match) -> None:
    steps = stream_of_search.read_operations(match[3])
    node = self._nodes.get((self._index, steps))
    self._require(
        node is not None and int(match[1]) == self._replay.target
        and self._numbers(match[2]) == self._replay.states[node])
    if node is not None:
      self._replay.move(node)
    self._expected = 'step'

  def _numbers(self, text: str) -> tuple[int, ...] | None:
    numbers = stream_of_search.read_numbers(text)
    self._replay.errors['format'] += numbers is None
    return numbers

  def _require(self, is_right: bool) -> None:
    self._replay.errors['illegal_state'] += not is_right
