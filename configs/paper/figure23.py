# SPDX-License-Identifier: Apache-2.0
"""Figure 23, right: what a searching model solves and no symbolic search does.

  python -m meta_cot.main --config=configs/paper/figure23.py:tiny \
      --workdir=runs/figure23

The share of problems that a text solves within t tokens, and that none of the
twelve strategies of the teacher solves with as many, before and after RL
(configs/rl_traces.py).

Variants:
  tiny    from traces of three-number Countdown, 2.3M tokens; three seeds.
  laptop  from 8M tokens of the larger one's; and that none of 256 samples of
          the policy before RL solves either.
"""

import ml_collections

from configs import kinds
from configs import rl_traces
from configs.paper import puzzles


def _tiny() -> ml_collections.ConfigDict:
  c = rl_traces.tiny()
  c.sft.num_tokens = 2_300_000
  return _figure(c)


def _laptop() -> ml_collections.ConfigDict:
  c = rl_traces.laptop()
  c.sft.arms = ('traces',)
  for name in ('rl', 'quick'):
    c[name].objectives = ('single',)
  c.episodes.policies = ('sft/traces', 'rl', 'quick', 'more')
  c.many = kinds.evaluate(
      policies=('sft/traces',), solvers=('samples',),
      splits=('heldout_numbers',),
      num_problems=c.episodes.num_problems, num_curve_problems=0)
  c.many.samples.update(dict(
      num_samples=256,
      max_new_tokens=c.episodes.samples.get_ref('max_new_tokens')))
  c.stages += ('many',)
  return _figure(c, 'many')


def _figure(
    c: ml_collections.ConfigDict, *others: str) -> ml_collections.ConfigDict:
  c.episodes.teacher = 'compact'
  c.figure = kinds.figure(
      figure='unsolved', stages=('episodes', *others),
      title='Solved where no symbolic strategy does')
  c.stages += ('figure',)
  return c


VARIANTS = {'tiny': _tiny, 'laptop': _laptop}
get_config = puzzles.chooser(VARIANTS)
