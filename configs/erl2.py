# SPDX-License-Identifier: Apache-2.0
"""E-RL^2: reinforcement learning on the last of several attempts.

  python -m meta_cot.main --config=configs/erl2.py:tiny --workdir=runs/tiny

The experiments of `configs/countdown.py` with one more arm, `revisions` (wrong
attempts, then the right one), and one more stage, `rl`, which tunes it. In the
workdir of a finished one only these run.

Variants:
  tiny    continues countdown.py:tiny.
  laptop  continues countdown.py:laptop.
  gpu     continues countdown.py:gpu; not yet run.
  pod     continues countdown.py:pod; not yet run.
"""

import ml_collections

from configs import countdown


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """The experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  if variant not in VARIANTS:
    raise ValueError(
        f'variant: got {variant!r}; must be one of {", ".join(VARIANTS)}.')
  config = countdown.get_config(variant)
  config.arms += ('revisions',)
  config.stages += ('rl',)
  VARIANTS[variant](config)
  return config


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.rl.num_iterations = 60
  c.rl.episode_length = 16
  c.rl.optimizer.learning_rate = 3e-4


VARIANTS = {'tiny': _tiny}
