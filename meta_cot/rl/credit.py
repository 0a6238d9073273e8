# SPDX-License-Identifier: Apache-2.0
"""From verdicts to the advantage of every token.

Axes: Q questions, G samples, N = Q * G trajectories, E episodes, J steps of a
trajectory, R rows, X positions.
"""

from collections.abc import Callable
import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.objectives import advantages
from meta_cot.objectives import erl2
from meta_cot.objectives import kl
from meta_cot.rollouts import rows as rows_lib
from meta_cot.settings import config as config_lib


@struct.dataclass
class Verdicts:
  """What the verifier says of the episodes of an iteration."""

  rewards: jax.Array  # [N, E] float32; 0 where there was no episode
  is_taken: jax.Array  # [N, E] bool
  # [N] bool; False: the verifier could not say of an episode that counts.
  is_judged: jax.Array
  tokens_before: jax.Array  # [N, E] int32, drawn before the answer's mark
  discounts: jax.Array  # [N] float32


@struct.dataclass
class Evidence:
  """What credit is given by; None where the objective does not need it."""

  rows: rows_lib.Rows  # of N trajectories
  verdicts: Verdicts
  progress: jax.Array | float  # share of the run that is done
  kl_coefficient: jax.Array | float
  reference: jax.Array | None = None  # [R, X] float32, see `Objective.needs`
  log_probs: jax.Array | None = None  # [R, X] float32
  values: jax.Array | None = None  # [R, X] float32
  # [N, J] float32, before every step; J is a multiple of E, and step j is one
  # of episode j // (J / E).
  step_values: jax.Array | None = None
  steps: jax.Array | None = None  # [R, X] int32, of every token; -1: none
  # [N, E] float32, subtracted from the reward of every episode, whatever its
  # weight.
  penalty: jax.Array | None = None
  # [R, X, L] bool, where a row is a tree: the leaves that a token is a part of.
  leaves: jax.Array | None = None
  num_samples: int = struct.field(pytree_node=False, default=1)  # G; of trunks


@struct.dataclass
class Credit:
  """Advantages of the tokens of an iteration, and targets of their values."""

  advantages: jax.Array  # [R, X] float32; 0 where nothing was drawn
  targets: jax.Array | None  # [R, X] float32, of the value head
  is_flat: jax.Array  # [N] bool, no token of the trajectory has an advantage
  # [N] float32, of trajectories, where they are no verdicts; else None.
  rewards: jax.Array | None = None


def trained(rows: rows_lib.Rows, verdicts: Verdicts) -> jax.Array:
  """Returns the tokens drawn in judged trajectories, [R, X] bool."""
  return rows.is_sampled & verdicts.is_judged[rows.trajectory][:, None]


def judged_leaves(leaves_RxXxL: jax.Array, verdicts: Verdicts) -> jax.Array:
  """Returns the judged leaves that every token is a part of, [R, X, L] bool."""
  num_rows, _, num_leaves = leaves_RxXxL.shape
  return leaves_RxXxL & verdicts.is_judged.reshape(
      num_rows, 1, num_leaves)


def penalty(evidence: Evidence) -> jax.Array:
  """Sums beta * k1 over the tokens of every episode, [N, E] float32."""
  rows = evidence.rows
  num, num_episodes = evidence.verdicts.rewards.shape
  k1_RxX = evidence.kl_coefficient * kl.penalty(
      evidence.log_probs, evidence.reference, rows.is_sampled, 'k1')
  is_of_RxXxE = rows.episode[..., None] == jnp.arange(num_episodes)[None, None]
  of_rows_RxE = jnp.sum(k1_RxX[..., None] * is_of_RxXxE, axis=1)
  return jax.ops.segment_sum(of_rows_RxE, rows.trajectory, num_segments=num)


def _discounted(evidence: Evidence) -> jax.Array:
  """Rewards [N, E] by the tokens before them."""
  verdicts = evidence.verdicts
  return erl2.discount(
      verdicts.rewards, verdicts.tokens_before, verdicts.discounts)


def _by_comparison(config, evidence, weights_E, *, compare) -> Credit:
  """Credit by comparison of returns with those of other trajectories."""
  if evidence.leaves is not None:
    return _of_trees(evidence, weights_E)
  verdicts = evidence.verdicts
  discount = config.episode_discount
  returns_NxE = erl2.returns_to_go(_discounted(evidence), weights_E, discount)
  if evidence.penalty is not None:
    returns_NxE -= erl2.returns_to_go(
        evidence.penalty, jnp.ones_like(weights_E), discount)
  group = lambda x: x.reshape(-1, evidence.num_samples, *x.shape[1:])
  gains = compare(
      group(returns_NxE), group(verdicts.is_judged)[..., None],
      group(verdicts.is_taken), is_whole=discount == 1)
  return _of_parts(
      config, evidence, gains.reshape(returns_NxE.shape),
      evidence.rows.episode, verdicts.is_taken)


