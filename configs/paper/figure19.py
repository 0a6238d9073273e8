# SPDX-License-Identifier: Apache-2.0
"""Figure 19: corrections of one's own first attempts, and of given ones.

  python -m meta_cot.main --config=configs/paper/figure19.py:tiny \
      --workdir=runs/figure19

A policy of solutions answers training problems; from it on, policies learn
wrong attempts of these answers with a right one behind them. How often is the
second attempt right: behind wrong ones of the first policy (of the distribution
that was learned from), and behind those that the tuned policy makes itself?

Variants:
  tiny  three-number Countdown, three amounts of tuning, three seeds.
"""

import ml_collections

from configs import kinds
from configs import loops
from configs.paper import puzzles

_ARM = 'revisions'
_LENGTH = 24  # tokens of an attempt, at most
_TOKENS = (50_000, 150_000, 450_000)


def _tiny() -> ml_collections.ConfigDict:
  c = loops.first_policy()
  loops.search(c, 'answers', loops.FIRST, solver='samples')
  c.answers.num_train = 6_000
  _attempt(c, 'given', loops.FIRST)
  stages = {}  # -> label
  for i, tokens in enumerate(_TOKENS):
    c[f'tuned{i}'] = _tune(tokens)
    c.stages += (f'tuned{i}',)
    for seed in puzzles.SEEDS:
      policy, own = f'tuned{i}/{_ARM}/seed{seed}', f'own{i}_{seed}'
      _attempt(c, own, policy)
      for name, records in (('given', 'given'), ('own', own)):
        label = f'{name}{i}_labels{seed}'
        c[label] = kinds.label(
            policy=policy, records=records, source='monte_carlo', num_train=50,
            num_rollouts=4, num_validation_rollouts=8,
            max_new_tokens=2 * _LENGTH)
        c.stages += (label,)
        stages[label] = f'{tokens} {name} first attempts'
  c.figure = kinds.figure(
      figure='corrections', stages=tuple(stages),
      labels=tuple(stages.values()), title='Corrections as tuning goes on')
  c.stages += ('figure',)
  return c


def _tune(num_tokens: int) -> ml_collections.ConfigDict:
  """Makes a stage that learns a right attempt behind a wrong one."""
  t = kinds.train(
      records='answers', start=loops.FIRST, arms=(_ARM,), seeds=puzzles.SEEDS,
      num_tokens=num_tokens, eval_every_steps=100, save_every_steps=400)
  t.data.update(dict(
      sequence_length=64, max_attempts=2, trained_attempts='final'))
  t.optimizer.learning_rate = 1e-3
  return t


def _attempt(c: ml_collections.ConfigDict, name: str, policy: str) -> None:
  """Adds a stage of first attempts; a wrong one may be followed by another."""
  c[name] = kinds.search(
      policy=policy, solver='breadth_first', num_train=50, num_validation=300)
  c[name].search.update(dict(
      step='episode', max_depth=2, branching=(4, 1), value='likelihood',
      step_length=_LENGTH))
  c.stages += (name,)


VARIANTS = {'tiny': _tiny}
get_config = puzzles.chooser(VARIANTS)
