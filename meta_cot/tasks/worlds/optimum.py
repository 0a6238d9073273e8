# SPDX-License-Identifier: Apache-2.0
"""What the best policy reaches in a world: dynamic programming over beliefs.

A belief is a set of hidden values that what was said leaves possible, as bits
of an integer.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

from meta_cot.tasks.worlds import world as world_lib


class Optimum(NamedTuple):
  """What a policy expects."""

  value: float  # what it maximises
  final: float  # the chance that its last attempt is right


class _Attempt(NamedTuple):
  """What follows from an attempt, whatever is hidden."""

  parts: tuple[int, ...]  # beliefs, one for each that may be said
  right: int  # where it is right


def best(
    world: world_lib.World, question: str, num_attempts: int,
    earlier_weight: float,
) -> Optimum:
  """Finds the best policy of so many attempts at a question.

  It maximises the chance that the last attempt is right, and of those before
  it `earlier_weight` times the expected number: 0 is E-RL^2, 1 is RL^2. Of
  policies that are as good, the one is meant whose last attempt is better.
  """
  hidden, probabilities = zip(*world.prior(question).items())
  attempts = _attempts(world, question, hidden)

  @functools.cache
  def mass(belief: int) -> float:
    return sum(
        p for i, p in enumerate(probabilities) if belief >> i & 1)

  @functools.cache
  def solve(belief: int, left: int) -> tuple[float, float]:
    found = []
    for parts, right in attempts:
      reward = mass(belief & right)
      if left == 1:
        found.append((reward, reward))
        continue
      behind = [solve(belief & part, left - 1)
                for part in parts if belief & part]
      found.append((
          earlier_weight * reward + sum(value for value, _ in behind),
          sum(final for _, final in behind)))
    return max(found, key=lambda x: (round(x[0], 9), x[1]))

  return Optimum(*solve((1 << len(hidden)) - 1, num_attempts))


def unheard(
    world: world_lib.World, question: str, num_attempts: int) -> float:
  """Finds the chance that one of so many attempts is right, heard by nobody.

  That is best of N with an oracle; 1 attempt is a single one.
  """
  chances = sorted(world.prior(question).values(), reverse=True)
  return sum(chances[:num_attempts])


def _attempts(
    world: world_lib.World, question: str, hidden: Sequence[str]
) -> tuple[_Attempt, ...]:
  """All that differ in what follows from them."""
  found = {}
  for attempt in world.attempts(question):
    parts, right = {}, 0
    for i, value in enumerate(hidden):
      said, is_right = world.say(question, value, attempt)
      parts[said] = parts.get(said, 0) | 1 << i
      right |= is_right << i
    found[_Attempt(tuple(parts.values()), right)] = None
  return tuple(found)
