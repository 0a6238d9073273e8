# SPDX-License-Identifier: Apache-2.0
"""Success over what texts with threads take: windows, tokens, and in a row.

Of solver `threads`; a policy that opens none has one text, whose tokens all
were drawn one after another. What is right counts from where its window, or so
many tokens, hold it: with less it is not finished. All lines have the same
places, so that they are a table too.
"""

from collections.abc import Sequence

from meta_cot.evaluation.figures import base
from meta_cot.solvers import spawning

_SOLVED = 'solved within so many'


def window(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success over the longest text, its question included."""
  return _figure(groups, 'window, tokens', 'window')


def sequential(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success over tokens that were drawn one after another."""
  return _figure(groups, 'sequential tokens', 'sequential')


def total(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success over the tokens of all texts together."""
  return _figure(groups, 'tokens', None)


def _figure(groups, x_label: str, detail: str | None) -> base.Figure:
  """A line for every policy, from the mean of its attempts' success."""
  found = {}
  for group in groups:
    for policy, tested in base.by_policy(group, (spawning.NAME,)).items():
      name = f'{group.label}: {policy}' if len(groups) > 1 else policy
      found[name] = [
          (o.is_correct,
           o.num_tokens if detail is None else o.details[detail])
          for o in tested]
  taken = [x_BxN for runs in found.values() for _, x_BxN in runs]
  places = taken and _places(
      min(x_BxN.min() for x_BxN in taken), max(x_BxN.max() for x_BxN in taken))
  return base.Figure(x_label, _SOLVED, {
      name: base.line([
          [(x, (is_correct & (x_BxN <= x)).mean(axis=1)) for x in places]
          for is_correct, x_BxN in runs])
      for name, runs in found.items()}, columns={x: f'{x:g}' for x in places})


def _places(least: float, most: float) -> list[float]:
  """Two an octave, from one below `least` to one that holds `most`."""
  places = [2.0 ** (i // 2) * (1.5 if i % 2 else 1.0) for i in range(2, 64)]
  first = max(i for i, x in enumerate(places) if i == 0 or x < least)
  last = min(i for i, x in enumerate(places) if x >= most)
  return places[first:last + 1]
