# SPDX-License-Identifier: Apache-2.0
"""What a policy learns from its own trajectories: one object per objective.

A new objective is a file beside this one and a line in OBJECTIVES. Axes as in
`rl.credit`.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Protocol

import jax

from meta_cot.objectives import erl2
from meta_cot.rl import credit as credit_lib
from meta_cot.rl import loss as loss_lib
from meta_cot.rl import scoring


class Objective(Protocol):
  """What is learned; the methods are pure, all but `num_episodes` traced."""

  # Of 'reference' (log-probs of the start), 'log_probs' (of the policy before
  # its updates, at temperature 1), 'values' (of the value head, then too) and
  # 'continuations' (Monte-Carlo values before every step): what `credit` and
  # `loss` read, and so which programs there are.
  needs: frozenset[str]

  def num_episodes(self, configured: int) -> int:
    """Returns how many attempts a trajectory has; `configured` are asked for.
    """

  def weights(
      self, num_episodes: int, progress: jax.Array | float) -> jax.Array:
    """Returns what the reward of each episode counts, [E] float32.

    Args:
      num_episodes: E.
      progress: share of the run that is done. Trajectories are left out where
        the verifier could not decide an episode that counts at 1.
    """

  def credit(self, evidence: credit_lib.Evidence) -> credit_lib.Credit:
    """Gives every token its advantage."""

  def loss(
      self, scores: scoring.Scores, batch: loss_lib.Batch,
      kl_coefficient: jax.Array,
  ) -> tuple[jax.Array, loss_lib.Sums]:
    """Computes losses of tokens [R, X] float32, and totals to be logged."""


@dataclasses.dataclass(frozen=True)
class Episodic:
  """Weighted rewards of episodes, an advantage, a clipped policy gradient."""

  credit_settings: credit_lib.CreditConfig
  loss_settings: loss_lib.LossConfig
  early: float  # weight of the episodes before the last
  late: float  # the same at the end of the run
  is_single: bool = False  # there is one episode

  @property
  def needs(self) -> frozenset[str]:
    needs = self._advantage.needs | {'reference'}
    return needs | ({'log_probs'} if self.loss_settings.has_penalty else set())

  def num_episodes(self, configured: int) -> int:
    return 1 if self.is_single else configured

  def weights(
      self, num_episodes: int, progress: jax.Array | float) -> jax.Array:
    weight = self.early
    if self.late != self.early:
      weight = erl2.annealed(
          self.early, self.late, progress=progress,
          hold=self.credit_settings.score_hold)
    return erl2.reward_weights(num_episodes, weight)

  def credit(self, evidence: credit_lib.Evidence) -> credit_lib.Credit:
    if self.loss_settings.has_penalty:
      evidence = evidence.replace(penalty=credit_lib.penalty(evidence))
    num_episodes = evidence.verdicts.rewards.shape[1]
    return self._advantage.assign(
        self.credit_settings, evidence,
        self.weights(num_episodes, evidence.progress))

  def loss(
      self, scores: scoring.Scores, batch: loss_lib.Batch,
      kl_coefficient: jax.Array,
  ) -> tuple[jax.Array, loss_lib.Sums]:
    return loss_lib.clipped(self.loss_settings, scores, batch, kl_coefficient)

  @property
  def _advantage(self) -> credit_lib.Advantage:
    return credit_lib.ADVANTAGES[self.credit_settings.advantage]


# J = E[r_K], the final episode only (Eq. 14); J = E[sum_k r_k] (Eq. 13);
# standard reinforcement learning; E-RL^2 first, RL^2 after it, in the manner of
# the two stages of SCoRe (arXiv 2409.12917, sec. 5).
OBJECTIVES: dict[
    str, Callable[[credit_lib.CreditConfig, loss_lib.LossConfig], Objective]
] = {
    'erl2': functools.partial(Episodic, early=0.0, late=0.0),
    'rl2': functools.partial(Episodic, early=1.0, late=1.0),
    'single': functools.partial(
        Episodic, early=0.0, late=0.0, is_single=True),
    'score': functools.partial(Episodic, early=0.0, late=1.0),
}
