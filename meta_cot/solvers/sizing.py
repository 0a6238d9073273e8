# SPDX-License-Identifier: Apache-2.0
"""How one number becomes the sizes of a strategy, and how two are mixed.

docs/search.md has the table.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
from typing import Any, Protocol

import jax
import numpy as np

from meta_cot.problem import Problem
from meta_cot.search import branching as branching_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import strategies
from meta_cot.types import PRNGKey

NAMES = ('samples', 'revisions', *strategies.STRATEGIES)
_LEVELS = ('beam', 'dvts', 'breadth_first')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a problem may cost, in tokens drawn for it on average."""

  tokens: int | None = config_lib.setting(low=1)
  num_problems: int = config_lib.setting(low=1)
  block: int = config_lib.setting(low=1)
  sample_tokens: int | None = config_lib.setting(low=1)


def sizes(
    name: str, search: strategies.Settings, size: int, depth: int
) -> tuple[str, dict[str, Any]]:
  """Names the group of settings of one of NAMES, and what changes in it.

  Args:
    name: of the solver.
    search: the settings of searches; what they say but for sizes stays.
    size: at least 1.
    depth: levels of a tree.
  """
  if name == 'samples':
    return 'samples', dict(num_samples=size)
  if name == 'revisions':
    return 'episodes', dict(num_samples=size)
  if name == 'particles':
    return 'search', dict(beam_width=size)
  first = lambda branching: branching_lib.at(branching, 0)
  if name in _LEVELS:
    return 'search', dict(beam_width=size, branching=_wide(
        search.branching, lambda b: first(b) >= size))
  is_again = search.tree.widening is not None
  number = 'num_simulations' if name == 'mcts' else 'num_expansions'
  return 'search', {number: size, 'branching': _wide(
      search.branching, lambda b: is_again or first(b) >= size or (
          _num_inner(b, depth) >= size))}


def _wide(
    branching: branching_lib.Branching,
    has_room: Callable[[branching_lib.Branching], bool],
) -> branching_lib.Branching:
  """More children of every node, by depth more of the root, until it is so."""
  while not has_room(branching):
    branching = (
        (branching[0] + 1, *branching[1:]) if isinstance(branching, tuple)
        else branching + 1)
  return branching


def _num_inner(branching: branching_lib.Branching, depth: int) -> int:
  """Nodes of a whole tree that can be expanded."""
  widths = (branching_lib.at(branching, d) for d in range(depth - 1))
  return sum(itertools.accumulate(widths, int.__mul__, initial=1))


class Plan(Protocol):
  """Which problems get which size, see `evaluation.spending`."""

  block: int

  def sizes(self, drawn: Sequence[float]) -> Sequence[int]:
    """Gives the next block its sizes, by the tokens of all problems before."""


class Mixed:
  """The solver: a block of problems after the other, by a plan.

  Attempts that a problem has less than others did not take place. The size of
  every problem is in its details.
  """

  def __init__(
      self, solvers: Mapping[int, base.Solver], plan: Plan,
      history: Callable[[], Mapping[int, float]],
  ):
    """Asks nothing.

    Args:
      solvers: by their size.
      plan: says whose turn it is.
      history: reads what problems have drawn before, by their place.
    """
    self._solvers = solvers
    self._plan = plan
    self._history = history
    self._drawn = {}

  def __call__(
      self, policy: base.Policy, problems: Sequence[Problem], rng: PRNGKey, *,
      first: int = 0,
  ) -> base.Outcomes:
    """See `base.Solver`; with the same problems before, it is the same."""
    parts, stop = [], first + len(problems)
    for start in range(first - first % self._plan.block, stop,
                       self._plan.block):
      sizes = np.array(self._plan.sizes(self._before(start)))
      for number, (size, solve) in enumerate(self._solvers.items()):
        places = start + np.flatnonzero(sizes == size)
        # Draws follow from the number of a problem among those of its size.
        rank = start + int((places < first).sum())
        places = places[(first <= places) & (places < stop)]
        if len(places):
          outcomes = solve(
              policy, [problems[i - first] for i in places],
              jax.random.fold_in(rng, number), first=rank)
          parts.append((places - first, _with_size(outcomes, size)))
          self._drawn |= zip(
              places.tolist(), outcomes.num_tokens.sum(axis=1).tolist())
    return _joined(parts)

  def _before(self, start: int) -> list[float]:
    """Tokens of all problems before a place."""
    if not all(place in self._drawn for place in range(start)):
      self._drawn |= self._history()
    return [self._drawn[place] for place in range(start)]


def _with_size(outcomes: base.Outcomes, size: int) -> base.Outcomes:
  return dataclasses.replace(outcomes, details=dict(
      outcomes.details, size=np.full(outcomes.is_correct.shape, size, object)))


def _joined(parts: Sequence[tuple[np.ndarray, base.Outcomes]]) -> base.Outcomes:
  """Outcomes of problems at some places, as those of all problems."""
  total = sum(len(where) for where, _ in parts)
  width = max(each.is_correct.shape[1] for _, each in parts)

  def join(pick, missing):
    columns = [pick(each) for _, each in parts]
    if any(column is None for column in columns):
      return None
    made = np.full((total, width), missing, columns[0].dtype)
    for (where, _), column in zip(parts, columns, strict=True):
      made[where, :column.shape[1]] = column
    return made

  names = dict.fromkeys(k for _, each in parts for k in each.details)
  return base.Outcomes(
      is_correct=join(lambda o: o.is_correct, False),
      is_finished=join(lambda o: o.is_finished, False),
      num_tokens=join(lambda o: o.num_tokens, 0.0),
      answers=join(lambda o: o.answers, None),
      values=join(lambda o: o.values, np.nan),
      num_episodes=parts[0][1].num_episodes,
      seconds=sum(each.seconds for _, each in parts),
      occupancy=sum(
          len(where) * each.occupancy for where, each in parts) / total,
      details={
          name: join(lambda o, name=name: o.details[name].astype(object), None)
          for name in names},
      records=join(lambda o: o.records, None),
      costs=join(lambda o: o.costs, None))

