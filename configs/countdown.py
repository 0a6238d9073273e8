# SPDX-License-Identifier: Apache-2.0
"""Countdown: can a transformer learn to search, from searches written out?

  python -m meta_cot.main --config=configs/countdown.py:tiny --workdir=runs/tiny

Variants:
  tiny    3 numbers of 1..20, 0.45M parameters; minutes on two CPU cores.
"""

import ml_collections

from configs import base


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """The experiment of one variant."""
  config = base.get_config()
  VARIANTS[variant](config)
  return config


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.arms = ('traces', 'solution_only', 'solution_only_permuted')
  c.countdown.max_value = 60
  c.traces.num_processes = 1  # quicker than starting workers
  c.tokenizer.number_tokens = 60
  c.train.num_tokens = 3_000_000


VARIANTS = {'tiny': _tiny}
