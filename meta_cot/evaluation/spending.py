# SPDX-License-Identifier: Apache-2.0
"""Finds sizes with which a strategy draws as many tokens as it may.

A size is a whole number of at least 1, and more of it draws more. A budget lies
between two sizes. Problems come in blocks, and in every block as many get the
larger one as make up for what those before it drew too much or too little.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math

import numpy as np

from meta_cot.settings import config as config_lib

# Of the budget, between it and what a size draws: other problems cost more.
_MARGIN = 0.25
_NEAR = 2.2  # what the larger size draws over what the smaller does
_MAX_SIZES = 9  # that are tried: each may compile a program
_MAX_GROWTH = 8  # from one size to the next
_FLAT = 1.05  # tokens of a size over those of one half as large


@dataclasses.dataclass(frozen=True)
class Plan:
  """Two sizes, and what they are expected to draw of a problem."""

  tokens: int  # the budget
  low: int
  high: int
  drawn_low: float
  drawn_high: float
  block: int  # problems

  def sizes(self, drawn: Sequence[float]) -> list[int]:
    """Gives the next block its sizes, the larger one evenly spread.

    Args:
      drawn: tokens of every problem of all blocks before.
    """
    owed = self.tokens * (len(drawn) + self.block) - sum(drawn)
    part = (owed / self.block - self.drawn_low) / (
        self.drawn_high - self.drawn_low)
    number = round(self.block * min(max(part, 0.0), 1.0))
    is_high = np.diff(np.arange(self.block + 1) * number // self.block)
    return [self.high if larger else self.low for larger in is_high]


def find(
    measure: Callable[[int], float], tokens: int, block: int) -> Plan:
  """Finds two sizes, one that draws less and one that draws more.

  Args:
    measure: size -> tokens that a problem costs with it on average.
    tokens: the budget of a problem.
    block: problems of a block.

  Raises:
    ConfigError: the smallest size draws too much for the budget, or none draws
      enough; says which budgets would do.
  """
  below, above = (1 - _MARGIN) * tokens, (1 + _MARGIN) * tokens
  found = {1: measure(1)}
  if found[1] > below:
    raise config_lib.ConfigError(
        f'draws {found[1]:.1f} tokens of a problem on average at its smallest '
        f'sizes; must be at least {math.ceil(found[1] / (1 - _MARGIN))}')
  while True:
    low = max(size for size, drawn in found.items() if drawn <= below)
    high = min((s for s in found if s > low and found[s] >= above), default=0)
    size = _guess(found, low, high, tokens)
    if high and (found[high] <= _NEAR * found[low] or size in found
                 or len(found) == _MAX_SIZES):
      return Plan(tokens, low, high, found[low], found[high], block)
    if not high and (len(found) == _MAX_SIZES or _is_flat(found)):
      most = max(found.values())
      raise config_lib.ConfigError(
          f'draws at most {most:.1f} tokens of a problem on average, whatever '
          f'its sizes; must be at most {math.floor(most / (1 + _MARGIN))}')
    found[size] = measure(size)


def _is_flat(found: Mapping[int, float]) -> bool:
  """Whether the largest size draws hardly more than one half as large."""
  largest = max(found)
  return any(
      2 * size <= largest and found[largest] < _FLAT * drawn
      for size, drawn in found.items())


def _guess(found: Mapping[int, float], low: int, high: int, tokens: int) -> int:
  """A size by a power law through two others; `high` 0: behind all."""
  if not high:
    low = max(found)  # may be too near the budget to serve
  other = high or max((s for s in found if s < low), default=0)
  power = 1.0
  if other and found[other] != found[low]:
    power = max(0.25, math.log(found[other] / found[low]) / math.log(
        other / low))
  aim = tokens * (1 + 1.4 * _MARGIN)
  if high and tokens / found[low] > found[high] / tokens:
    aim = tokens * (1 - 1.4 * _MARGIN)
  size = low * min((aim / found[low]) ** (1 / power), _MAX_GROWTH)
  if not high:
    return max(low + 1, math.ceil(size))
  return min(max(low + 1, round(size)), high - 1)
