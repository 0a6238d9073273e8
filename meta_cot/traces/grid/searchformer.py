# SPDX-License-Identifier: Apache-2.0
"""A search of a maze in the tokens of Searchformer (arXiv 2402.14083).

  start 0 0 goal 1 1 wall 1 0 create 0 0 c0 c2 close 0 0 c0 c2 create 0 1 c1 c1
  close 0 1 c1 c1 create 1 1 c2 c0 close 1 1 c2 c0 plan 0 0 plan 0 1 plan 1 1

on one line. The prompt is the question; every word behind it has its blank
before it. A step is `create x y cG cH`, made at the cell that was closed last,
where G is the number of steps from the start and H the distance to the goal; a
jump is `close x y cG cH`. The first step is to the start itself, so that the
steps of a solution are the cells of `plan`. `Exhausted` is not written.
"""

from collections.abc import Sequence
import re

from meta_cot.traces import events as events_lib
from meta_cot.traces import reading as reading_lib
from meta_cot.traces.grid import mazes

OPENING = ' plan'
STEP_END = ' plan'  # there is no closing mark: the next step begins with it
EVENT_ENDS = (' create', ' close', ' plan')  # so it is with events

_NUMBER = mazes.NUMBER
_END = r'(?= |\Z)'  # of a word
_PROMPT = re.compile(f'({mazes.QUESTION}){_END}')
_EVENT = re.compile(
    f' (create|close) ({_NUMBER}) ({_NUMBER}) c({_NUMBER}) c({_NUMBER}){_END}')
_PLAN = re.compile(f' plan ({_NUMBER} {_NUMBER}){_END}')
_SOLUTION = re.compile(f'(?: plan {_NUMBER} {_NUMBER})+')
_UNFINISHED = re.compile(  # what a cut text may end with
    ' ?[a-z]*| (?:create|close) [0-9]*(?: [0-9]*(?: c?[0-9]*){0,2})?|'
    ' plan [0-9]*(?: [0-9]*)?')


def spans(events: Sequence[events_lib.Event]) -> list[events_lib.Span]:
  """The text in pieces; see `format.spans`."""
  question = events[0].question
  search = _Search(mazes.of_question(question))
  written = [events_lib.Span(question, 'prompt', False)]
  for event, on_path in zip(events, events_lib.on_path(events), strict=True):
    if isinstance(event, events_lib.Step):
      text = search.create(event)
    elif isinstance(event, events_lib.Jump):
      text = search.close(event.node)
    else:
      continue
    written.append(events_lib.Span(text, 'search', on_path))
  for event in events:
    if isinstance(event, events_lib.Answer):
      written.append(events_lib.Span(_solution(event), 'solution', True))
  return written


def prompt(question: str) -> str:
  """The text before the search: the question."""
  mazes.of_question(question)
  return question


def read(text: str) -> events_lib.Reading:
  """Reads any text as far as it can be read; see `format.read`."""
  match = _PROMPT.match(text)
  if match is None:
    return reading_lib.unread(
        text, 'start x y goal x y wall x y ...', OPENING)
  return _Reader(text, match).read()


def _solution(answer: events_lib.Answer) -> str:
  text = ''.join(f' plan {step}' for step in answer.text.split('\n'))
  if _SOLUTION.fullmatch(text) is None:
    raise ValueError(
        f'answer {answer.text[:60]!r} cannot be written in searchformer; it '
        'must be one cell per line, such as 1 3.')
  return text


