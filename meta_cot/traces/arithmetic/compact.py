# SPDX-License-Identifier: Apache-2.0
"""A Countdown trace in few symbols, for small models and vocabularies.

  20,1,9>28:9+1=10,20;+30-10/2x20+1=21,9;+30-12x9-1=8,20;+28!S9-1=8,20+8=28

`a+b=c,r;` makes a state of c and the numbers left, `+30` joins the last two
numbers (the larger one first), `x` ends a dead end, `!` follows the target,
`@k;` goes on at node k and `S` begins the solution. docs/traces.md tells which
jumps need no `@`. Failed searches end without `S`, whatever they say there
(`Exhausted` is not written). `Start, Answer` alone is the solution only.
"""

from collections.abc import Sequence
import re

from meta_cot.traces import events as events_lib
from meta_cot.traces.arithmetic import operations

PROMPT = re.compile(
    f'{operations.NUMBER}(?:,{operations.NUMBER})*>{operations.NUMBER}:')
INNER = re.compile(
    f'({operations.OPERATION}),({operations.NUMBER}(?:,{operations.NUMBER})*);')
LEAF = re.compile(f'([-+*/])({operations.NUMBER})')
JUMP = re.compile('@([0-9]{1,9});')
SOLUTION = re.compile(f'S({operations.OPERATION}(?:,{operations.OPERATION})*)')


def spans(events: Sequence[events_lib.Event]) -> list[events_lib.Span]:
  """The text in pieces; see `format.spans`."""
  return _Writer(events).write()


def prompt(question: str) -> str:
  """The text before the search."""
  operations.question(question)
  return f'{question}:'


def parse(text: str) -> tuple[events_lib.Event, ...]:
  """Reads a whole trace or solution; see `format.parse`."""
  return _Reader(text).read()


def leaf_text(numbers: Sequence[int], symbol: str, result: str) -> str:
  """The operation that joins the last two numbers, the larger one first."""
  return f'{max(numbers)}{symbol}{min(numbers)}={result}'


def implied_jump(
    previous: events_lib.Step | None, sizes: Sequence[int], here: int, size: int
) -> int | None:
  """Where the search stands for a step to `size` numbers if no `@` says so.

  A step to m numbers belongs to a node of m + 1: the state just made, else the
  present one; after a dead end, the root.

  Args:
    previous: the step before; None at the beginning.
    sizes: how many numbers every node has.
    here: the present node.
    size: how many numbers the step leaves.

  Returns:
    The node, or None if no such node has size + 1 numbers.
  """
  if previous is None:
    candidates = (here,)
  elif previous.outcome:
    candidates = (0,)
  else:
    candidates = (previous.node, here)
  for node in candidates:
    if sizes[node] == size + 1:
      return node
  return None


class _Writer:
  """Turns events into spans."""

  def __init__(self, events: Sequence[events_lib.Event]):
    self._events = events
    self._flags = events_lib.on_path(events)
    self._spans = []
    self._numbers = []
    self._sizes = []
    self._previous = None  # the step before
    self._moves = []  # (node, on_path) of the jumps since
    self._here = 0

  def write(self) -> list[events_lib.Span]:
    question = self._events[0].question
    self._numbers.append(operations.question(question)[0])
    self._sizes.append(len(self._numbers[0]))
    self._spans.append(events_lib.Span(prompt(question), 'prompt', False))
    for event, on_path in zip(self._events, self._flags, strict=True):
      if isinstance(event, events_lib.Jump):
        self._check_goes_on()
        if not 0 <= event.node < len(self._numbers):
          raise ValueError(
              f'jump to node {event.node}, which no step has made yet.')
        self._moves.append((event.node, on_path))
        self._here = event.node
      elif isinstance(event, events_lib.Step):
        self._write_step(event, on_path)
    self._end_visit()
    for event in self._events:
      if isinstance(event, events_lib.Answer):
        self._spans.append(events_lib.Span(_solution(event), 'solution', True))
    return self._spans

  def _write_step(self, step: events_lib.Step, on_path: bool) -> None:
    if step.parent != self._here or step.node != len(self._sizes):
      raise ValueError(
          f'node {step.node} made at node {step.parent}: compact expected node '
          f'{len(self._sizes)} at node {self._here}, where the search stands.')
    self._check_goes_on()
    numbers = _step_numbers(step, self._numbers[step.parent])
    previous, moves = self._previous, tuple(node for node, _ in self._moves)
    between = {(step.parent,): '', (): ','}
    text = ''
    if (previous is not None and previous.outcome and moves in between
        and previous.parent == step.parent):
      text = between[moves]  # the next leaf of the same state
    else:
      before = previous.parent if previous else 0
      implied = implied_jump(previous, self._sizes, before, len(numbers))
      self._end_visit(
          is_implied=moves == (() if implied == before else (implied,)))
    if len(numbers) == 1:
      operation = operations.parse(step.text)
      mark = '!' if step.outcome == 'goal' else ''
      text += f'{operation.symbol}{operation.result}{mark}'
    else:
      text += f'{step.text},{",".join(map(str, numbers[:-1]))};'
    self._spans.append(events_lib.Span(text, 'search', on_path))
    self._numbers.append(numbers)
    self._sizes.append(len(numbers))
    self._previous, self._moves = step, []

  def _check_goes_on(self) -> None:
    if self._previous is not None and self._previous.outcome == 'goal':
      raise ValueError(
          f'node {self._previous.node} is the goal, but the search goes on; '
          'compact cannot write it.')

  def _end_visit(self, is_implied: bool = False) -> None:
    """Writes the end of a dead end and the jumps that are not implied."""
    if self._previous is not None and self._previous.outcome == 'dead_end':
      span = self._spans[-1]
      self._spans[-1] = events_lib.Span(
          span.text + 'x', span.kind, span.on_path)
    if not is_implied:
      for node, on_path in self._moves:
        self._spans.append(events_lib.Span(f'@{node};', 'search', on_path))


