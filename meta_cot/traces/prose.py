# SPDX-License-Identifier: Apache-2.0
"""A search in plain words, a line each (arXiv 2501.04682, Appendix E).

For any task: questions, steps and states are whatever one line can hold, as
every line begins with words that say what the rest of it is. docs/traces.md has
the grammar and an example. `Start, Answer` alone is the solution only.
"""

from collections.abc import Sequence
import dataclasses
import re

from meta_cot.traces import events as events_lib
from meta_cot.traces import reading as reading_lib

OPENING = 'Answer: '
STEP_END = '\n'
EVENT_ENDS = ('\n',)

_QUESTION = 'Question: '
_STATE = 'This gives '
_OUTCOMES = {'dead_end': 'A dead end.', 'goal': 'Solved.'}
_OUTCOME_OF = {words: outcome for outcome, words in _OUTCOMES.items()}
_EXHAUSTED = 'Nothing is left to try.'
_ROOT = ' the start'
# Where a step belongs: where the search stands, to the node that the step
# before it made, to the parent of that node.
_HERE, _ON, _BESIDE = 'Try ', 'Then ', 'Alternatively, '

# Its own words, for a tokenizer that has a token for each.
PIECES = (
    _QUESTION, _HERE, _ON, _BESIDE, _STATE, *_OUTCOMES.values(),
    'Wait, back to: ', f'Wait, back to{_ROOT}', _EXHAUSTED, OPENING)

_PROMPT = re.compile(f'{_QUESTION}(.*)\n')
_LINES = {
    'step': re.compile(f'({_HERE}|{_ON}|{_BESIDE})(.+)'),
    'state': re.compile(f'{_STATE}(.*)'),
    'outcome': re.compile('|'.join(map(re.escape, _OUTCOMES.values()))),
    'value': re.compile(r'It looks (100|[1-9]?[0-9])% promising\.'),
    'jump': re.compile(
        f'Wait, back to(?:{_ROOT}|(?: number ([1-9][0-9]{{0,8}}))?: (.*))'),
    'exhausted': re.compile(re.escape(_EXHAUSTED)),
}
_STATE_EXPECTED = 'This gives and a state'
_EXPECTED = (
    'Try, Then or Alternatively, and a step; Wait, back to; '
    'Nothing is left to try. or Answer:')


def spans(events: Sequence[events_lib.Event]) -> list[events_lib.Span]:
  """The text in pieces; see `format.spans`."""
  return _Writer(events).write()


def prompt(question: str) -> str:
  """The text before the search."""
  return f'{_QUESTION}{_line("question", question)}\n'


def read(text: str) -> events_lib.Reading:
  """Reads any text as far as it can be read; see `format.read`.

  A line that cannot be read, or that stands at the wrong place, is one fault.
  """
  prompt = _PROMPT.match(text)
  if prompt is None:
    return reading_lib.unread(text, 'Question: ... and a line feed', OPENING)
  return _Reader(text, prompt).read()


def _line(what: str, text: str, is_empty: bool = True) -> str:
  """The text, which fits in a line; a ValueError says that it does not."""
  if '\n' in text or not (text or is_empty):
    raise ValueError(
        f'{what} {text!r} cannot be written in prose; it must be one line'
        f'{"" if is_empty else ", not empty"}.')
  return text


class _Names:
  """What the nodes are called: by their states, and which one of equal ones."""

  def __init__(self):
    self._states = ['']  # of every node; the root has no name
    self._numbers = [0]  # of every node among those with the same state, from 1
    self._nodes = {}  # state -> nodes

  def __len__(self):
    return len(self._states)

  def add(self, state: str) -> None:
    """Names the next node."""
    same = self._nodes.setdefault(state, [])
    same.append(len(self._states))
    self._states.append(state)
    self._numbers.append(len(same))

  def name(self, node: int) -> str:
    """The name of a node; without a number it is the newest."""
    if node == 0:
      return _ROOT
    state, number = self._states[node], self._numbers[node]
    is_newest = number == len(self._nodes[state])
    return f': {state}' if is_newest else f' number {number}: {state}'

  def find(self, state: str | None, number: str | None) -> int | None:
    """The node called so; None if there is none."""
    if state is None:
      return 0
    same = self._nodes.get(state, ())
    place = int(number or len(same))
    return same[place - 1] if 0 < place <= len(same) else None


