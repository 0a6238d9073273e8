# SPDX-License-Identifier: Apache-2.0
"""Search with a model that was trained on solutions: beam, best-first, MCTS.

  python -m meta_cot.main --config=configs/search.py:tiny --workdir=runs/tiny

The experiments of `configs/countdown.py` with one more stage, `search`: in the
workdir of a finished one only that stage runs.

Variants:
  tiny    continues countdown.py:tiny.
  laptop  continues countdown.py:laptop.
"""

import ml_collections

from configs import base
from configs import countdown
from configs import kinds


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  c = countdown.get_config(variant)
  change(c)
  c.stages += ('search',)
  return c


def _small(c: ml_collections.ConfigDict) -> None:
  policy = 'sft/solution_only'
  c.search = kinds.evaluate(
      policies=(policy,), reference=policy, num_problems=500,
      num_curve_problems=0,
      solvers=('greedy', 'samples', 'beam', 'dvts', 'best_first', 'mcts'))
  # At temperature 1 most steps of a node are the same.
  c.search.samples.temperature = c.search.search.temperature = 1.5
  c.search.search.update(dict(
      chunk_steps=1,  # best_first stops after anything from two to eight
      branching=8,
      num_expansions=8,  # the root and its children have 9
      num_simulations=8,
      step_length=10))  # S, two numbers, their sign, =, a result, a comma


VARIANTS = {'tiny': _small, 'laptop': _small}
