# SPDX-License-Identifier: Apache-2.0
"""Notations of numbers: which let a model search for targets it never saw?

  python -m meta_cot.main --config=configs/notation.py:laptop \
      --workdir=runs/notation

The problems of `configs/countdown.py:tiny`, written in three ways: `numbers`
(one token a number), `digits` (one a digit), `compared` (one a digit, and
behind it whether it is the target's). Stage `compared3000000` trains on traces
in the last way for so many tokens, and so on.

Variants:
  laptop  three seeds, 1.5M and 3M tokens a run, 30 runs: an hour on two CPU
          cores; docs/results/notation.md.
"""

import ml_collections

from configs import base
from configs import countdown
from configs import kinds

SEEDS = (0, 1, 2)
AMOUNTS = (1_500_000, 3_000_000)  # tokens of a run
NOTATIONS = {  # name -> style, largest number that is a token, arms
    'numbers': ('compact', 60, ('traces', 'solution_only')),
    'digits': ('compact', None, ('traces', 'solution_only')),
    'compared': ('compact_digits', None, ('traces',)),  # solutions: as digits
}


def get_config(variant: str = 'laptop') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  c = countdown.get_config('tiny')
  change(c)
  return c


def _laptop(c: ml_collections.ConfigDict) -> None:
  tokenizers, trained = [], []
  for name, (style, largest, arms) in NOTATIONS.items():
    tokenizer = f'{name}_tokenizer'
    c[tokenizer] = kinds.tokenizer(style=style)
    c[tokenizer].vocabulary.number_tokens = largest
    tokenizers.append(tokenizer)
    for amount in AMOUNTS:
      stage = f'{name}{amount}'
      c[stage] = c.sft.copy_and_resolve_references()
      c[stage].update(dict(
          tokenizer=tokenizer, style=style, arms=arms, seeds=SEEDS,
          num_tokens=amount, save_every_steps=1_000_000))
      trained.append(stage)
  del c.sft, c.tokenizer
  c.evaluate.update(dict(
      policies=tuple(trained), reference=f'{trained[-1]}/traces/seed0',
      solvers=('greedy',), num_curve_problems=0))
  c.stages = ('problems', 'traces', *tokenizers, *trained, 'evaluate')


VARIANTS = {'laptop': _laptop}
