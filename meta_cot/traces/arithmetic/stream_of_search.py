# SPDX-License-Identifier: Apache-2.0
"""The text of Stream of Search (arXiv 2404.03683) for Countdown.

Every line of the search is a full sentence; see docs/traces.md for the grammar.
Traces of the symbolic strategies are rendered byte for byte as by the original.
`Start, Answer` alone is its solution-only text ("optimal path"), except that
equal numbers are all kept. The style has no words for an `Answer` after a
search: `parse` derives it from the path to the goal.
"""

from collections.abc import Sequence
import dataclasses
import os
import re

from meta_cot.traces import events as events_lib
from meta_cot.traces import reading as reading_lib
from meta_cot.traces.arithmetic import operations
from meta_cot.traces.arithmetic import replay as replay_lib

OPENING = ''
STEP_END = "']\n"  # of the line that states the operations so far
EVENT_ENDS = ('\n',)
_NO_SOLUTION = 'No solution found.'

_LIST = r'\[([0-9, ]*)\]'
_OPS = rf"\[((?:'{operations.OPERATION}'(?:, )?)*)\]"
_STATE = re.compile(
    rf'Current State: ({operations.NUMBER}):{_LIST}, Operations: {_OPS}')
_EXPLORE = re.compile(
    rf'Exploring Operation: ({operations.OPERATION}), '
    rf'Resulting Numbers: {_LIST}')
_COMPARE = re.compile(
    f'{operations.NUMBER},{operations.NUMBER} '
    '(equal: Goal Reached|unequal: No Solution)')
_GENERATED = re.compile(
    rf'Generated Node #0(?:,[0-9]+)*: {operations.NUMBER}:{_LIST} '
    f'Operation: {operations.OPERATION}')
_PATH_NODE = re.compile(
    rf'Generated Node #[0-9]+: {_LIST} '
    f'from Operation: {operations.OPERATION}')
_MOVE = re.compile('Moving to Node #(0(?:,[0-9]+)*)')
_EXHAUSTED = re.compile(re.escape(_NO_SOLUTION))
_CLAIM = 'Goal Reached'
_EXPECTED = {
    'step': 'Exploring Operation: ... or Moving to Node #...',
    'outcome': 'Generated Node #... or equal / unequal',
    'state': 'Current State: ... and a line feed',
    'end': 'the end of the text',
}


class _Tree:
  """What the text says about every node: its index, numbers, operations."""

  def __init__(self, numbers: tuple[int, ...]):
    self.index = {0: '0'}
    self.numbers = {0: numbers}
    self.operations = {0: ()}
    self._num_generated = {0: 0}

  def add(self, step: events_lib.Step) -> None:
    numbers = operations.numbers(step.state)
    if operations.parse(step.text) is None or numbers is None:
      raise ValueError(
          f'node {step.node}: step {step.text!r} to {step.state!r} cannot be '
          'written in stream_of_search; it must be one operation between '
          'non-negative integers, such as 9-3=6 to 4,6.')
    # The original numbers only states to go on from; a state with one number
    # takes the index of the next such sibling and there is none.
    generated = self._num_generated[step.parent]
    self.index[step.node] = f'{self.index[step.parent]},{generated}'
    self._num_generated[step.parent] += not step.outcome
    self._num_generated[step.node] = 0
    self.numbers[step.node] = numbers
    self.operations[step.node] = (*self.operations[step.parent], step.text)


def spans(events: Sequence[events_lib.Event]) -> list[events_lib.Span]:
  """The text in pieces; see `format.spans`."""
  question = events[0].question
  numbers, target = operations.question(question)
  result = [events_lib.Span(prompt(question), 'prompt', False)]
  answers = [e.text for e in events if isinstance(e, events_lib.Answer)]
  if answers and not any(isinstance(e, events_lib.Step) for e in events):
    return result + _solution_spans(answers[0], numbers, target)
  tree, here, told = _Tree(numbers), 0, None
  for event, on_path in zip(events, events_lib.on_path(events), strict=True):
    if isinstance(event, events_lib.Step):
      if event.parent != here:
        raise ValueError(
            f'node {event.node}: made at node {event.parent} while the search '
            f'stands at node {here}; put a Jump before it.')
      tree.add(event)
      for kind, text in _step(event, tree, target):
        result.append(events_lib.Span(text, kind, on_path))
      if event.outcome == 'goal' and told is None:
        told = '\n'.join(tree.operations[event.node])
    elif isinstance(event, events_lib.Jump):
      here = event.node
      if here not in tree.index:
        raise ValueError(f'jump to node {here}, which no step has made yet.')
      text = f'Moving to Node #{tree.index[here]}\n' + _state(
          target, tree.numbers[here], tree.operations[here])
      result.append(events_lib.Span(text, 'search', on_path))
    elif isinstance(event, events_lib.Exhausted):
      result.append(events_lib.Span(_NO_SOLUTION, 'search', False))
  for answer in answers:
    if answer != told:
      raise ValueError(
          f'answer {answer!r} differs from the path to the goal {told!r}; '
          'stream_of_search cannot write it.')
  return result


