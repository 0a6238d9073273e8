# SPDX-License-Identifier: Apache-2.0
"""Figure 23, right: what a searching model solves and no symbolic search does.

  python -m meta_cot.main --config=configs/paper/figure23.py:tiny \
      --workdir=runs/figure23

The share of problems that a text solves within t tokens, and that none of the
twelve strategies of the teacher solves with as many, before and after RL
(configs/rl_traces.py).

Variants:
  tiny  from traces of three-number Countdown, 2.3M tokens; three seeds.
"""

import ml_collections

from configs import kinds
from configs import rl_traces
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = rl_traces.tiny()
  c.episodes.teacher = 'compact'
  c.sft.num_tokens = 2_300_000
  c.figure = kinds.figure(
      figure='unsolved', stages=('episodes',),
      title='Solved where no symbolic strategy does')
  c.stages += ('figure',)
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