class _Search:
  """What was created and closed so far; node 0 is before the start."""

  def __init__(self, maze: mazes.Maze):
    self.maze = maze
    self.cells = [None]  # of every node
    self.costs = [-1]
    self.here = 0
    self.is_over = False  # the goal was closed
    self._nodes = {}  # (cell, cost) -> node
    self._newest = {}  # cell -> node, the one that costs least

  def is_new(self, cell: mazes.Cell) -> bool:
    """Whether A* would create the cell here: not at a cost it had or more."""
    newest = self._newest.get(cell)
    return newest is None or self.costs[self.here] + 1 < self.costs[newest]

  def add(self, cell: mazes.Cell) -> int:
    """Makes a node at the present one."""
    node, cost = len(self.cells), self.costs[self.here] + 1
    self.cells.append(cell)
    self.costs.append(cost)
    self._nodes[cell, cost] = self._newest[cell] = node
    return node

  def find(self, cell: mazes.Cell, cost: int) -> int | None:
    """Returns the node of that cost, else the newest; None: no such cell."""
    return self._nodes.get((cell, cost), self._newest.get(cell))

  def go_to(self, node: int) -> None:
    """Closes a node."""
    self.here = node
    self.is_over = self.cells[node] == self.maze.goal

  def words(self, verb: str, node: int) -> str:
    """Tells an event."""
    cell = self.cells[node]
    return (f' {verb} {mazes.text(cell)} c{self.costs[node]} '
            f'c{mazes.distance(cell, self.maze.goal)}')

  def create(self, step: events_lib.Step) -> str:
    """The text of a step."""
    if step.parent != self.here or step.node != len(self.cells):
      raise ValueError(
          f'node {step.node} made at node {step.parent}: the search stands at '
          f'node {self.here}, the next node is {len(self.cells)}.')
    where = f'node {step.node}: step {step.text!r} to {step.state!r}'
    cell = mazes.cell(step.text)
    if cell is None or step.state != step.text:
      raise ValueError(
          f'{where} cannot be written in searchformer; both must be the same '
          'cell, such as 1 3.')
    if step.outcome != 'goal' * (cell == self.maze.goal):
      raise ValueError(
          f'{where} has outcome {step.outcome!r}; searchformer writes goal for '
          'the goal, and nothing else.')
    self._check_goes_on()
    if not self.is_new(cell):
      raise ValueError(
          f'{where} has been created at no greater cost; searchformer cannot '
          'write it again.')
    return self.words('create', self.add(cell))

  def close(self, node: int) -> str:
    """The text of a jump."""
    self._check_goes_on()
    if not 0 < node < len(self.cells):
      raise ValueError(
          f'jump to node {node}, which no step has made yet.')
    self.go_to(node)
    return self.words('close', node)

  def _check_goes_on(self) -> None:
    if self.is_over:
      raise ValueError(
          f'node {self.here}, the goal, is closed, but the search goes on; '
          'searchformer cannot write it.')


class _Reader(reading_lib.Reader):
  """Reads text into events and faults."""

  OPENING, RIGHT, UNFINISHED = OPENING, 'a right plan', _UNFINISHED

  def __init__(self, text: str, prompt: re.Match):
    super().__init__(prompt[1], text, prompt.end())
    self._search = _Search(mazes.of_question(prompt[1]))
    self._closed = set()

  def _expected(self) -> str:
    return 'plan' if self._search.is_over else 'create, close or plan'

  def _solution_faults(self, steps: Sequence[str]):
    return self._search.maze.faults([*map(mazes.cell, steps)])

  def _read_event(self) -> bool:
    match = _EVENT.match(self._text, self._at)
    if match is None or self._search.is_over:
      return False
    verb, *numbers = match.groups()
    x, y, cost, _ = map(int, numbers)
    node = self._create((x, y)) if verb == 'create' else (
        self._close((x, y), cost))
    if node is not None and match[0] != self._search.words(verb, node):
      self.fault(
          'arithmetic', match.start(4) - 1,
          self._search.words(verb, node).split(' ', 4)[4])
    self._at = match.end()
    return True

  def _create(self, cell: mazes.Cell) -> int | None:
    """Tells a step; None for one that cannot be told."""
    search = self._search
    if not search.is_new(cell):
      self.fault(
          mazes.ILLEGAL, self._at, 'a cell that was not created before, or at '
          'a greater cost')
      return None
    if not search.maze.is_step(search.cells[search.here], cell):
      self.fault(
          mazes.ILLEGAL, self._at, 'a step from the cell closed last',
          is_grammar=False)
    parent, node, text = search.here, search.add(cell), mazes.text(cell)
    self.events.append(events_lib.Step(
        node, parent, text, text, 'goal' * (cell == search.maze.goal)))
    return node

  def _close(self, cell: mazes.Cell, cost: int) -> int | None:
    """Tells a jump; None for one that cannot be told."""
    node = self._search.find(cell, cost)
    if node is None or node in self._closed:
      self.fault(
          mazes.ILLEGAL, self._at, 'a cell that was created and not closed',
          is_grammar=node is None)
    if node is not None:
      self._closed.add(node)
      self.jump(node)
      self._search.go_to(node)
    return node

  def _steps(self, start: int) -> tuple[list[tuple[int, str]], int, str]:
    steps, end = [], start
    while match := _PLAN.match(self._text, end):
      steps.append((end, match[1]))
      end = match.end()
    return steps, end, 'plan x y, and no more than that'
