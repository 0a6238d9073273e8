# SPDX-License-Identifier: Apache-2.0
"""A Countdown trace in few symbols, for small models and vocabularies.

  20,1,9>28:9+1=10,20;+30-10/2x20+1=21,9;+30-12x9-1=8,20;+28!S9-1=8,20+8=28

`a+b=c,r;` makes a state of c and the numbers left, `+30` joins the last two
numbers (the larger one first), `x` ends a dead end, `!` follows the target,
`@k;` goes on at node k and `S` begins the solution. docs/traces.md tells which
jumps need no `@`. Failed searches end without `S`, whatever they say there
(`Exhausted` is not written). `Start, Answer` alone is the solution only.

`compact_digits` says of every digit of a last number whether the target has it
at the same place, by `'`: with the target 28 these are `+2'8'!` and `+2'9x`.
Where a token is a digit, equality becomes a comparison of two tokens, which is
learned for targets that were never seen, too.

`compact_threads` may open threads: `&` asks for a search below each of the
states made since the last `&`; what these return follows, `x` or a solution:

  20,1,9>28:9+1=10,20;9-1=8,20;&x!9-1=8,20+8=28;S9-1=8,20+8=28

The text of a thread is a search that begins with `&` and the step it was opened
for: `20,1,9>28:&9-1=8,20;+28!S9-1=8,20+8=28`. `compact_digits_threads` does
both.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import re
from typing import ClassVar

from meta_cot.traces import events as events_lib
from meta_cot.traces import reading as reading_lib
from meta_cot.traces.arithmetic import operations
from meta_cot.traces.arithmetic import replay as replay_lib

# What opens threads, and the lines that they return: NOTHING, or FOUND, the
# solution and LINE_END.
SPAWN, FOUND, NOTHING, LINE_END = '&', '!', 'x', ';'

_PROMPT = re.compile(f'({operations.NUMBERS}>{operations.NUMBER}):')
_INNER = re.compile(f'({operations.OPERATION}),({operations.NUMBERS});')
_LEAF = re.compile(f'([-+*/])({operations.NUMBER})')
_COMPARED_LEAF = re.compile("([-+*/])((?:[0-9]'?){1,12})")
_JUMP = re.compile('@([0-9]{1,9});')
_STEPS = f'{operations.OPERATION}(?:,{operations.OPERATION})*'
_SOLUTION = re.compile(f'S{_STEPS}')
_JOIN = re.compile(f'&((?:x|!{_STEPS};)*)')
_LINE = re.compile('x|!([^;]*);')
_EXPECTED = {
    '@': '@, the index of a node and ;',
    **dict.fromkeys('0123456789', 'an operation, the numbers left and ;'),
}
_UNFINISHED = re.compile("S?[-+*/=,@0-9']*")  # what a cut text may end with
_UNFINISHED_LINE = re.compile("[S!]?[-+*/=,@0-9']*")


@dataclasses.dataclass(frozen=True)
class Compact:
  """The style; see `format`."""

  is_compared: bool = False  # the digits of last numbers, with the target's
  has_threads: bool = False  # SPAWN and what follows it
  OPENING: ClassVar[str] = 'S'
  STEP_END: ClassVar[str] = ','
  # Of threads, each one token of a policy that opens them; a message ends as a
  # line does.
  MARKS: ClassVar[Mapping[str, str]] = dict(
      spawn=SPAWN, message_end=LINE_END, opening='S', found=FOUND,
      nothing=NOTHING, line_end=LINE_END)
  EVENT_ENDS: ClassVar[tuple[str, ...]] = (';', 'x', '!')

  def prompt(self, question: str) -> str:
    """The text before the search."""
    operations.question(question)
    return f'{question}:'

  def spans(
      self, events: Sequence[events_lib.Event]) -> list[events_lib.Span]:
    """The text in pieces; see `format.spans`."""
    return _Writer(self, events).write()

  def read(self, text: str) -> events_lib.Reading:
    """Reads any text as far as it can be read; see `format.read`."""
    prompt = _PROMPT.match(text)
    if prompt is None:
      return reading_lib.unread(text, 'numbers>target:', self.OPENING)
    return _Reader(self, text, prompt).read()

  def number(self, number: int, target: int) -> str:
    """The last number of a state, as it is written."""
    if not self.is_compared:
      return str(number)
    return ''.join(
        digit + "'" * (digit == other) for digit, other in
        itertools.zip_longest(str(number), str(target)[:len(str(number))]))


def _leaf_text(numbers: Sequence[int], symbol: str, result: str) -> str:
  """The operation that joins the last two numbers, the larger one first."""
  return f'{max(numbers)}{symbol}{min(numbers)}={result}'


def _implied_jump(
    previous: events_lib.Step | None, states: Sequence[Sequence[int]],
    here: int, size: int,
) -> int | None:
  """Where the search stands for a step to `size` numbers if no `@` says so.

  A step to m numbers belongs to a node of m + 1: the state just made by the
  step `previous`, else the present one; after a dead end, the root. None if no
  such node has so many.
  """
  if previous is None:
    candidates = (here,)
  elif previous.outcome:
    candidates = (0,)
  else:
    candidates = (previous.node, here)
  for node in candidates:
    if len(states[node]) == size + 1:
      return node
  return None


class _Writer:
  """Turns events into spans."""

  def __init__(self, style: Compact, events: Sequence[events_lib.Event]):
    self._style = style
    self._events = events
    self._flags = events_lib.on_path(events)
    self._spans = []
    self._numbers = []
    self._previous = None  # the step before, since the last threads
    self._before = 0  # where the search stood before that step
    self._moves = []  # (node, on_path) of the jumps since
    self._here = self._target = 0

  def write(self) -> list[events_lib.Span]:
    question = self._events[0].question
    numbers, self._target = operations.question(question)
    self._numbers.append(numbers)
    prompt = self._style.prompt(question)
    self._spans.append(events_lib.Span(prompt, 'prompt', False))
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
      elif isinstance(event, events_lib.Join):
        self._write_join(event)
    self._end_visit()
    for event in self._events:
      if isinstance(event, events_lib.Answer):
        self._spans.append(events_lib.Span(_solution(event), 'solution', True))
    return self._spans

  def _write_step(self, step: events_lib.Step, on_path: bool) -> None:
    if step.parent != self._here or step.node != len(self._numbers):
      raise ValueError(
          f'node {step.node} made at node {step.parent}: the search stands at '
          f'node {self._here}, the next node is {len(self._numbers)}.')
    self._check_goes_on()
    numbers = _step_numbers(step, self._numbers[step.parent])
    previous, moves = self._previous, tuple(node for node, _ in self._moves)
    between = {(step.parent,): '', (): ','}
    text = ''
    if (previous is not None and previous.outcome and moves in between
        and previous.parent == step.parent):
      text = between[moves]  # the next leaf of the same state
    else:
      before = previous.parent if previous else self._before
      implied = _implied_jump(
          previous, self._numbers, before, len(numbers))
      self._end_visit(
          is_implied=moves == (() if implied == before else (implied,)))
    if len(numbers) == 1:
      operation = operations.parse(step.text)
      mark = '!' if step.outcome == 'goal' else ''
      number = self._style.number(operation.result, self._target)
      text += f'{operation.symbol}{number}{mark}'
    else:
      text += f'{step.text},{",".join(map(str, numbers[:-1]))};'
    self._spans.append(events_lib.Span(text, 'search', on_path))
    self._numbers.append(numbers)
    self._previous, self._moves = step, []

  def _write_join(self, join: events_lib.Join) -> None:
    self._check_goes_on()
    if not self._style.has_threads or self._moves:
      raise ValueError(
          f'threads of node {self._here} cannot be written in this style, or '
          'here; compact_threads writes them where no jump stands before.')
    self._end_visit()
    self._spans += [
        events_lib.Span(SPAWN, 'search', False),
        events_lib.Span(''.join(
            FOUND + line.replace('\n', ',') + LINE_END if line else NOTHING
            for line in join.lines), 'joined', False)]
    self._before, self._previous = self._here, None

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
    leaf = _leaf_text(parent, operation.symbol, str(operation.result))
    if step.text != leaf:
      raise ValueError(
          f'{where} does not join {list(parent)} as {leaf!r}, larger number '
          "first; generate traces for compact with operands='descending'.")
  return numbers


def _solution(answer: events_lib.Answer) -> str:
  text = 'S' + answer.text.replace('\n', ',')
  if _SOLUTION.fullmatch(text) is None:
    raise ValueError(
        f'answer {answer.text!r} cannot be written in compact; it must be one '
        'operation between non-negative integers per line.')
  return text


class _Reader(replay_lib.Replay):
  """Reads text into events and faults."""

  OPENING, STEP_END = Compact.OPENING, Compact.STEP_END
  SOLUTION, UNFINISHED = _SOLUTION, _UNFINISHED

  def __init__(self, style: Compact, text: str, prompt: re.Match):
    super().__init__(prompt[1], text, prompt.end())
    self._style = style
    if style.has_threads:
      self.UNFINISHED = _UNFINISHED_LINE
    self._leaf = _COMPARED_LEAF if style.is_compared else _LEAF
    self._previous = None  # the step before
    self._is_placed = False  # an `@` has said where the search stands
    self.is_open = False  # among the leaves of a state
    self._is_over = False  # after the goal

  def _read_event(self) -> bool:
    return not self._is_over and (
        self._read_jump() or self._read_inner() or self._read_leaf()
        or self._read_join())

  def _solution_faults(self, steps: Sequence[str]):
    return operations.faults(steps, self.states[0], self.target)

  def _expected(self) -> str:
    if self.is_open:
      return 'a further value, x or !'
    if self._is_over:
      return 'S or the end of the text'
    return _EXPECTED.get(
        self._text[self._at:self._at + 1],
        'a step, @, S or the end of the text')

  def _read_jump(self) -> bool:
    match = _JUMP.match(self._text, self._at)
    if match is None or self.is_open:
      return False
    node = int(match[1])
    if node < len(self.states):
      self.jump(node)
    else:
      self.fault(
          'illegal_state', self._at, f'@ with a node below {len(self.states)}')
    self._is_placed = True
    self._at = match.end()
    return True

  def _read_inner(self) -> bool:
    match = _INNER.match(self._text, self._at)
    if match is None or self.is_open:
      return False
    operation = operations.parse(match[1])
    numbers = (*operations.numbers(match[2]), operation.result)
    fits = self._place(len(numbers))
    self.check(operation, numbers, self._at, is_grammar=not fits)
    self._add(match, match[1], numbers, '')
    return True

  def _read_leaf(self) -> bool:
    is_next = self.is_open and self._text[self._at:self._at + 1] == ','
    self._at += is_next
    match = self._leaf.match(self._text, self._at)
    if match is None:
      return False
    if self.is_open and not is_next:
      self.jump(self.here)
    result = int(match[2].replace("'", ''))
    step = f'{match[1]}{result}'
    mark = self._text[match.end():match.end() + 1]
    if self._place(1):
      step = _leaf_text(self.states[self.here], match[1], str(result))
      if mark:  # without one the number may be cut
        self.check(operations.parse(step), (result,), self._at)
    else:
      self.fault(
          'illegal_state', self._at,
          f'at a state of 2 numbers (node {self.here} has another size); @ '
          'must name the state')
    if mark:
      self.check_goal(result == self.target, mark == '!', self._at)
      number = self._style.number(result, self.target)
      if match[2] != number:
        self.fault('format', match.start(2), number)
    self._add(match, step, (result,), 'goal' if mark == '!' else 'dead_end')
    self._is_over = mark == '!'
    self.is_open = mark not in ('!', 'x')
    self._at += not self.is_open
    return True

  def _read_join(self) -> bool:
    match = _JOIN.match(self._text, self._at)
    if match is None or not self._style.has_threads or (
        self.is_open or self._is_placed):
      return False
    self.events.append(events_lib.Join(tuple(
        line[1].replace(',', '\n') if line[1] else ''
        for line in _LINE.finditer(match[1]))))
    self._previous = None
    self._at = match.end()
    return True

  def _place(self, size: int) -> bool:
    """Goes to where the step belongs; whether its numbers are so many."""
    if not (self._is_placed or self.is_open):
      node = _implied_jump(self._previous, self.states, self.here, size)
      if node is not None and node != self.here:
        self.jump(node)
    return len(self.states[self.here]) == size + 1

  def _add(
      self, match: re.Match, text: str, numbers: tuple[int, ...], outcome: str
  ) -> None:
    self._previous = self.step(text, numbers, outcome)
    self._is_placed = False
    self._at = match.end()