def prompt(question: str) -> str:
  """The text before the search."""
  numbers, target = operations.question(question)
  return _state(target, numbers, ())


def read(text: str) -> events_lib.Reading:
  """Reads any text as far as it can be read; see `format.read`.

  A line that cannot be read, or that stands at the wrong place, is one fault.
  """
  line, line_feed, body = text.partition('\n')
  prompt = _STATE.fullmatch(line)
  if not line_feed or prompt is None or _numbers(prompt[2]) is None:
    return reading_lib.unread(text, _EXPECTED['state'], _CLAIM)
  return _Reader(text, prompt).read(body.split('\n'), text.count(_CLAIM))


def _numbers(text: str) -> tuple[int, ...] | None:
  """Reads what stands inside a printed list of numbers; None if it is wrong."""
  return operations.numbers(text.replace(', ', ','))


def _operations(text: str) -> tuple[str, ...]:
  """Reads what stands inside a printed list of operations."""
  return tuple(re.findall(operations.OPERATION, text))


def _state(target: int, numbers: Sequence[int], steps: Sequence[str]) -> str:
  return (f'Current State: {target}:{list(numbers)}, '
          f'Operations: {list(steps)}\n')


def _explore_line(step: str, numbers: Sequence[int]) -> str:
  return f'Exploring Operation: {step}, Resulting Numbers: {list(numbers)}\n'


def _outcome_line(
    index: str, step: str, numbers: Sequence[int], target: int, is_goal: bool
) -> str:
  """The line after a step of a search."""
  if len(numbers) > 1:
    return (f'Generated Node #{index}: {target}:{list(numbers)} '
            f'Operation: {step}\n')
  verdict = 'equal: Goal Reached' if is_goal else 'unequal: No Solution'
  return f'{numbers[0]},{target} {verdict}\n'


def _path_line(n: int, step: str, numbers: Sequence[int]) -> str:
  return f'Generated Node #{n}: {list(numbers)} from Operation: {step}\n'


def _step(step: events_lib.Step, tree: _Tree, target: int):
  numbers = tree.numbers[step.node]
  if (len(numbers) == 1) != bool(step.outcome):
    raise ValueError(
        f'node {step.node}: outcome {step.outcome!r} with numbers '
        f'{list(numbers)}; stream_of_search writes goal and dead_end where one '
        'number is left, and only there.')
  is_goal = step.outcome == 'goal'
  yield 'search', _explore_line(step.text, numbers)
  # There is no separate solution in this style: reaching the goal is it.
  yield 'solution' if is_goal else 'search', _outcome_line(
      tree.index[step.node], step.text, numbers, target, is_goal)


def _solution_spans(
    answer: str, numbers: tuple[int, ...], target: int
) -> list[events_lib.Span]:
  lines, done = [], []
  for n, text in enumerate(answer.split('\n'), start=2):
    operation = operations.parse(text)
    left = operation and operations.remaining(numbers, operation)
    if not left:
      raise ValueError(
          f'answer line {n - 1}: {text!r} is not an operation on the numbers '
          f'left, {list(numbers)}; stream_of_search cannot write it.')
    numbers = left
    done.append(text)
    lines.append(_explore_line(text, numbers))
    if len(numbers) > 1:
      lines.append(_path_line(n, text, numbers) + _state(target, numbers, done))
  if numbers != (target,):
    raise ValueError(
        f'answer ends with {list(numbers)}, not with the target {target}; '
        'stream_of_search cannot write it.')
  lines.append(_outcome_line('', '', numbers, target, is_goal=True))
  return [events_lib.Span(line, 'solution', True) for line in lines]


