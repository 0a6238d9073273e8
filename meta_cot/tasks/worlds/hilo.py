# SPDX-License-Identifier: Apache-2.0
"""Find a number of 1..N that is 1 half of the time.

Every attempt is a number; it is said to be too low (`<`), too high (`>`) or
right (`=`). To begin in the middle finds every number in the end, to begin with
1 pays at once.
"""

import dataclasses

from meta_cot.settings import config as config_lib
from meta_cot.tasks.worlds import world

_DIGITS = '123456789'


@dataclasses.dataclass(frozen=True)
class Settings(world.Settings):
  """How many numbers there are."""

  largest: int = config_lib.setting(low=2, high=len(_DIGITS))
  first_probability: float = config_lib.setting(low=0.0, high=1.0)  # of 1


@dataclasses.dataclass(frozen=True)
class Hilo(world.World):
  """The task; its question is the largest number."""

  name = 'hilo'
  symbols = f'{_DIGITS}<>='

  def draw(self, split, index, rng):
    """Draws the number."""
    question = str(self.settings.largest)
    prior = self.prior(question)
    return question, rng.choices(list(prior), list(prior.values()))[0]

  def prior(self, question):
    """Returns the numbers."""
    numbers = self.attempts(question)
    first = self.settings.first_probability
    rest = (1 - first) / (len(numbers) - 1)
    return {n: first if n == '1' else rest for n in numbers}

  def attempts(self, question):
    """Lists the numbers."""
    return tuple(_DIGITS[:int(question)])

  def say(self, question, hidden, attempt):
    """Compares; what is none of the numbers is too low."""
    if attempt not in self.attempts(question):
      return '<', False
    return '=' if attempt == hidden else '<' if attempt < hidden else '>', (
        attempt == hidden)

  def act(self, question, heard, is_last, rng):
    """Says 1 or any number; in the end the likeliest."""
    if is_last:
      return self.guess(question, heard, rng)
    return '1' if rng.random() < 0.3 else rng.choice(self.attempts(question))


def make(settings: Settings | None, seed: int) -> Hilo:
  """Makes the task, see `tasks.base`."""
  return Hilo(settings, seed)
