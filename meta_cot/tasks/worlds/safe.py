# SPDX-License-Identifier: Apache-2.0
"""Crack a code: look at a place of it, or answer.

The question is the default code, such as `cf`; the hidden code is the default
with a probability, else any other, all alike. An attempt `?2` shows what stands
at place 2; any other is an answer, said to be right (`+`) or wrong (`-`).
Looking pays nothing, so it only pays for later attempts.

Codes other than the default are in one split each: of those of every default
an eighth are of validation and another eighth of test, by the seed.
"""

import dataclasses
import functools
import itertools

from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.tasks import splits
from meta_cot.tasks.worlds import world

_LETTERS = 'abcdefgh'
_PLACES = '1234'
_HELDOUT = 8  # one of so many codes is in validation, and another one in test


@dataclasses.dataclass(frozen=True)
class Settings(world.Settings):
  """How long codes are, and how often the default is right."""

  num_symbols: int = config_lib.setting(low=2, high=len(_LETTERS))
  num_places: int = config_lib.setting(low=1, high=len(_PLACES))
  default_probability: float = config_lib.setting(low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class Safe(world.World):
  """The task."""

  name = 'safe'
  symbols = f'{_LETTERS}?{_PLACES}+-'

  def draw(self, split, index, rng):
    """Draws a default, and whether it is right."""
    default = rng.choice(_codes(
        self.settings.num_symbols, self.settings.num_places))
    if rng.random() < self.settings.default_probability:
      return default, default
    others = _others(self.settings, self.seed, default)
    return default, rng.choice(others[split])

  def prior(self, question):
    """Returns all codes."""
    codes = _codes(self.settings.num_symbols, len(question))
    share = self.settings.default_probability
    rest = (1 - share) / (len(codes) - 1)
    return {code: share if code == question else rest for code in codes}

  def attempts(self, question):
    """Lists all codes and places."""
    return *_codes(self.settings.num_symbols, len(question)), *(
        f'?{place}' for place in _PLACES[:len(question)])

  def say(self, question, hidden, attempt):
    """Shows a place, or judges a code."""
    places = _PLACES[:len(hidden)]
    if len(attempt) == 2 and attempt[0] == '?' and attempt[1] in places:
      return hidden[places.index(attempt[1])], False
    is_right = attempt == hidden
    return '+' if is_right else '-', is_right

  def act(self, question, heard, is_last, rng):
    """Answers the default, anything, or looks; in the end the likeliest."""
    if is_last:
      return self.guess(question, heard, rng)
    kind = rng.random()
    if kind < 0.5:
      return question
    if kind < 0.7:
      return rng.choice(_codes(self.settings.num_symbols, len(question)))
    return f'?{rng.choice(_PLACES[:len(question)])}'


def make(settings: Settings | None, seed: int) -> Safe:
  """Makes the task, see `tasks.base`."""
  return Safe(settings, seed)


@functools.cache
def _codes(num_symbols: int, num_places: int) -> tuple[str, ...]:
  """All codes, sorted."""
  return tuple(map(''.join, itertools.product(
      _LETTERS[:num_symbols], repeat=num_places)))


@functools.cache
def _others(
    settings: Settings, seed: int, default: str) -> dict[str, list[str]]:
  """The codes of every split that may be hidden instead of a default."""
  codes = sorted(
      (code for code in _codes(settings.num_symbols, settings.num_places)
       if code != default),
      key=lambda code: splits.rank((default, code), seed))
  number = max(1, round(len(codes) / _HELDOUT))
  return {
      base.VALIDATION: codes[:number], 'test': codes[number:2 * number],
      base.TRAIN: codes[2 * number:]}
