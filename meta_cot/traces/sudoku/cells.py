# SPDX-License-Identifier: Apache-2.0
"""A search for the solution of a Sudoku, cell by cell, in few tokens.

  r1c4=2,r2c3=3,r3c3=4,r4c2=1:r1c1=1;r1c2=3xr1c2=4xr1c1=3;r1c2=4;r1c3=1; ...

`;` ends a step, `x` one to a dead end and `!` the one to the solution, which
then stands behind `S`, with `;` between its steps. A step to a cell that was
filled on the way goes back to before that, any other one on from the step
before it: so a depth-first search needs no other jumps. `@k;` goes on at node
k; `,` before a step stands for no jump where one would follow. docs/traces.md
has the grammar. `Start, Answer` alone is the solution only; `Exhausted` is not
written.
"""

from collections.abc import Sequence
import re

from meta_cot.traces import events as events_lib
from meta_cot.traces import reading as reading_lib
from meta_cot.traces.sudoku import grids

OPENING = 'S'
STEP_END = ';'
EVENT_ENDS = (';', 'x', '!')

_END_OF = dict(zip(('', 'dead_end', 'goal'), EVENT_ENDS, strict=True))
_OUTCOME_OF = {end: outcome for outcome, end in _END_OF.items()}
_STEP = grids.STEP
_PROMPT = re.compile(f'({_STEP}(?:,{_STEP})*):')
_TRIED = re.compile(f'(,?)({_STEP})([{"".join(EVENT_ENDS)}])')
_JUMP = re.compile('@([0-9]{1,9});')
_SOLUTION = re.compile(f'{OPENING}{_STEP}(?:{STEP_END}{_STEP})*')
_UNFINISHED = re.compile(  # what a cut text may end with
    '[S,;]?(?:r(?:[1-4](?:c(?:[1-4](?:=[1-4]?)?)?)?)?)?|@[0-9]*')


def spans(events: Sequence[events_lib.Event]) -> list[events_lib.Span]:
  """The text in pieces; see `format.spans`."""
  return _Writer(events).write()


def prompt(question: str) -> str:
  """The text before the search."""
  grids.of_question(question)
  return f'{question}:'


def read(text: str) -> events_lib.Reading:
  """Reads any text as far as it can be read; see `format.read`."""
  match = _PROMPT.match(text)
  try:
    givens = match and grids.of_question(match[1])
  except ValueError:  # a cell is there twice
    givens = None
  if givens is None:
    return reading_lib.unread(text, 'givens such as r1c1=1, and :', OPENING)
  return _Reader(text, match, givens).read()


class _Search:
  """The nodes made so far."""

  def __init__(self, givens: grids.Grid):
    self.grids = [givens]
    self.here = 0
    self.is_over = False  # the goal was made
    self._parents = [0]
    self._makers = [(None,) * len(givens)]  # of every cell, on the way there

  def implied(self, cell: int) -> tuple[int, ...]:
    """The jumps before a step to a cell that are not written."""
    newest = len(self.grids) - 1
    if newest == 0:
      return ()
    maker = self._makers[newest][cell]
    return (newest,) if maker is None else (self._parents[maker],)

  def add(self, step: grids.Step, outcome: str) -> int:
    """Makes a node where the search stands."""
    node, cell = len(self.grids), step[0]
    makers = self._makers[self.here]
    self.grids.append(grids.after(self.grids[self.here], step))
    self._parents.append(self.here)
    self._makers.append((*makers[:cell], node, *makers[cell + 1:]))
    self.is_over = outcome == 'goal'
    return node


