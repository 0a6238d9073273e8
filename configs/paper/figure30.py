# SPDX-License-Identifier: Apache-2.0
"""Figure 30: search over attempts by a meta-value, beside best of N: Search^2.

  python -m meta_cot.main --config=configs/paper/figure30.py:tiny \
      --workdir=runs/figure30

Best-first over whole attempts of three sizes, guided by likelihood, a value of
first attempts and a value of all attempts so far (configs/search2.py), beside
samples of the same policy at equal tokens.

Variants:
  tiny  three-number Countdown; two, four and eight expansions.
"""

import ml_collections

from configs import kinds
from configs import search2
from configs.paper import puzzles

_SIZES = {'two': 2, 'four': 4}  # expansions; that of `search2` besides


def _tiny() -> ml_collections.ConfigDict:
  c = search2.get_config('tiny')
  stages = dict(search2.GUIDES)  # -> label
  for name, label in search2.GUIDES.items():
    for size, number in _SIZES.items():
      stages[f'{name}_{size}'] = label
      c[f'{name}_{size}'] = e = c[name].copy_and_resolve_references()
      e.search.num_expansions = number
  c.figure = kinds.figure(
      figure='guides', stages=tuple(stages), labels=tuple(stages.values()),
      title='Search over attempts, and best of N')
  c.stages = (*c.stages[:-1], *list(stages)[len(search2.GUIDES):], 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
