# SPDX-License-Identifier: Apache-2.0
"""Figures 21 and 22: feedback between attempts, by attempts and their limit.

  python -m meta_cot.main --config=configs/paper/figure21.py:tiny \
      --workdir=runs/figure21

Policies tuned with one, three and five attempts, told what is missing at the
pairs that are shown, with nothing, and with what is said of another question
(configs/worlds.py:expressions).

Variants:
  tiny  a*x+b with numbers up to 40; one objective, three seeds.
"""

import ml_collections

from configs import kinds
from configs import worlds
from configs.paper import puzzles

_LABELS = {
    'episodes': 'one, and five answered',
    **{f'{name}_episodes': name.replace('_', ', ') for name in worlds.TURNS}}


def _tiny() -> ml_collections.ConfigDict:
  c = worlds.get_config('expressions')
  c.rl.objectives = ('erl2', 'single')
  c.figure = kinds.figure(
      figure='turns', stages=tuple(_LABELS), labels=tuple(_LABELS.values()),
      title='Feedback between attempts')
  c.stages += ('figure',)
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
