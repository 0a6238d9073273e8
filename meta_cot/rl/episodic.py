# SPDX-License-Identifier: Apache-2.0
"""Policy gradients over episodes: E-RL^2, RL^2 and what is between them."""

import dataclasses

import jax
import jax.numpy as jnp

from meta_cot.objectives import erl2
from meta_cot.objectives import kl
from meta_cot.objectives import policy_gradient
from meta_cot.objectives import value as value_lib
from meta_cot.rl import credit as credit_lib
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import scoring


@dataclasses.dataclass(frozen=True)
class Episodic:
  """Weighted rewards of episodes, an advantage, a clipped policy gradient."""

  credit_settings: credit_lib.CreditConfig
  loss_settings: objective_lib.LossConfig
  early: float | None  # weight of the episodes before the last; None: as set
  late: float | None  # the same at the end of the run
  is_single: bool = False  # there is one episode
  is_myopic: bool = False  # no episode earns anything by those behind it

  @property
  def needs(self) -> frozenset[str]:
    settings, needs = self.loss_settings, set(self._advantage.needs)
    if settings.kl_in != 'none':
      needs.add('reference')
    if settings.has_penalty:
      needs.add('log_probs')
    return frozenset(needs)

  @property
  def is_by_advantage(self) -> bool:
    settings = self.loss_settings
    has_kl = settings.kl_in == 'loss' and (
        settings.kl_coefficient > 0 or settings.kl_target is not None)
    return not (
        has_kl or settings.has_entropy or 'values' in self.needs)

  def num_episodes(self, configured: int) -> int:
    return 1 if self.is_single else configured

  def weights(
      self, num_episodes: int, progress: jax.Array | float) -> jax.Array:
    weight = self.early
    if weight is None:
      weight = self.credit_settings.earlier_weight
    elif self.late != self.early:
      weight = erl2.annealed(
          self.early, self.late, progress=progress,
          hold=self.credit_settings.score_hold)
    return erl2.reward_weights(num_episodes, weight)

  def credit(self, evidence: credit_lib.Evidence) -> credit_lib.Credit:
    return self.by_returns(evidence, self.weights(
        evidence.verdicts.rewards.shape[1], evidence.progress))

  def by_returns(
      self, evidence: credit_lib.Evidence, weights_E: jax.Array
  ) -> credit_lib.Credit:
    """Gives every token its advantage, where episodes count so much."""
    if self.loss_settings.has_penalty:
      evidence = evidence.replace(penalty=credit_lib.penalty(evidence))
    settings = self.credit_settings
    if self.is_myopic:
      settings = dataclasses.replace(settings, episode_discount=0.0)
    return self._advantage.assign(settings, evidence, weights_E)

  def loss(
      self, scores: scoring.Scores, batch: objective_lib.Batch,
      kl_coefficient: jax.Array,
  ) -> tuple[jax.Array, objective_lib.Sums]:
    settings, mask = self.loss_settings, batch.is_trained
    losses_RxX, sums = self.by_advantage(scores, batch)
    if settings.kl_in == 'loss':
      losses_RxX += kl_coefficient * kl.penalty(
          scores.plain, batch.reference, mask, settings.kl_estimator)
    if batch.entropy_bonus is not None:
      losses_RxX -= batch.entropy_bonus[:, None] * jnp.where(
          mask, scores.entropy, 0.0)
    if batch.targets is not None:
      errors_RxX, sums['value_error'] = value_lib.squared_error(
          scores.values, batch.targets, mask, clip=settings.value_clip,
          old_values_RxL=batch.old_values)
      losses_RxX += settings.value_coefficient * errors_RxX
    return losses_RxX, sums

  def by_advantage(
      self, scores: scoring.Scores, batch: objective_lib.Batch
  ) -> tuple[jax.Array, objective_lib.Sums]:
    """Computes the part of the loss that reads advantages."""
    settings = self.loss_settings
    return policy_gradient.clipped(
        scores.sampled, batch.rows.behaviour, batch.advantages,
        batch.is_trained, level=settings.ratio_level,
        clip_low=settings.clip_low, clip_high=settings.clip_high)

  @property
  def _advantage(self) -> credit_lib.Advantage:
    return credit_lib.ADVANTAGES[self.credit_settings.advantage]
