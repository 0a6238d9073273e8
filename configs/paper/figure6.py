# SPDX-License-Identifier: Apache-2.0
"""Figure 6: training compute against test compute.

  python -m meta_cot.main --config=configs/paper/figure6.py:tiny \
      --workdir=runs/figure6

Policies of three amounts of training, and best of N by the exact verifier: what
one saves in the one has to be spent in the other.

Variants:
  tiny  three-number Countdown, 0.3M, 0.6M and 1.2M tokens, three seeds.
"""

import ml_collections

from configs import kinds
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = puzzles.policy(3, num_tokens=1)
  del c.sft
  amounts = {'0.3M': 300_000, '0.6M': 600_000, '1.2M': 1_200_000}
  trained, asked = [], []
  for number in amounts.values():
    trained.append(f'sft_{number}_tokens')
    c[trained[-1]] = puzzles.train(num_tokens=number, seeds=puzzles.SEEDS)
    asked.append(f'after_{number}_tokens')
    c[asked[-1]] = puzzles.asked(policies=(trained[-1],))
  c.figure = kinds.figure(
      figure='compute', stages=tuple(asked),
      labels=tuple(f'{label} training tokens' for label in amounts),
      title='Training against test compute')
  c.stages = ('problems', 'traces', 'tokenizer', *trained, *asked, 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
