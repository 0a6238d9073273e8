# SPDX-License-Identifier: Apache-2.0
"""Figure 29, left: verdicts that are averaged, with a verification and without.

  python -m meta_cot.main --config=configs/paper/figure29.py:tiny \
      --workdir=runs/figure29

Best of 16 samples by verdicts in words: `verdict` says them at once, `chain`
behind a verification of the steps.

Variants:
  tiny  24 out of four numbers, one policy of 1M tokens, three seeds of both
        judges, 1 to 8 verdicts.
"""

import ml_collections

from configs import kinds
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = puzzles.policy(4, num_tokens=1_000_000)
  puzzles.labels(c, num_questions=10_000)
  c.verdict = puzzles.judge('verdict', num_tokens=600_000)
  c.chain = puzzles.judge('verdict', num_tokens=600_000)
  c.chain.data.verdict.chain = ';'
  numbers, stages = (1, 2, 4, 8), []
  for number in numbers:
    stages.append(f'of_{number}_verdicts')
    c[stages[-1]] = puzzles.asked(num_problems=200)
    c[stages[-1]].samples.update(dict(
        num_samples=16, judges=('verdict', 'chain'), num_verdicts=number))
  c.figure = kinds.figure(
      figure='votes', stages=tuple(stages), labels=tuple(map(str, numbers)),
      title='Best of 16 by averaged verdicts')
  c.stages += ('verdict', 'chain', *stages, 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