def _of_trees(evidence, weights_E) -> Credit:
  """Credit by comparison of the leaves that share a token with the others."""
  verdicts, leaves_RxXxL = evidence.verdicts, evidence.leaves
  returns_N = erl2.returns_to_go(_discounted(evidence), weights_E)[:, 0]
  num_rows, _, num_leaves = leaves_RxXxL.shape
  by_leaf = lambda x_N: x_N.reshape(-1, evidence.num_samples, num_leaves)
  advantages_RxX = advantages.subtree_rloo(
      by_leaf(returns_N), by_leaf(verdicts.is_judged), leaves_RxXxL.reshape(
          -1, evidence.num_samples, *leaves_RxXxL.shape[1:])).reshape(
              num_rows, -1)
  return Credit(
      advantages=advantages_RxX, targets=None, is_flat=jnp.repeat(
          jnp.all(advantages_RxX == 0, axis=1), num_leaves))


def _of_parts(config, evidence, gains_NxE, of_RxX, is_used_NxE) -> Credit:
  """Hands tokens what their episode or step has gained."""
  rows, verdicts = evidence.rows, evidence.verdicts
  gains_NxE = jnp.where(verdicts.is_judged[:, None], gains_NxE, 0.0)
  advantages_RxX = erl2.of_tokens(gains_NxE[rows.trajectory], of_RxX)
  if config.whiten:
    advantages_RxX = advantages.whiten(
        advantages_RxX, trained(rows, verdicts))
  return Credit(
      advantages=advantages_RxX, targets=None,
      is_flat=jnp.all((gains_NxE == 0) | ~is_used_NxE, axis=1))


def _by_steps(config, evidence, weights_E) -> Credit:
  """Credit by Monte-Carlo values: what was an episode is a step from here on.
  """
  rewards_NxE = _discounted(evidence) * weights_E[None]
  num, num_columns = evidence.step_values.shape
  is_used_NxJ = jnp.any(
      evidence.steps[..., None] == jnp.arange(num_columns)[None, None], axis=1)
  is_used_NxExS = is_used_NxJ.reshape(*rewards_NxE.shape, -1)
  # The steps of an episode are its first ones; the last of them earned it.
  is_last_NxExS = is_used_NxExS & ~jnp.pad(
      is_used_NxExS[..., 1:], ((0, 0), (0, 0), (0, 1)))
  rewards_NxJ = jnp.where(
      is_last_NxExS, rewards_NxE[..., None], 0.0).reshape(num, num_columns)
  gains_NxJ = advantages.vineppo(
      evidence.step_values, rewards_NxJ, is_used_NxJ)
  return _of_parts(config, evidence, gains_NxJ, evidence.steps, is_used_NxJ)


def _middle(values, mask, axis) -> jax.Array:
  """Means where `mask`, exact where the values are equal; 0 for none."""
  some = lambda function, initial: function(
      values, axis=axis, keepdims=True, where=mask, initial=initial)
  number = jnp.sum(mask, axis=axis, keepdims=True)
  mean = some(jnp.sum, 0.0) / jnp.maximum(number, 1)
  return jnp.where(number > 0, jnp.clip(
      mean, some(jnp.min, jnp.inf), some(jnp.max, -jnp.inf)), 0.0)


