# SPDX-License-Identifier: Apache-2.0
"""What a policy learns from its own trajectories: one object per objective.

A new objective is a file beside this one and a line in OBJECTIVES. Axes as in
`rl.credit`.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import ClassVar, Protocol

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.objectives import erl2
from meta_cot.objectives import kl
from meta_cot.objectives import policy_gradient
from meta_cot.objectives import value as value_lib
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
  is_trained: jax.Array  # [R, X] bool, drawn, and of a judged trajectory
  weights: jax.Array  # [R, X] float32, of losses in the sum; see `update.weigh`
  reference: jax.Array | None  # [R, X] float32, log-probs at temperature 1
  targets: jax.Array | None  # [R, X] float32, of the value head
  old_values: jax.Array | None  # [R, X] float32
  # [R] float32, what a nat of entropy counts; None: 0.
  entropy_bonus: jax.Array | None = None
  # Of all rows; of every micro-batch too, which has equally many of each.
  prompts: scoring.Prompts | None = None


class Objective(Protocol):
  """What is learned; the methods are pure, all but `num_episodes` traced."""

  # Of 'reference' (log-probs of the start), 'log_probs' (of the policy before
  # its updates, at temperature 1), 'values' (of the value head, then too) and
  # 'continuations' (Monte-Carlo values before every step): what `credit` and
  # `loss` read, and so which programs there are.
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


@dataclasses.dataclass(frozen=True)
class Episodic:
  """Weighted rewards of episodes, an advantage, a clipped policy gradient."""

  credit_settings: credit_lib.CreditConfig
  loss_settings: LossConfig
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
    if self.loss_settings.has_penalty:
      evidence = evidence.replace(penalty=credit_lib.penalty(evidence))
    num_episodes = evidence.verdicts.rewards.shape[1]
    settings = self.credit_settings
    if self.is_myopic:
      settings = dataclasses.replace(settings, episode_discount=0.0)
    return self._advantage.assign(
        settings, evidence,
        self.weights(num_episodes, evidence.progress))

  def loss(
      self, scores: scoring.Scores, batch: Batch, kl_coefficient: jax.Array
  ) -> tuple[jax.Array, Sums]:
    settings, mask = self.loss_settings, batch.is_trained
    losses_RxX, sums = policy_gradient.clipped(
        scores.sampled, batch.rows.behaviour, batch.advantages, mask,
        level=settings.ratio_level, clip_low=settings.clip_low,
        clip_high=settings.clip_high)
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

  @property
  def _advantage(self) -> credit_lib.Advantage:
    return credit_lib.ADVANTAGES[self.credit_settings.advantage]


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
      self, scores: scoring.Scores, batch: Batch, kl_coefficient: jax.Array
  ) -> tuple[jax.Array, Sums]:
    del kl_coefficient
    return -batch.advantages * scores.plain, dict(imitated=jnp.sum(
        jnp.where(batch.is_trained, batch.advantages, 0.0)))


# J = E[r_K], the final episode only (Eq. 14); J = E[sum_k r_k] (Eq. 13); what
# is between them, where earlier episodes count `earlier_weight`; every episode
# by itself, whatever follows; standard reinforcement learning; E-RL^2 first,
# RL^2 after it, in the manner of the two stages of SCoRe (arXiv 2409.12917,
# sec. 5); expert iteration.
OBJECTIVES: dict[
    str, Callable[[credit_lib.CreditConfig, LossConfig], Objective]
] = {
    'erl2': functools.partial(Episodic, early=0.0, late=0.0),
    'rl2': functools.partial(Episodic, early=1.0, late=1.0),
    'weighted': functools.partial(Episodic, early=None, late=None),
    'myopic': functools.partial(
        Episodic, early=1.0, late=1.0, is_myopic=True),
    'single': functools.partial(
        Episodic, early=0.0, late=0.0, is_single=True),
    'score': functools.partial(Episodic, early=0.0, late=1.0),
    'star': lambda credit, loss: Imitation(),
}
