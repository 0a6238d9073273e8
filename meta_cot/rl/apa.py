# SPDX-License-Identifier: Apache-2.0
"""Advantage-induced policy alignment (APA, arXiv 2306.02231)."""

import dataclasses

import jax
import jax.numpy as jnp

from meta_cot.rl import episodic
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import scoring


@dataclasses.dataclass(frozen=True)
class Apa(episodic.Episodic):
  """Regression of log-probabilities on those of the start and advantages.

  (log pi - log pi_start - A / lambda)^2 per token: the policy is drawn to
  pi_start exp(A / lambda), which but for a factor is the best one under a KL of
  weight lambda to the start. No ratio is clipped, and a token without an
  advantage is drawn back to the start.
  """

  @property
  def needs(self) -> frozenset[str]:
    return super().needs | {'reference'}

  @property
  def is_by_advantage(self) -> bool:
    return False

  def by_advantage(
      self, scores: scoring.Scores, batch: objective_lib.Batch
  ) -> tuple[jax.Array, objective_lib.Sums]:
    scale, mask = self.loss_settings.apa_lambda, batch.is_trained
    # Masked before the square: gradients of forced tokens stay finite.
    errors_RxX = jnp.where(
        mask, scores.plain - batch.reference - batch.advantages / scale, 0.0)
    losses_RxX = jnp.square(errors_RxX)
    return losses_RxX, dict(
        apa_error=jnp.sum(jax.lax.stop_gradient(losses_RxX)))
