# SPDX-License-Identifier: Apache-2.0
"""Guess a row of colours; how many places are right is said of every guess.

A guess both informs and pays, so that nothing is gained by leaving earlier
attempts unrewarded: a control.
"""

import dataclasses
import functools
import itertools

from meta_cot.settings import config as config_lib
from meta_cot.tasks.worlds import world

_COLOURS = 'abcdef'
_PLACES = '01234'


@dataclasses.dataclass(frozen=True)
class Settings(world.Settings):
  """How many rows there are."""

  num_colours: int = config_lib.setting(low=2, high=len(_COLOURS))
  num_places: int = config_lib.setting(low=1, high=len(_PLACES) - 1)


@dataclasses.dataclass(frozen=True)
class Mastermind(world.World):
  """The task; its question is the numbers of places and colours."""

  name = 'mastermind'
  symbols = f'{_COLOURS}{_PLACES}'

  def draw(self, split, index, rng):
    """Draws a row."""
    question = f'{self.settings.num_places}{self.settings.num_colours}'
    return question, rng.choice(self.attempts(question))

  def prior(self, question):
    """Returns all rows, all alike."""
    rows = self.attempts(question)
    return dict.fromkeys(rows, 1 / len(rows))

  def attempts(self, question):
    """Lists all rows."""
    return _rows(*map(int, question))

  def say(self, question, hidden, attempt):
    """Counts places that are right; none of what is no row."""
    number = 0 if attempt not in self.attempts(question) else sum(
        a == b for a, b in zip(attempt, hidden))
    return str(number), attempt == hidden

  def act(self, question, heard, is_last, rng):
    """Guesses anything; in the end what may be right."""
    if is_last or rng.random() < 0.8:
      return self.guess(question, heard, rng)
    return rng.choice(self.attempts(question))


def make(settings: Settings | None, seed: int) -> Mastermind:
  """Makes the task, see `tasks.base`."""
  return Mastermind(settings, seed)


@functools.cache
def _rows(num_places: int, num_colours: int) -> tuple[str, ...]:
  return tuple(map(''.join, itertools.product(
      _COLOURS[:num_colours], repeat=num_places)))
