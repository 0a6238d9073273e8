# SPDX-License-Identifier: Apache-2.0
"""Figure 11: attempts until the model itself stops, by difficulty.

  python -m meta_cot.main --config=configs/paper/figure11.py:tiny \
      --workdir=runs/figure11

A policy of arm `attempts` writes attempts up to one that it takes for right
(Eq. 7, configs/arms.py:attempts_tiny). A problem is as hard as the teacher's
search for it is long. `figure` has the attempts, `solved` the success. Beside
it stands one that always makes four (`kept`), about the mean of the first.

Variants:
  tiny  three-number Countdown, 2M tokens, three seeds.
"""

import ml_collections

from configs import arms
from configs import kinds
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = arms.get_config('attempts_tiny')
  c.attempts.data.mask = 'procedure_cloning'  # wrong attempts are trained too
  c.kept = c.attempts.copy_and_resolve_references()
  c.kept.arms = ('attempts_kept',)
  c.table.policies += ('kept',)
  *before, table, solved = c.stages
  c.stages = (*before, 'kept', table, solved)
  for name in c.table.policies:
    c[name].num_tokens = 2_000_000
  c.figure = kinds.figure(
      figure='attempts', stages=('table',), title='Attempts by difficulty')
  c.stages += ('figure',)
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
