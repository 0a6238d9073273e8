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


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """The experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  config = countdown.get_config(variant)
  config.stages += ('search',)
  change(config)
  return config


def _small(c: ml_collections.ConfigDict) -> None:
  c.search.strategies = ('beam', 'dvts', 'best_first', 'mcts')
  c.search.num_problems = 500
  c.search.chunk_steps = 1  # best_first stops after anything from two to eight
  c.search.branching = 8
  c.search.num_expansions = 8  # the root and its children have 9
  c.search.num_simulations = 8
  c.search.step_length = 8  # S, two numbers, their sign, =, a result, a comma
  c.search.temperature = 1.5  # at 1 most steps of a node are the same


VARIANTS = {'tiny': _small, 'laptop': _small}