class _Reader(replay_lib.Replay):
  """Reads lines into events and faults."""

  def __init__(self, text: str, prompt: re.Match):
    numbers = _numbers(prompt[2])
    question = f'{",".join(map(str, numbers))}>{int(prompt[1])}'
    super().__init__(question, text, prompt.end() + 1)  # where a line begins
    self._tree = _Tree(numbers)
    self._nodes = {'0': {(): 0}}  # index -> operations -> node
    self._expected = 'step'  # a key of _EXPECTED
    self._index = ''  # of the node moved to
    self._is_solution = False  # nothing but a solution is told
    self._stated = _operations(prompt[3])  # by the last state; None: unreadable
    self._explored = None  # the operation that the line before tried
    self._claim = None  # the operation after which the line claims the goal
    self._line, self._following = '', None  # None: the line has no line feed

  def read(self, lines: Sequence[str], num_claims: int) -> events_lib.Reading:
    is_read = True
    for line, following in zip(lines, (*lines[1:], None), strict=True):
      self._line, self._following = line, following
      if line or following is not None:
        is_read = self._read_line()
        self._at += len(line) + 1
    if not line or is_read:
      self._read_end()
    answer = '' if num_claims else None
    if num_claims == 1 and None not in (self._claim, self._stated):
      answer = '\n'.join((*self._stated, self._claim))
    if self._is_solution:
      del self.events[1:]
    if answer:
      self.events.append(events_lib.Answer(answer))
    return self.reading(answer)

  def _read_line(self) -> bool:
    """Reads the line; whether it is one and stands where it may."""
    expected, read, match = self._match()
    explored, self._explored, self._claim = self._explored, None, None
    if read == self._explore:
      self._explored = match[1]
    elif read == self._compare and match[1].startswith('equal'):
      self._claim = explored
    if self._line.startswith('Current State'):
      self._stated = match and _operations(match[3])
    if expected == self._expected:
      read(match)
      return True
    is_cut = (
        self._following is None and match is None and self._expected != 'end')
    self._fault(
        'unfinished' if is_cut else 'format', 0, _EXPECTED[self._expected])
    return False

  def _read_end(self) -> None:
    end = -1 if self._line else 0
    if self._expected in ('outcome', 'state') or (
        self._is_solution and self._expected == 'step'):
      self._fault('unfinished', end, _EXPECTED[self._expected])
    elif self._line not in ('', _NO_SOLUTION):
      self._fault('line_feed', end, 'a line feed')

  def _match(self):
    """(where the line may stand, what reads it, its match), or Nones."""
    for expected, pattern, read in (
        ('step', _EXPLORE, self._explore),
        ('outcome', _COMPARE, self._compare),
        ('outcome', _GENERATED, self._generated),
        ('outcome', _PATH_NODE, self._path_node),
        ('step', _MOVE, self._move),
        ('step', _EXHAUSTED, self._exhausted),
        ('state', _STATE, self._state)):
      match = pattern.fullmatch(self._line)
      if match is not None:
        return expected, read, match
    return None, None, None

  def _explore(self, match: re.Match) -> None:
    numbers = _numbers(match[2])
    if numbers is None:
      self._fault('format', match.start(2), 'a list of non-negative integers')
      return
    # The numbers of a solution are not kept: they must follow from its steps.
    is_path = self._is_solution or (
        len(self.events) == 1
        and _PATH_NODE.fullmatch(self._following or '') is not None)
    self.check(
        operations.parse(match[1]), numbers, self._at, is_grammar=is_path)
    step = self.step(
        match[1], numbers, 'dead_end' if len(numbers) == 1 else '')
    self._tree.add(step)
    same = self._nodes.setdefault(self._tree.index[step.node], {})
    same.setdefault(self._tree.operations[step.node], step.node)
    self._expected = 'outcome'

  def _compare(self, match: re.Match) -> None:
    claims_goal = match[1].startswith('equal')
    if not claims_goal:
      self._end_solution()
    self.check_goal(
        self.states[-1] == (self.target,), claims_goal, self._at,
        is_grammar=self._is_solution)
    self._expect(self._outcome(claims_goal))
    self.events[-1] = dataclasses.replace(
        self.events[-1], outcome='goal' if claims_goal else 'dead_end')
    self._expected = 'end' if claims_goal else 'step'

  def _generated(self, _: re.Match) -> None:
    self._end_solution()
    self._expect(self._outcome())
    self._expected = 'step'

  def _path_node(self, _: re.Match) -> None:
    step, numbers = self.events[-1], self.states[-1]
    self._is_solution |= len(self.events) == 2
    if self._is_solution and len(numbers) > 1:
      self._expect(_path_line(step.node + 1, step.text, numbers))
    else:
      self._expect(self._outcome())
    self._index = self._tree.index[step.node]
    self._expected = 'state'

  def _move(self, match: re.Match) -> None:
    self._end_solution()
    self._index = match[1]
    if self._index not in self._nodes:
      self._fault(
          'illegal_state', match.start(1), 'the index of a node made before')
    self._expected = 'state'

  def _exhausted(self, match: re.Match) -> None:
    self._end_solution()
    self.events.append(events_lib.Exhausted())
    if self._following is not None:
      self._fault('line_feed', match.end(), 'the end of the text')
    self._expected = 'end'

  def _state(self, match: re.Match) -> None:
    node = self._nodes.get(self._index, {}).get(self._stated)
    if node is not None:
      # One number more than the line has shows where they differ.
      numbers = self.states[node][:match[2].count(',') + 2]
      self._expect(_state(self.target, numbers, self._stated))
      self.jump(node)
    elif self._index in self._nodes:  # else it is a fault already
      self._fault(
          'illegal_state', match.start(3),
          f'the operations of node #{self._index}')
    self._expected = 'step'

  def _outcome(self, is_goal: bool = False) -> str:
    step = self.events[-1]
    return _outcome_line(
        self._tree.index[step.node], step.text, self.states[-1],
        self.target, is_goal)

  def _end_solution(self) -> None:
    """Notes what no solution has; the rest is read as a search."""
    if self._is_solution:
      self._fault('format', 0, 'the next step of the solution')
    self._is_solution = False

  def _expect(self, line: str) -> None:
    """Notes where the line contradicts what was told before."""
    told = self._line + '\n'
    if told != line:
      same = len(os.path.commonprefix((told, line)))
      self._fault('illegal_state', same, repr(line[same:same + 40]))

  def _fault(self, kind: str, offset: int, expected: str) -> None:
    self.fault(kind, self._at + offset, expected)
