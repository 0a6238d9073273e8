# SPDX-License-Identifier: Apache-2.0
"""The text of Stream of Search (arXiv 2404.03683) for Countdown.

Every line of the search is a full sentence; see docs/traces.md for the grammar.
Traces of the symbolic strategies are rendered byte for byte as by the original.
`Start, Answer` alone is its solution-only text ("optimal path"), except that
equal numbers are all kept. The style has no words for an `Answer` after a
search: `parse` derives it from the path to the goal.
"""

from collections.abc import Sequence
import re

from meta_cot.traces import events as events_lib
from meta_cot.traces.arithmetic import operations

NO_SOLUTION = 'No solution found.'

_LIST = r'\[([0-9, ]*)\]'
_OPS = rf"\[((?:'{operations.OPERATION}'(?:, )?)*)\]"
STATE = re.compile(
    rf'Current State: ({operations.NUMBER}):{_LIST}, Operations: {_OPS}')
EXPLORE = re.compile(
    rf'Exploring Operation: ({operations.OPERATION}), '
    rf'Resulting Numbers: {_LIST}')
COMPARE = re.compile(
    rf'({operations.NUMBER}),({operations.NUMBER}) '
    '(equal: Goal Reached|unequal: No Solution)')
GENERATED = re.compile(
    rf'Generated Node #(0(?:,[0-9]+)*): ({operations.NUMBER}):{_LIST} '
    rf'Operation: ({operations.OPERATION})')
PATH_NODE = re.compile(
    rf'Generated Node #([0-9]+): {_LIST} '
    rf'from Operation: ({operations.OPERATION})')
MOVE = re.compile('Moving to Node #(0(?:,[0-9]+)*)')


class Tree:
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
  numbers, target = operations.question(events[0].question)
  result = [events_lib.Span(_state(target, numbers, ()), 'prompt', False)]
  if not any(isinstance(event, events_lib.Step) for event in events):
    for event in events[1:]:
      if isinstance(event, events_lib.Answer):
        result += _solution_spans(event.text, numbers, target)
    return result
  tree, here = Tree(numbers), 0
  for event, on_path in zip(events, events_lib.on_path(events), strict=True):
    if isinstance(event, events_lib.Step):
      if event.parent != here:
        raise ValueError(
            f'node {event.node}: made at node {event.parent} while the search '
            f'stands at node {here}; put a Jump before it.')
      tree.add(event)
      for kind, text in _step(event, tree, target):
        result.append(events_lib.Span(text, kind, on_path))
    elif isinstance(event, events_lib.Jump):
      here = event.node
      if here not in tree.index:
        raise ValueError(f'jump to node {here}, which no step has made yet.')
      text = f'Moving to Node #{tree.index[here]}\n' + _state(
          target, tree.numbers[here], tree.operations[here])
      result.append(events_lib.Span(text, 'search', on_path))
    elif isinstance(event, events_lib.Exhausted):
      result.append(events_lib.Span(NO_SOLUTION, 'search', False))
  _check_answer(events, tree)
  return result


def prompt(question: str) -> str:
  """The text before the search."""
  numbers, target = operations.question(question)
  return _state(target, numbers, ())


def parse(text: str) -> tuple[events_lib.Event, ...]:
  """Reads a whole trace or solution; see `format.parse`."""
  lines = text.split('\n')
  reader = _Reader(lines)
  return reader.read()


def read_numbers(text: str) -> tuple[int, ...] | None:
  """Reads what stands inside a printed list of numbers; None if it is wrong."""
  return operations.numbers(text.replace(', ', ','))


def read_operations(text: str) -> tuple[str, ...]:
  """Reads what stands inside a printed list of operations."""
  return tuple(re.findall(operations.OPERATION, text))


def _state(target: int, numbers: Sequence[int], steps: Sequence[str]) -> str:
  return (f'Current State: {target}:{list(numbers)}, '
          f'Operations: {list(steps)}\n')


def _step(step: events_lib.Step, tree: Tree, target: int):
  numbers = tree.numbers[step.node]
  if (len(numbers) == 1) != bool(step.outcome):
    raise ValueError(
        f'node {step.node}: outcome {step.outcome!r} with numbers '
        f'{list(numbers)}; stream_of_search writes goal and dead_end where one '
        'number is left, and only there.')
  yield 'search', (f'Exploring Operation: {step.text}, '
                   f'Resulting Numbers: {list(numbers)}\n')
  if step.outcome == 'goal':
    # There is no separate solution in this style: reaching the goal is it.
    yield 'solution', f'{numbers[0]},{target} equal: Goal Reached\n'
  elif step.outcome == 'dead_end':
    yield 'search', f'{numbers[0]},{target} unequal: No Solution\n'
  else:
    yield 'search', (f'Generated Node #{tree.index[step.node]}: '
                     f'{target}:{list(numbers)} Operation: {step.text}\n')


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
    lines.append(f'Exploring Operation: {text}, '
                 f'Resulting Numbers: {list(numbers)}\n')
    if len(numbers) > 1:
      lines.append(f'Generated Node #{n}: {list(numbers)} '
                   f'from Operation: {text}\n' + _state(target, numbers, done))
  if numbers != (target,):
    raise ValueError(
        f'answer ends with {list(numbers)}, not with the target {target}; '
        'stream_of_search cannot write it.')
  lines.append(f'{target},{target} equal: Goal Reached\n')
  return [events_lib.Span(line, 'solution', True) for line in lines]


