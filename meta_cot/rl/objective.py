# SPDX-License-Identifier: Apache-2.0
"""What a policy learns from its own trajectories: what all objectives share.

A new objective is a file beside this one and a line in `family.OBJECTIVES`.
Axes as in `rl.credit`.
"""

import dataclasses
from typing import Protocol

from flax import struct
import jax

from meta_cot.objectives import erl2
from meta_cot.objectives import kl
from meta_cot.objectives import policy_gradient
from meta_cot.rl import credit as credit_lib
from meta_cot.rl import scoring
from meta_cot.rollouts import rows as rows_lib
from meta_cot.settings import config as config_lib

# Totals over the trained tokens of a micro-batch, logged as means: all add up.
Sums = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """What is minimised; see `configs/base.py`."""

  ratio_level: str = config_lib.setting(choices=policy_gradient.LEVELS)
  clip_low: float = config_lib.setting(low=0.0, high=1.0)
  clip_high: float = config_lib.setting(low=0.0)
  token_weights: str = config_lib.setting(choices=policy_gradient.WEIGHTINGS)
  kl_in: str = config_lib.setting(choices=('none', 'loss', 'reward'))
  kl_estimator: str = config_lib.setting(choices=kl.ESTIMATORS)
  kl_coefficient: float = config_lib.setting(low=0.0)
  kl_target: float | None = config_lib.setting(above=0.0)
  kl_horizon: int = config_lib.setting(low=1)
  entropy_bonus: float = config_lib.setting(low=0.0)
  entropy_bonus_end: float | None = config_lib.setting(low=0.0)
  value_coefficient: float = config_lib.setting(low=0.0)
  value_clip: float | None = config_lib.setting(above=0.0)
  apa_lambda: float = config_lib.setting(above=0.0)

  def __post_init__(self):
    if self.kl_in == 'loss' and self.kl_estimator not in kl.IN_LOSS:
      raise config_lib.ConfigError(
          f'kl_estimator: got {self.kl_estimator!r} in the loss, where its '
          f'expected gradient is zero; must be one of {", ".join(kl.IN_LOSS)}, '
          'or config.rl.loss.kl_in reward.')
    if self.has_penalty and self.kl_estimator not in kl.IN_REWARD:
      raise config_lib.ConfigError(
          f'kl_estimator: got {self.kl_estimator!r} in the reward; must be '
          f'{", ".join(kl.IN_REWARD)}.')

  @property
  def has_entropy(self) -> bool:
    """Whether entropy is rewarded at any time."""
    return max(self.entropy_bonus, self.entropy_bonus_end or 0.0) > 0

  def bonus(self, progress: jax.Array | float) -> jax.Array | float:
    """Returns what a nat of entropy counts at a share of the run."""
    last = self.entropy_bonus_end
    return self.entropy_bonus if last is None else erl2.annealed(
        self.entropy_bonus, last, progress=progress, hold=0.0)

  @property
  def has_penalty(self) -> bool:
    """Whether the KL to the reference is subtracted from the reward."""
    return self.kl_in == 'reward'


@struct.dataclass
class Batch:
  """All rows of an iteration, with what was computed once for them."""

  rows: rows_lib.Rows
  advantages: jax.Array  # [R, X] float32
  # [R, X] bool, drawn, and of a judged trajectory; or `rows.is_given`.
  is_trained: jax.Array
  weights: jax.Array  # [R, X] float32, of losses in the sum; see `update.weigh`
  reference: jax.Array | None  # [R, X] float32, log-probs at temperature 1
  targets: jax.Array | None  # [R, X] float32, of the value head
  old_values: jax.Array | None  # [R, X] float32
  # [R] float32, what a nat of entropy counts; None: 0.
  entropy_bonus: jax.Array | None = None
  rewards: jax.Array | None = None  # [R] float32, see `Credit`
  # Of all rows; of every micro-batch too, which has equally many of each.
  prompts: scoring.Prompts | None = None


class Objective(Protocol):
  """What is learned; the methods are pure, all but `num_episodes` traced."""

  # Of 'reference' (log-probs of the start), 'log_probs' (of the policy before
  # its updates, at temperature 1), 'values' (of the value head, then too),
  # 'continuations' (Monte-Carlo values before every step) and 'solutions' (of
  # the data, behind what was drawn): what `credit` and `loss` read, and so
  # which programs there are.
  needs: frozenset[str]
  # Whether the loss of a token without an advantage has no gradient: then such
  # questions need no update (`cutting`).
  is_by_advantage: bool

  def num_episodes(self, configured: int) -> int:
    """Returns how many attempts a trajectory has, of `configured` ones."""

  def weights(
      self, num_episodes: int, progress: jax.Array | float) -> jax.Array:
    """Returns what the reward of each episode counts, [E] float32.

    `progress` is the share of the run that is done. Trajectories are left out
    where the verifier could not decide an episode that counts at 1.
    """

  def credit(self, evidence: credit_lib.Evidence) -> credit_lib.Credit:
    """Gives every token its advantage."""

  def loss(
      self, scores: scoring.Scores, batch: Batch, kl_coefficient: jax.Array
  ) -> tuple[jax.Array, Sums]:
    """Computes losses of the tokens of a micro-batch, and totals.

    `scores` are by the parameters that are trained. Losses [R, X] float32 are
    read where tokens are trained.
    """
