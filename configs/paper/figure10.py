# SPDX-License-Identifier: Apache-2.0
"""Figure 10, left: the success of an attempt over attempts before it.

  python -m meta_cot.main --config=configs/paper/figure10.py:tiny \
      --workdir=runs/figure10

A policy learns revisions, wrong attempts and a right one behind them, of up to
four attempts (Eqs. 4 to 6), and writes eight, the last three of which it sees.

Variants:
  tiny  three-number Countdown, 1M tokens, three seeds; the final attempt alone
        is trained, or all.
"""

import ml_collections

from configs import kinds
from configs import loops
from configs.paper import puzzles

_TRAINED = ('final', 'all')  # attempts
_NUM_ATTEMPTS = 8


def _tiny() -> ml_collections.ConfigDict:
  c = loops.first_policy()
  c.stages = c.stages[:-1]  # a policy of solutions is not needed
  for trained in _TRAINED:
    c[trained] = kinds.train(
        arms=('revisions',), seeds=puzzles.SEEDS, num_tokens=1_000_000,
        eval_every_steps=200, save_every_steps=400)
    c[trained].data.update(dict(
        sequence_length=96, max_attempts=4, trained_attempts=trained))
    c.stages += (trained,)
  c.table = kinds.evaluate(
      policies=_TRAINED, solvers=('samples', 'revisions'), num_problems=300,
      num_curve_problems=0, start=f'{_TRAINED[0]}/revisions/seed0')
  c.table.samples.num_samples = _NUM_ATTEMPTS
  c.table.episodes.update(dict(num_episodes=_NUM_ATTEMPTS, window=3))
  c.figure = kinds.figure(
      figure='revised', stages=('table',), title='Attempts and their success')
  c.stages += ('table', 'figure')
  return c


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