def _check_answer(events: Sequence[events_lib.Event], tree: Tree) -> None:
  reached = [event for event in events
             if isinstance(event, events_lib.Step) and event.outcome == 'goal']
  for event in events:
    if isinstance(event, events_lib.Answer):
      told = '\n'.join(tree.operations[reached[0].node]) if reached else None
      if event.text != told:
        raise ValueError(
            f'answer {event.text!r} differs from the path to the goal '
            f'{told!r}; stream_of_search cannot write it.')


class _Reader:
  """Reads lines into events."""

  def __init__(self, lines: list[str]):
    self._lines = lines
    self._at = 0
    self._here = 0
    self._events = []
    self._nodes = {}  # (index, operations) -> node
    self._path = []  # operations of a solution-only text

  def read(self) -> tuple[events_lib.Event, ...]:
    target, numbers, _ = self._match(STATE, 'Current State: ...').groups()
    numbers = self._numbers(numbers)
    question = f'{",".join(map(str, numbers))}>{target}'
    self._events.append(events_lib.Start(question))
    self._tree = Tree(numbers)
    while self._lines[self._at]:
      if self._lines[self._at] == NO_SOLUTION:
        self._at += 1
        self._events.append(events_lib.Exhausted())
        if self._at == len(self._lines):
          return tuple(self._events)
        raise self._error('the end of the text')
      if self._lines[self._at].startswith('Moving'):
        self._read_jump()
      elif self._read_step():
        break
    if self._lines[self._at:] != ['']:
      raise self._error('the end of the text after a line feed')
    return tuple(self._events)

  def _read_jump(self) -> None:
    index = self._match(MOVE, 'Moving to Node #...')[1]
    steps = read_operations(self._match(STATE, 'Current State: ...')[3])
    if (index, steps) not in self._nodes and (index, steps) != ('0', ()):
      self._at -= 1
      raise self._error(f'the state of a node #{index} made before')
    self._here = self._nodes.get((index, steps), 0)
    self._events.append(events_lib.Jump(self._here))

  def _read_step(self) -> bool:
    """Reads a step; whether it reached the goal."""
    explored = self._match(EXPLORE, 'Exploring Operation: ... or Moving to ...')
    text, numbers = explored[1], self._numbers(explored[2])
    line = self._lines[self._at]
    if PATH_NODE.fullmatch(line):
      self._match(PATH_NODE, 'Generated Node #...')
      self._match(STATE, 'Current State: ...')
      self._path.append(text)
      return False
    compared = COMPARE.fullmatch(line)
    if compared is None:
      self._match(GENERATED, 'Generated Node #... or equal / unequal')
      outcome = ''
    else:
      self._match(COMPARE, 'equal or unequal')
      outcome = 'goal' if compared[3].startswith('equal') else 'dead_end'
    if self._path:
      self._events.append(events_lib.Answer('\n'.join((*self._path, text))))
      return True
    node = len(self._tree.index)
    step = events_lib.Step(
        node, self._here, text, ','.join(map(str, numbers)), outcome)
    self._tree.add(step)
    self._events.append(step)
    steps = self._tree.operations[node]
    self._nodes.setdefault((self._tree.index[node], steps), node)
    if outcome == 'goal':
      self._events.append(events_lib.Answer('\n'.join(steps)))
    return outcome == 'goal'

  def _match(self, pattern: re.Pattern, expected: str) -> re.Match:
    match = pattern.fullmatch(self._lines[self._at])
    if match is None or self._at + 1 == len(self._lines):
      raise self._error(f'{expected!r} and a line feed')
    self._at += 1
    return match

  def _numbers(self, text: str) -> tuple[int, ...]:
    numbers = read_numbers(text)
    if numbers is None:
      self._at -= 1
      raise self._error('a list of non-negative integers')
    return numbers

  def _error(self, expected: str) -> ValueError:
    return ValueError(
        f'line {self._at + 1}: {self._lines[self._at][:80]!r} is not '
        f'{expected}.')