def _by_head(config, evidence, weights_E) -> Credit:
  """Credit by generalised advantages of the value head."""
  rows = evidence.rows
  # In the unit of the head, which says at most 1.
  rewards_NxE = _discounted(evidence) * weights_E[None] / jnp.sum(weights_E)
  of_episode_RxX = erl2.of_tokens(rewards_NxE[rows.trajectory], rows.episode)
  next_RxX = jnp.pad(
      rows.episode[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
  is_last_RxX = rows.is_sampled & (next_RxX != rows.episode)
  gains_RxX, targets_RxX = advantages.gae(
      jnp.where(is_last_RxX, of_episode_RxX, 0.0), evidence.values,
      rows.is_sampled, gamma=config.gae_gamma, lam=config.gae_lambda)
  is_trained_RxX = trained(rows, evidence.verdicts)
  gains_RxX = jnp.where(is_trained_RxX, gains_RxX, 0.0)
  if config.whiten:
    gains_RxX = advantages.whiten(gains_RxX, is_trained_RxX)
  return Credit(
      advantages=gains_RxX, targets=targets_RxX,
      is_flat=jnp.zeros(len(rewards_NxE), bool).at[rows.trajectory].set(
          jnp.all(gains_RxX == 0, axis=1)))


def _by_progress(config, evidence, weights_E) -> Credit:
  """Credit by the outcome, and by what every step adds to its value.

  MRT, arXiv 2503.07572: the return of a trajectory, beside that of its
  question's others, plus a share of the change of the value by the step. Values
  are those of the policy that goes on from there.
  """
  plain = dataclasses.replace(config, whiten=False)
  outcome = ADVANTAGES['rloo'].assign(plain, evidence, weights_E)
  progress = _by_steps(plain, evidence, weights_E)
  gains_RxX = outcome.advantages + (
      config.progress_weight * progress.advantages)
  if config.whiten:
    gains_RxX = advantages.whiten(
        gains_RxX, trained(evidence.rows, evidence.verdicts))
  return Credit(
      advantages=gains_RxX, targets=None,
      is_flat=outcome.is_flat & progress.is_flat)


@dataclasses.dataclass(frozen=True)
class Advantage:
  """One way to give credit."""

  # (settings, evidence, weights [E] of the rewards) -> credit.
  assign: Callable[..., Credit]
  # Of `Objective.needs`. Values are probabilities of whole contexts: with any,
  # no attempt is out of sight and no penalty in the reward.
  needs: frozenset[str] = frozenset()
  min_samples: int = 1  # of a question, that are compared


def _comparing(compare, min_samples: int = 2) -> Advantage:
  """By (returns, judged, taken) [Q, G, E or 1] -> advantages [Q, G, E].

  `is_whole` says that no return to go but that of the first episode is needed.
  """
  return Advantage(
      functools.partial(_by_comparison, compare=compare),
      min_samples=min_samples)


def _of_whole(function, axis=1, **settings) -> Advantage:
  """By whole trajectories, or episode by episode: returns [Q, G] -> advantages.
  """
  def compare(returns, judged, taken, is_whole):
    del taken
    # One that nobody can judge stands where it moves no baseline.
    returns = jnp.where(judged, returns, _middle(returns, judged, axis))
    if not is_whole:
      return jax.vmap(function, 2, 2)(returns)
    return jnp.broadcast_to(
        function(returns[..., 0])[..., None], returns.shape)

  return _comparing(compare, **settings)


ADVANTAGES: dict[str, Advantage] = {
    'reinforce': _of_whole(
        advantages.reinforce, axis=(0, 1), min_samples=1),
    'rloo': _of_whole(advantages.rloo),
    'step_rloo': _comparing(
        lambda returns, judged, taken, is_whole: advantages.step_rloo(
            returns, taken & judged)),
    'grpo': _of_whole(functools.partial(advantages.grpo, use_std=True)),
    'grpo_no_std': _of_whole(
        functools.partial(advantages.grpo, use_std=False)),
    'vineppo': Advantage(_by_steps, needs=frozenset({'continuations'})),
    'mrt': Advantage(
        _by_progress, needs=frozenset({'continuations'}), min_samples=2),
    'gae': Advantage(_by_head, needs=frozenset({'values'})),
}


@dataclasses.dataclass(frozen=True)
class CreditConfig:
  """Returns and advantages; see `configs/base.py`."""

  earlier_weight: float = config_lib.setting(low=0.0, high=1.0)
  episode_discount: float = config_lib.setting(low=0.0, high=1.0)
  score_hold: float = config_lib.setting(low=0.0, high=1.0)
  discounts: tuple[float, ...] = config_lib.setting(above=0.0, high=1.0)
  discount_prompts: tuple[str, ...] = config_lib.setting()
  advantage: str = config_lib.setting(choices=ADVANTAGES)
  whiten: bool = config_lib.setting()
  num_rollouts: int = config_lib.setting(low=1)
  num_steps: int = config_lib.setting(low=1)
  progress_weight: float = config_lib.setting(low=0.0)
  step_end: str = config_lib.setting()
  gae_gamma: float = config_lib.setting(low=0.0, high=1.0)
  gae_lambda: float = config_lib.setting(low=0.0, high=1.0)

  def __post_init__(self):
    if len(self.discounts) != len(self.discount_prompts):
      raise config_lib.ConfigError(
          f'discount_prompts: got {len(self.discount_prompts)} prompts for '
          f'{len(self.discounts)} discounts; there must be one for each.')
    if not self.discounts:
      raise config_lib.ConfigError(
          'discounts: got none; must be at least one, 1.0 for no discount.')
    if self.episode_discount < 1 and ADVANTAGES[self.advantage].needs:
      raise config_lib.ConfigError(
          f'episode_discount: got {self.episode_discount} with advantage '
          f'{self.advantage!r}, whose values are of whole trajectories; must '
          'be 1.0.')
    if self.score_hold == 1:
      raise config_lib.ConfigError(
          'score_hold: got 1.0; must be less than 1.0.')