class _Writer:
  """Turns events into spans."""

  def __init__(self, events: Sequence[events_lib.Event]):
    self._events = events
    self._search = _Search(grids.of_question(events[0].question))
    self._spans = []
    self._jumps = []  # (node, on_path) since the step before

  def write(self) -> list[events_lib.Span]:
    self._add(prompt(self._events[0].question), False, 'prompt')
    flags = events_lib.on_path(self._events)
    for event, on_path in zip(self._events, flags, strict=True):
      if isinstance(event, events_lib.Step):
        self._write_step(event, on_path)
      elif isinstance(event, events_lib.Jump):
        self._jump(event.node, on_path)
    self._write_jumps()
    for event in self._events:
      if isinstance(event, events_lib.Answer):
        self._add(_solution(event), True, 'solution')
    return self._spans

  def _add(self, text: str, on_path: bool, kind: str = 'search') -> None:
    self._spans.append(events_lib.Span(text, kind, on_path))

  def _jump(self, node: int, on_path: bool) -> None:
    self._check_goes_on()
    if not 0 <= node < len(self._search.grids):
      raise ValueError(f'jump to node {node}, which no step has made yet.')
    self._jumps.append((node, on_path))
    self._search.here = node

  def _write_jumps(self) -> None:
    for node, on_path in self._jumps:
      self._add(f'@{node};', on_path)
    self._jumps = []

  def _write_step(self, step: events_lib.Step, on_path: bool) -> None:
    search = self._search
    if step.parent != search.here or step.node != len(search.grids):
      raise ValueError(
          f'node {step.node} made at node {step.parent}: the search stands at '
          f'node {search.here}, the next node is {len(search.grids)}.')
    self._check_goes_on()
    filled = _filled(step, search.grids[search.here])
    jumps = tuple(node for node, _ in self._jumps)
    is_implied = jumps == search.implied(filled[0])
    if is_implied:
      self._jumps = []
    self._write_jumps()
    mark = '' if is_implied or jumps else ','
    self._add(f'{mark}{step.text}{_END_OF[step.outcome]}', on_path)
    search.add(filled, step.outcome)

  def _check_goes_on(self) -> None:
    if self._search.is_over:
      raise ValueError(
          f'node {len(self._search.grids) - 1} is the goal, but the search '
          'goes on; cells cannot write it.')


def _filled(step: events_lib.Step, grid: grids.Grid) -> grids.Step:
  """The cell that an event fills, and its digit."""
  filled = grids.step(step.text)
  if filled is None or step.state != grids.state(grids.after(grid, filled)):
    raise ValueError(
        f'node {step.node}: step {step.text!r} to {step.state!r} cannot be '
        'written in cells; it must fill one cell of the grid, such as r1c2=3.')
  return filled


def _solution(answer: events_lib.Answer) -> str:
  text = OPENING + answer.text.replace('\n', STEP_END)
  if _SOLUTION.fullmatch(text) is None:
    raise ValueError(
        f'answer {answer.text[:60]!r} cannot be written in cells; it must be '
        'one step per line, such as r1c2=3.')
  return text


class _Reader(reading_lib.Reader):
  """Reads text into events and faults."""

  OPENING, STEP_END = OPENING, STEP_END
  SOLUTION, UNFINISHED = _SOLUTION, _UNFINISHED

  def __init__(self, text: str, prompt: re.Match, givens: grids.Grid):
    super().__init__(prompt[1], text, prompt.end())
    self._search = _Search(givens)
    self._is_placed = False  # an `@` has said where the search stands

  def _read_event(self) -> bool:
    return not self._search.is_over and (
        self._read_jump() or self._read_step())

  def _expected(self) -> str:
    return 'S or the end of the text' if self._search.is_over else (
        'a step such as r1c2=3;, @, S or the end of the text')

  def _solution_faults(self, steps: Sequence[str]):
    return grids.faults(self._search.grids[0], [*map(grids.step, steps)])

  def jump(self, node: int) -> None:
    super().jump(node)
    self._search.here = node

  def _read_jump(self) -> bool:
    match = _JUMP.match(self._text, self._at)
    if match is None:
      return False
    node, limit = int(match[1]), len(self._search.grids)
    if node < limit:
      self.jump(node)
    else:
      self.fault(
          grids.ILLEGAL, self._at, f'@ with a node below {limit}')
    self._is_placed = True
    self._at = match.end()
    return True

  def _read_step(self) -> bool:
    match = _TRIED.match(self._text, self._at)
    if match is None:
      return False
    mark, text, end = match.groups()
    search, step = self._search, grids.step(text)
    if not (mark or self._is_placed):
      for node in search.implied(step[0]):
        self.jump(node)
    if not grids.is_legal(search.grids[search.here], step):
      self.fault(
          grids.ILLEGAL, match.start(2), 'an empty cell and a digit that '
          'clashes with no other', is_grammar=False)
    parent, outcome = search.here, _OUTCOME_OF[end]
    node = search.add(step, outcome)
    grid = search.grids[node]
    if (outcome == 'goal') != grids.is_solution(search.grids[0], grid):
      self.fault(
          grids.MISSED, match.start(3), '! behind a solution, and only there',
          is_grammar=False)
    self.events.append(events_lib.Step(
        node, parent, text, grids.state(grid), outcome))
    self._is_placed = False
    self._at = match.end()
    return True