class _Writer:
  """Turns events into spans."""

  def __init__(self, events: Sequence[events_lib.Event]):
    self._events = events
    self._names = _Names()
    self._here = 0
    self._previous = None  # the step before
    self._words = _HERE  # of the next step

  def write(self) -> list[events_lib.Span]:
    flags = events_lib.on_path(self._events)
    result = [events_lib.Span(
        prompt(self._events[0].question), 'prompt', False)]
    for i, event in enumerate(self._events[1:], 1):
      kind, text = 'search', ''
      if isinstance(event, events_lib.Step):
        text = self._step(event)
      elif isinstance(event, events_lib.Jump):
        text = self._jump(i, event)
      elif isinstance(event, events_lib.Value):
        text = self._value(i, event)
      elif isinstance(event, events_lib.Exhausted):
        text = f'{_EXHAUSTED}\n'
      elif i == len(self._events) - 1 and isinstance(event, events_lib.Answer):
        kind, text = 'solution', _answer(event)
      else:
        raise ValueError(
            f'event {i}, {event!r}, cannot be written in prose there; Start is '
            'the first one and Answer the last one.')
      if text:
        result.append(events_lib.Span(text, kind, flags[i]))
    return result

  def _step(self, step: events_lib.Step) -> str:
    if step.parent != self._here or step.node != len(self._names):
      raise ValueError(
          f'node {step.node} made at node {step.parent}: the search stands at '
          f'node {self._here}, the next node is {len(self._names)}.')
    what = f'node {step.node}:'
    text = _line(f'{what} step', step.text, is_empty=False)
    state = _line(f'{what} state', step.state)
    words, self._words = self._words, _HERE
    self._names.add(state)
    self._previous = step
    told = f'{words}{text}\n{_STATE}{state}\n'
    return told + f'{_OUTCOMES[step.outcome]}\n' if step.outcome else told

  def _jump(self, i: int, jump: events_lib.Jump) -> str:
    """Nothing where the words of the step behind it say so."""
    if not 0 <= jump.node < len(self._names):
      raise ValueError(
          f'jump to node {jump.node}, which no step has made yet.')
    self._here, previous = jump.node, self._previous
    behind = self._events[i + 1] if i + 1 < len(self._events) else None
    if isinstance(behind, events_lib.Step) and isinstance(
        self._events[i - 1], events_lib.Step | events_lib.Value):
      implied = {previous.node: _ON, previous.parent: _BESIDE}
      if jump.node in implied:
        self._words = implied[jump.node]
        return ''
    return f'Wait, back to{self._names.name(jump.node)}\n'

  def _value(self, i: int, value: events_lib.Value) -> str:
    step, number = self._events[i - 1], value.value
    if not isinstance(step, events_lib.Step) or step.node != value.node:
      raise ValueError(
          f'value of node {value.node} cannot be written in prose there; it '
          'must stand behind the step that makes the node.')
    if not 0 <= number <= 1 or round(number, 2) != number:
      raise ValueError(
          f'node {value.node}: value {number} cannot be written in prose; it '
          'must be in 0..1, with two decimals.')
    return f'It looks {round(100 * number)}% promising.\n'


def _answer(answer: events_lib.Answer) -> str:
  for i, step in enumerate(answer.text.split('\n'), 1):
    _line(f'answer line {i}:', step, is_empty=False)
  return OPENING + answer.text


class _Reader(reading_lib.Reader):
  """Reads lines into events and faults."""

  def __init__(self, text: str, prompt: re.Match):
    super().__init__(prompt[1], text, prompt.end())  # where a line begins
    self._names = _Names()
    self._previous = None  # the step before
    self._tried = None  # the step that the line before tries

  def read(self) -> events_lib.Reading:
    answer, text = None, self._text
    while self._at < len(text):
      if text.startswith(OPENING, self._at):
        if self._tried is not None:
          self.fault('format', self._at, _STATE_EXPECTED)
        answer = self._read_answer()
        break
      end = text.find('\n', self._at)
      if end < 0:
        self.fault('unfinished', self._at, f'a whole line: {self._expected}')
        break
      self._read_line(text[self._at:end])
      self._at = end + 1
    else:
      if self._tried is not None:
        self.fault('unfinished', self._at, _STATE_EXPECTED)
    return self.reading(answer)

  @property
  def _expected(self) -> str:
    return _EXPECTED if self._tried is None else _STATE_EXPECTED

  def _read_line(self, line: str) -> None:
    kind, match = next((
        (kind, match) for kind, pattern in _LINES.items()
        if (match := pattern.fullmatch(line))), (None, None))
    expected, tried, self._tried = self._expected, self._tried, None
    if kind is None or (kind == 'state') != (tried is not None):
      self.fault('format', self._at, expected)
    elif kind == 'step':
      self._read_step(*match.groups())
    elif kind == 'state':
      self._read_state(tried, *match.groups())
    elif kind == 'jump':
      self._read_jump(*match.groups())
    elif kind == 'exhausted':
      self.events.append(events_lib.Exhausted())
    elif self.events[-1] is not self._previous:
      self.fault('format', self._at, expected)
    elif kind == 'value':
      self.events.append(
          events_lib.Value(self._previous.node, int(match[1]) / 100))
    elif self._previous.outcome:
      self.fault('format', self._at, expected)
    else:
      self._previous = self.events[-1] = dataclasses.replace(
          self._previous, outcome=_OUTCOME_OF[line])

  def _read_step(self, words: str, step: str) -> None:
    if words != _HERE:
      if self._previous is None:
        self.fault('format', self._at, 'Try and a step: no step is before it')
        return
      self.jump(
          self._previous.node if words == _ON else self._previous.parent)
    self._tried = step

  def _read_state(self, tried: str, state: str) -> None:
    self._previous = events_lib.Step(
        len(self._names), self.here, tried, state, '')
    self.events.append(self._previous)
    self._names.add(state)

  def _read_jump(self, number: str | None, state: str | None) -> None:
    node = self._names.find(state, number)
    if node is None:
      self.fault(
          'illegal_state', self._at, 'Wait, back to a state made before')
    else:
      self.jump(node)

  def _read_answer(self) -> str:
    """The answer; '' if a step of it is empty."""
    start = self._at + len(OPENING)
    steps = self._text[start:].split('\n')
    if '' not in steps:
      self.events.append(events_lib.Answer(self._text[start:]))
      return self._text[start:]
    first = steps.index('')
    is_cut = first == len(steps) - 1
    at = start + sum(len(step) + 1 for step in steps[:first])
    self.fault('unfinished' if is_cut else 'format', at, 'a step')
    return ''
