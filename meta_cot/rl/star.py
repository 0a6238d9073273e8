# SPDX-License-Identifier: Apache-2.0
"""Expert iteration: STaR, arXiv 2501.04682, Eq. 2."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from meta_cot.objectives import erl2
from meta_cot.rl import credit as credit_lib
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import scoring


@dataclasses.dataclass(frozen=True)
class Imitation:
  """Likelihood of trajectories whose last episode is right: STaR (Eq. 2).

  An iteration is a round of expert iteration: sample, keep what is right, learn
  it. Nothing pushes away from what is wrong.
  """

  needs: ClassVar[frozenset[str]] = frozenset()
  is_by_advantage: ClassVar[bool] = True

  def num_episodes(self, configured: int) -> int:
    return configured

  def weights(
      self, num_episodes: int, progress: jax.Array | float) -> jax.Array:
    del progress
    return erl2.reward_weights(num_episodes, 0.0)

  def credit(self, evidence: credit_lib.Evidence) -> credit_lib.Credit:
    rows, verdicts = evidence.rows, evidence.verdicts
    is_kept_N = (verdicts.rewards[:, -1] > 0) & verdicts.is_judged
    is_kept_Rx1 = is_kept_N[rows.trajectory][:, None]
    return credit_lib.Credit(
        advantages=(rows.is_sampled & is_kept_Rx1).astype(jnp.float32),
        targets=None, is_flat=~is_kept_N)

  def loss(
      self, scores: scoring.Scores, batch: objective_lib.Batch,
      kl_coefficient: jax.Array,
  ) -> tuple[jax.Array, objective_lib.Sums]:
    del kl_coefficient
    return -batch.advantages * scores.plain, dict(imitated=jnp.sum(
        jnp.where(batch.is_trained, batch.advantages, 0.0)))
