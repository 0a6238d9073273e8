# SPDX-License-Identifier: Apache-2.0
"""Figure 2: accuracy against training, greedy, majority and pass@k.

  python -m meta_cot.main --config=configs/paper/figure2.py:tiny \
      --workdir=runs/figure2

Variants:
  tiny  three-number Countdown, three seeds, every checkpoint of 1.5M tokens.
"""

import ml_collections

from configs import kinds
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = puzzles.policy(3, num_tokens=1_500_000, seeds=puzzles.SEEDS)
  c.sft.save_every_steps = 250
  c.evaluate = puzzles.asked(
      policies=('sft',), solvers=('greedy', 'samples'),
      num_curve_problems=200, curve_solvers=('greedy', 'samples'))
  c.evaluate.samples.num_samples = 16
  c.figure = kinds.figure(
      figure='training', stages=('evaluate',),
      title='Accuracy against training')
  c.stages += ('evaluate', 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
