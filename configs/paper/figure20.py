# SPDX-License-Identifier: Apache-2.0
"""Figure 20: what RL does to search traces, left or up.

  python -m meta_cot.main --config=configs/paper/figure20.py:tiny \
      --workdir=runs/figure20

Success within t tokens before and after: gamma 1, gamma .98, expert iteration
and as much supervised training, three seeds each (configs/rl_traces.py).

Variants:
  tiny   from traces of three-number Countdown, 2.3M tokens.
  early  the same from half of the tokens: a start with headroom.
  both   gamma 1 and .98 from a plateau and from a start with headroom, which
         has learned a little of twelve strategies behind it: one picture.
"""

import ml_collections

from configs import kinds
from configs import rl_traces
from configs.paper import puzzles


def _one(num_tokens: int) -> ml_collections.ConfigDict:
  c = rl_traces.tiny()
  c.sft.num_tokens = num_tokens
  return _figure(c, episodes='traces')


def _figure(
    c: ml_collections.ConfigDict, **labels: str) -> ml_collections.ConfigDict:
  c.figure = kinds.figure(
      figure='within', stages=tuple(labels), labels=tuple(labels.values()),
      title='Success within t tokens')
  c.stages += ('figure',)
  return c


VARIANTS = {
    'tiny': lambda: _one(2_300_000), 'early': lambda: _one(1_150_000),
    'both': lambda: _figure(
        rl_traces.both(), episodes='plateau', mixed_episodes='headroom')}
get_config = puzzles.chooser(VARIANTS)
