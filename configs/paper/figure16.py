# SPDX-License-Identifier: Apache-2.0
"""Figure 16: the error of values against the number of training questions.

  python -m meta_cot.main --config=configs/paper/figure16.py:tiny \
      --workdir=runs/figure16

Errors are to the share of 128 completions that are right, on validation
problems; beside them the constant's.

Variants:
  tiny  24 out of four numbers, one policy of 1M tokens, values of 500, 3000 and
        16000 questions, three seeds of each.
"""

import ml_collections

from configs import kinds
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = puzzles.policy(4, num_tokens=1_000_000)
  puzzles.labels(c, num_questions=16_000)
  c.truth = kinds.label(
      policy=puzzles.POLICY, records='answers', num_train=16,
      num_validation=100, num_states=16)
  numbers, trained, measured = (500, 3_000, 16_000), [], []
  for number in numbers:
    trained.append(f'value{number}')
    c[trained[-1]] = v = puzzles.judge('value', num_tokens=600_000)
    v.data.num_records = number
    measured.append(f'quality{number}')
    c[measured[-1]] = kinds.quality(
        judges=(trained[-1],), records='truth', policy=puzzles.POLICY)
  c.figure = kinds.figure(
      figure='questions', stages=tuple(measured),
      labels=tuple(map(str, numbers)),
      title='Error of values against training questions')
  c.stages += ('truth', *trained, *measured, 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
