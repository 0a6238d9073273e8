# SPDX-License-Identifier: Apache-2.0
"""One budget for every strategy: tokens of a problem, asked and drawn.

  python -m meta_cot.main --config=configs/budgets.py:make24 \
      --workdir=runs/make24

Stages `budget100`, `budget300` and `budget1000` behind a policy with a value;
their reports say what every strategy drew of it, and with what sizes.

Variants:
  make24          continues lookahead.py:make24, first seed
                  (docs/results/budgets.md).
  countdown_tiny  continues lookahead.py:countdown_tiny.
"""

import functools

import ml_collections

from configs import base
from configs import kinds
from configs import lookahead

SOLVERS = (
    'samples', 'revisions', 'beam', 'dvts', 'best_first', 'mcts', 'particles')
_BEFORE = ('problems', 'traces', 'tokenizer', 'sft', 'answers0', 'labels0',
           'value0')


def get_config(variant: str = 'make24') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  c = base.choose(VARIANTS, variant)()
  policy = 'value0/solution_only_permuted'
  c.stages = _BEFORE
  for tokens in (100, 300, 1_000):
    name = f'budget{tokens}'
    c[name] = e = kinds.evaluate(
        policies=(policy,), solvers=SOLVERS, num_problems=320,
        num_curve_problems=0)
    e.budget.tokens = tokens
    e.samples.update(dict(max_new_tokens=40, batch_size=128))
    e.search.update(dict(
        value='mixture', branching=2, step_length=9,
        num_slots=16))  # a block's
    e.search.valuing.weights = (1.0, 5.0)
    e.episodes.update(dict(num_episodes=2, num_questions=16, num_slots=64))
    c.stages += (name,)
  return c


VARIANTS = {
    name: functools.partial(lookahead.get_config, name)
    for name in ('make24', 'countdown_tiny')}
