# SPDX-License-Identifier: Apache-2.0
"""Figure 3: verifiers in best of N: a value head, and verdicts in words.

  python -m meta_cot.main --config=configs/paper/figure3.py:tiny \
      --workdir=runs/figure3

`value` is a value head, `verdict` says its verdict at once, `chain` behind a
verification of the steps; four verdicts are averaged. Beside them the majority
and the exact verifier.

Variants:
  tiny  24 out of four numbers, one policy of 1M tokens, three seeds of every
        judge.
"""

import ml_collections

from configs import kinds
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = puzzles.policy(4, num_tokens=1_000_000)
  puzzles.labels(c, num_questions=10_000)
  judges = {
      'value': puzzles.judge('value', num_tokens=600_000),
      'verdict': puzzles.judge('verdict', num_tokens=600_000),
      'chain': puzzles.judge('verdict', num_tokens=600_000)}
  judges['chain'].data.verdict.chain = ';'
  for name, judge in judges.items():
    c[name] = judge
  c.evaluate = puzzles.asked(num_choice_problems=200)
  c.evaluate.samples.update(dict(judges=tuple(judges), num_verdicts=4))
  c.figure = kinds.figure(
      figure='verifiers', stages=('evaluate',),
      title='Best of N by verifiers')
  c.stages += (*judges, 'evaluate', 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
