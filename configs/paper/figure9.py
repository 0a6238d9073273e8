# SPDX-License-Identifier: Apache-2.0
"""Figure 9: success over the tokens of an answer, on a logarithmic axis.

  python -m meta_cot.main --config=configs/paper/figure9.py:tiny \
      --workdir=runs/figure9

Samples of a policy that writes its search before the answer, beside one of
solutions alone: the share that is right within t tokens.

Variants:
  tiny  three-number Countdown, 2.1M tokens of either, one seed.
"""

import ml_collections

from configs import countdown
from configs import kinds
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = countdown.get_config('tiny')
  c.sft.num_tokens = 2_100_000
  c.asked = kinds.evaluate(
      policies=('sft',), solvers=('samples',), num_problems=256,
      num_curve_problems=0)
  c.asked.samples.update(dict(num_samples=8, max_new_tokens=256))
  c.figure = kinds.figure(
      figure='within', stages=('asked',), title='Success within t tokens')
  c.stages = (*c.stages[:-1], 'asked', 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
