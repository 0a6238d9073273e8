# SPDX-License-Identifier: Apache-2.0
"""Look before you sail: a harbour that only the lighthouse knows.

An open grid of 5 x 5 cells. The question names three different ones: start,
lighthouse and home harbour, as in `104302` (column and row of each). The goal
is home with a probability, else any cell that is neither start nor lighthouse.
An attempt is at most six moves (`U`, `D`, `L`, `R`; one off the grid
stays), right where the last cell is the goal. Behind an attempt that touched
the lighthouse stands the goal, behind another `+.` or `-.`.

Of a question *on the way* six moves lead home past the lighthouse; of the
others, *detours*, they do not, so that looking costs the attempt. The
`difficulty` of a detour is 1, of the others 0: reports keep them apart.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools

import numpy as np

from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.tasks import splits
from meta_cot.tasks.worlds import world

SIZE = 5
MAX_MOVES = 6
MOVES = {'U': (0, -1), 'D': (0, 1), 'L': (-1, 0), 'R': (1, 0)}
_CELLS = tuple(itertools.product(range(SIZE), repeat=2))
_HELDOUT = 0.05  # of the questions, in validation, and as many in test

Cell = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Settings(world.Settings):
  """How often home is the goal."""

  home_probability: float = config_lib.setting(low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class Harbour(world.World):
  """The task."""

  name = 'harbour'
  symbols = f'01234{"".join(MOVES)}+-.'
  length = 2

  def draw(self, split, index, rng):
    """Takes the questions in turn, and draws the goal."""
    questions = _questions(self.seed)[split]
    question = questions[index % len(questions)]
    prior = self.prior(question)
    return question, rng.choices(list(prior), list(prior.values()))[0]

  def prior(self, question):
    """Returns all cells but the start and the lighthouse."""
    start, light, home = cells(question)
    others = [c for c in _CELLS if c not in (start, light, home)]
    share = self.settings.home_probability
    return {to_text(home): share} | dict.fromkeys(
        map(to_text, others), (1 - share) / len(others))

  def attempts(self, question):
    """Lists a way to every cell, and one past the lighthouse."""
    start, light, _ = cells(question)
    found = {}
    for end in _CELLS:
      ways = [shortest(start, end)]
      past = shortest(start, light) + shortest(light, end)
      for way in ways + [past] * (len(past) <= MAX_MOVES):
        found.setdefault(
            (end, light in visited(start, way)), way or 'UD'[start[1] > 0])
    return tuple(found.values())

  def say(self, question, hidden, attempt):
    """Tells the goal at the lighthouse, else whether it was reached."""
    start, light, _ = cells(question)
    if not 0 < len(attempt) <= MAX_MOVES or not set(attempt) <= MOVES.keys():
      return '-.', False
    way = visited(start, attempt)
    is_right = to_text(way[-1]) == hidden
    if light in way:
      return hidden, is_right
    return '+.' if is_right else '-.', is_right

  def act(self, question, heard, is_last, rng):
    """Sails home, to the lighthouse or anywhere; then to the goal seen.

    On the way half of the first attempts go home past the lighthouse.
    """
    start, light, home = cells(question)
    beliefs = self.beliefs(question, heard)
    if len(beliefs) == 1:
      stops = [_cell(next(iter(beliefs)))]
    elif is_last:
      stops = [_cell(self.guess(question, heard, rng))]
    else:
      past = [light, home] if is_on_the_way(question) else []
      stops = rng.choice([
          [home], past or [home], past or [light],
          [rng.choice([cell for cell in _CELLS if cell != start])]])
    return ''.join(
        ''.join(rng.sample(way, len(way))) for way in map(
            shortest, (start, *stops), stops))

  def difficulty(self, question):
    """Returns 0 on the way, and 1 for a detour."""
    return int(not is_on_the_way(question))

  def arrays(self, problem):
    """Returns the cells of a problem, int32 [2] each."""
    start, light, _ = cells(problem.question)
    return dict(
        start=np.array(start, np.int32), light=np.array(light, np.int32),
        goal=np.array(_cell(problem.answer), np.int32))

  def respond(self, hidden, symbols_SxT, length_S):
    """See `base.InGraphFeedback`; sails in the program."""
    # Needs JAX, without which the rest of a task starts at once.
    from meta_cot.tasks.worlds import in_graph
    return in_graph.sail(
        hidden, symbols_SxT, length_S, self.symbols, MOVES, SIZE, MAX_MOVES)


def make(settings: Settings | None, seed: int) -> Harbour:
  """Makes the task, see `tasks.base`."""
  return Harbour(settings, seed)


def cells(question: str) -> tuple[Cell, Cell, Cell]:
  """Reads start, lighthouse and home."""
  return _cell(question[:2]), _cell(question[2:4]), _cell(question[4:])


def to_text(cell: Cell) -> str:
  """Writes a cell, column and row."""
  return f'{cell[0]}{cell[1]}'


def is_on_the_way(question: str) -> bool:
  """Tells whether six moves lead home past the lighthouse."""
  start, light, home = cells(question)
  return distance(start, light) + distance(light, home) <= MAX_MOVES


def distance(a: Cell, b: Cell) -> int:
  """Counts moves."""
  return abs(a[0] - b[0]) + abs(a[1] - b[1])


def shortest(a: Cell, b: Cell) -> str:
  """Writes a shortest way, columns first."""
  right, down = b[0] - a[0], b[1] - a[1]
  return 'LR'[right > 0] * abs(right) + 'UD'[down > 0] * abs(down)


def visited(start: Cell, way: Sequence[str]) -> list[Cell]:
  """Lists the cells of a way; a move off the grid stays."""
  found = [start]
  for move in way:
    found.append(tuple(
        min(max(x + d, 0), SIZE - 1) for x, d in zip(found[-1], MOVES[move])))
  return found


def _cell(text: str) -> Cell:
  return int(text[0]), int(text[1])


@functools.cache
def _questions(seed: int) -> dict[str, list[str]]:
  """The questions of every split: from such starts every cell is in reach."""
  starts = [
      a for a in _CELLS
      if max(distance(a, b) for b in _CELLS) <= MAX_MOVES]
  found = sorted((
      ''.join(map(to_text, (start, *rest))) for start in starts
      for rest in itertools.permutations(
          [cell for cell in _CELLS if cell != start], 2)),
                 key=lambda question: splits.rank(question, seed))
  number = round(_HELDOUT * len(found))
  return {
      base.VALIDATION: found[:number], 'test': found[number:2 * number],
      base.TRAIN: found[2 * number:]}
