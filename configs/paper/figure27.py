# SPDX-License-Identifier: Apache-2.0
"""Figure 27: discounts; left, best of N is hump-shaped in N.

  python -m meta_cot.main --config=configs/paper/figure27.py:tiny \
      --workdir=runs/figure27

The reward is gamma to the power of all tokens drawn where the exact verifier
finds a right answer among N samples, else 0.

Variants:
  tiny   left: three-number Countdown, 1M tokens, three seeds.
  right  one policy that is told gamma, from search traces, three seeds: success
         within t tokens by gamma (configs/rl_traces.py:prompts).
"""

import ml_collections

from configs import kinds
from configs import rl_traces
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = puzzles.policy(3, num_tokens=1_000_000, seeds=puzzles.SEEDS)
  c.evaluate = puzzles.asked(policies=('sft',))
  c.evaluate.samples.num_samples = 64
  c.figure = kinds.figure(
      figure='discounted', stages=('evaluate',),
      title='Discounted reward of best of N')
  c.stages += ('evaluate', 'figure')
  return c


def _right() -> ml_collections.ConfigDict:
  c = rl_traces.prompts()
  c.figure = kinds.figure(
      figure='within', stages=('episodes',),
      title='One policy, told its discount')
  c.stages += ('figure',)
  return c


VARIANTS = {'tiny': _tiny, 'right': _right}
get_config = puzzles.chooser(VARIANTS)
