# SPDX-License-Identifier: Apache-2.0
"""The ladder: solutions, Stream of Search, a better order, spawn and join.

  python -m meta_cot.main --config=configs/paper/ladder.py:tiny \
      --workdir=runs/ladder

The policies of configs/threads.py at equal window, equal sequential and equal
total tokens: a figure for each. The last line is the control, with as many
threads as there are.

Variants:
  tiny  three numbers; three seeds.
  four  four numbers in a window that holds half of the serial searches, without
        the searches of twelve strategies; three seeds.
"""

from collections.abc import Callable
import functools

import ml_collections

from configs import kinds
from configs import threads
from configs.paper import puzzles

_FIGURES = {
    'window': 'Success within a window',
    'sequential': 'Success within tokens drawn one after another',
    'total': 'Success within tokens'}


def _drawn(
    make: Callable[[], ml_collections.ConfigDict]) -> ml_collections.ConfigDict:
  c = make()
  for name in c.table.policies:
    c[name].seeds = puzzles.SEEDS
  for name, title in _FIGURES.items():
    c[name] = kinds.figure(figure=name, stages=('table',), title=title)
    c.stages += (name,)
  return c


VARIANTS = {
    name: functools.partial(_drawn, make)
    for name, make in threads.VARIANTS.items()}
get_config = puzzles.chooser(VARIANTS)
