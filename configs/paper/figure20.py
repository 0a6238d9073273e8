# SPDX-License-Identifier: Apache-2.0
"""Figure 20: what RL does to search traces, left or up.

  python -m meta_cot.main --config=configs/paper/figure20.py:tiny \
      --workdir=runs/figure20

Success within t tokens before and after: gamma 1, gamma .98, expert iteration
and as much supervised training, three seeds each (configs/rl_traces.py).

Variants:
  tiny   from traces of three-number Countdown, 2.3M tokens.
  early  the same from half of the tokens: a start with headroom.
"""

import ml_collections

from configs import kinds
from configs import rl_traces
from configs.paper import puzzles


def _figure(num_tokens: int) -> ml_collections.ConfigDict:
  c = rl_traces.tiny()
  c.sft.num_tokens = num_tokens
  c.figure = kinds.figure(
      figure='within', stages=('episodes',), title='Success within t tokens')
  c.stages += ('figure',)
  return c


VARIANTS = {
    'tiny': lambda: _figure(2_300_000), 'early': lambda: _figure(1_150_000)}
get_config = puzzles.chooser(VARIANTS)
