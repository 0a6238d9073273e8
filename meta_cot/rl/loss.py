# SPDX-License-Identifier: Apache-2.0
"""The clipped policy gradient with its KL, entropy and value terms.

Axes: R rows, X positions.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.objectives import kl
from meta_cot.objectives import policy_gradient
from meta_cot.objectives import value as value_lib
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
  value_coefficient: float = config_lib.setting(low=0.0)
  value_clip: float | None = config_lib.setting(above=0.0)

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
  def has_penalty(self) -> bool:
    """Whether the KL to the reference is subtracted from the reward."""
    return self.kl_in == 'reward'


@struct.dataclass
class Batch:
  """All rows of an iteration, with what was computed once for them."""

  rows: rows_lib.Rows
  advantages: jax.Array  # [R, X] float32
  is_trained: jax.Array  # [R, X] bool, drawn, and of a judged trajectory
  reference: jax.Array | None  # [R, X] float32, log-probs at temperature 1
  targets: jax.Array | None  # [R, X] float32, of the value head
  old_values: jax.Array | None  # [R, X] float32
  # Of all rows; of every micro-batch too, which has equally many of each.
  prompts: scoring.Prompts | None = None


def clipped(
    settings: LossConfig, scores: scoring.Scores, batch: Batch,
    kl_coefficient: jax.Array,
) -> tuple[jax.Array, Sums]:
  """Computes the loss of every token of a micro-batch.

  Clipped policy gradient, plus beta * KL to the reference (with `kl_in`
  'loss'), minus the entropy bonus, plus the value loss (with targets).

  Args:
    settings: of the loss.
    scores: of the rows, by the parameters that are trained.
    batch: a micro-batch.
    kl_coefficient: beta.

  Returns:
    Losses [R, X] float32, read where tokens are trained, and totals.
  """
  mask = batch.is_trained
  losses_RxX, policy = policy_gradient.clipped(
      scores.sampled, batch.rows.behaviour, batch.advantages, mask,
      level=settings.ratio_level, clip_low=settings.clip_low,
      clip_high=settings.clip_high)
  sums = dict(
      ratio=policy.ratio, clipped_low=policy.clipped_low,
      clipped_high=policy.clipped_high, ruled_out=policy.ruled_out)
  if settings.kl_in == 'loss':
    losses_RxX += kl_coefficient * kl.in_loss(
        scores.plain, batch.reference, mask, settings.kl_estimator)
  if settings.entropy_bonus:
    losses_RxX -= settings.entropy_bonus * jnp.where(mask, scores.entropy, 0.0)
  if batch.targets is not None:
    old_RxX = None if settings.value_clip is None else batch.old_values
    errors_RxX, value = value_lib.squared_error(
        scores.values, batch.targets, mask, old_values_RxL=old_RxX,
        clip=settings.value_clip)
    losses_RxX += settings.value_coefficient * errors_RxX
    sums['value_error'] = value.squared_error
  return losses_RxX, sums