def _step_numbers(
    step: events_lib.Step, parent: Sequence[int]) -> tuple[int, ...]:
  """The numbers after `step`, in the order that can be written."""
  operation = operations.parse(step.text)
  numbers = operations.numbers(step.state)
  where = f'node {step.node}: step {step.text!r} to {step.state!r}'
  if operation is None or numbers is None:
    raise ValueError(
        f'{where} cannot be written in compact; it must be one operation '
        'between non-negative integers, such as 9-3=6 to 4,6.')
  if len(numbers) != len(parent) - 1 or numbers[-1] != operation.result:
    raise ValueError(
        f'{where} cannot be written in compact; the state must have one number '
        'less than the one before, and the result last.')
  if (len(numbers) == 1) != bool(step.outcome):
    raise ValueError(
        f'{where} has outcome {step.outcome!r}; compact writes goal and '
        'dead_end where one number is left, and only there.')
  if len(numbers) == 1:
    leaf = leaf_text(parent, operation.symbol, str(operation.result))
    if step.text != leaf:
      raise ValueError(
          f'{where} does not join {list(parent)} as {leaf!r}, larger number '
          "first; generate traces for compact with operands='descending'.")
  return numbers


def _solution(answer: events_lib.Answer) -> str:
  text = 'S' + answer.text.replace('\n', ',')
  if SOLUTION.fullmatch(text) is None:
    raise ValueError(
        f'answer {answer.text!r} cannot be written in compact; it must be one '
        'operation between non-negative integers per line.')
  return text


class _Reader:
  """Reads text into events."""

  def __init__(self, text: str):
    self._text = text
    self._at = 0
    self._here = 0
    self._previous = None
    self._is_open = False  # among the leaves of a state
    self._is_placed = False  # an `@` has said where the search stands
    self._events = []
    self._numbers = []
    self._sizes = []

  def read(self) -> tuple[events_lib.Event, ...]:
    question = self._take(PROMPT, 'numbers>target:')[0][:-1]
    self._events.append(events_lib.Start(question))
    self._numbers.append(operations.question(question)[0])
    self._sizes.append(len(self._numbers[0]))
    while self._at < len(self._text):
      character = self._text[self._at]
      if character == '@' and not self._is_open:
        self._read_jump()
      elif character in '+-*/,' or (character == 'x' and self._is_open):
        self._read_leaf()
        if self._events[-1].outcome == 'goal':
          break
      elif character.isdigit() and not self._is_open:
        self._read_inner()
      else:
        break
    if self._is_open:
      raise self._error('a further value, x or !')
    if self._text[self._at:self._at + 1] == 'S':
      solution = self._take(SOLUTION, 'S and the solution')[1]
      self._events.append(events_lib.Answer(solution.replace(',', '\n')))
    if self._at < len(self._text):
      raise self._error('a step, @, S or the end of the text')
    return tuple(self._events)

  def _read_jump(self) -> None:
    node = int(self._take(JUMP, '@, the index of a node and ;')[1])
    if node >= len(self._numbers):
      raise self._error(f'after @ with a node below {len(self._numbers)}')
    self._jump(node)
    self._is_placed = True

  def _jump(self, node: int) -> None:
    self._events.append(events_lib.Jump(node))
    self._here = node

  def _place(self, size: int) -> None:
    """Adds the jump that needs no `@` and checks that the step fits."""
    if not self._is_placed:
      node = implied_jump(self._previous, self._sizes, self._here, size)
      if node is not None and (node != self._here or self._needs_jump()):
        self._jump(node)
    if self._sizes[self._here] != size + 1:
      raise self._error(
          f'at a state of {size + 1} numbers (node {self._here} has '
          f'{self._sizes[self._here]}); @ must name the state')

  def _needs_jump(self) -> bool:
    return self._previous is not None and bool(self._previous.outcome)

  def _read_inner(self) -> None:
    match = self._take(INNER, 'an operation, the numbers left and ;')
    left = operations.numbers(match[2])
    self._place(len(left) + 1)
    result = operations.parse(match[1]).result
    self._add(match[1], (*left, result), '')

  def _read_leaf(self) -> None:
    if self._is_open:
      if self._text[self._at] == ',':
        self._at += 1
      else:
        self._jump(self._here)
    else:
      self._place(1)
    match = self._take(LEAF, 'an operator and a value')
    text = leaf_text(self._numbers[self._here], match[1], match[2])
    after = self._text[self._at:self._at + 1]
    self._add(text, (int(match[2]),), 'goal' if after == '!' else 'dead_end')
    self._is_open = after not in ('!', 'x')
    self._at += not self._is_open

  def _add(self, text: str, numbers: tuple[int, ...], outcome: str) -> None:
    step = events_lib.Step(
        len(self._numbers), self._here, text, ','.join(map(str, numbers)),
        outcome)
    self._events.append(step)
    self._numbers.append(numbers)
    self._sizes.append(len(numbers))
    self._previous, self._is_placed = step, False

  def _take(self, pattern: re.Pattern, expected: str) -> re.Match:
    match = pattern.match(self._text, self._at)
    if match is None:
      raise self._error(expected)
    self._at = match.end()
    return match

  def _error(self, expected: str) -> ValueError:
    return ValueError(
        f'position {self._at}: {self._text[self._at:self._at + 20]!r} is not '
        f'{expected}.')
