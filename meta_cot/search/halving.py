# SPDX-License-Identifier: Apache-2.0
"""Gumbel search: sequential halving at the root, completed Q-values below.

Danihelka et al. 2022, "Policy improvement by planning with Gumbel"; the
schedule is that of Karnin et al. 2013. Everything is for one problem.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from meta_cot.search import base
from meta_cot.search import selection
from meta_cot.search import subtree
from meta_cot.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of `rule='gumbel'`; raises a ValueError where one is out of its range."""

  max_considered: int = 16  # children of the root that are tried at most
  gumbel_scale: float = 1.0  # 0: no noise, the likeliest children are tried
  value_scale: float = 0.1  # c_scale, weight of Q against the log-probs
  max_visit_init: float = 50.0  # c_visit, added to the most visits

  def __post_init__(self):
    base.check_positive(max_considered=self.max_considered)
    for name in ('gumbel_scale', 'value_scale', 'max_visit_init'):
      value = getattr(self, name)
      if not 0.0 <= value < float('inf'):
        raise ValueError(f'{name}: got {value}; must be finite and at least 0.')


DEFAULTS = Settings()


def noise(rng: PRNGKey, branching: int, settings: Settings) -> jax.Array:
  """Gumbel noise for A = `branching` children of the root, [A] float32."""
  return settings.gumbel_scale * jax.random.gumbel(
      rng, (branching,), jnp.float32)


def schedule(num_considered: int, num_simulations: int) -> np.ndarray:
  """How often a child was visited whose turn it is, per simulation, int32.

  Every round shares the simulations evenly among the children that are left,
  and leaves the better half of them, at least two.
  """
  if num_considered <= 1:
    return np.arange(num_simulations, dtype=np.int32)
  num_rounds = (num_considered - 1).bit_length()
  turns, visits, num_left = [], 0, num_considered
  while len(turns) < num_simulations:
    for _ in range(max(1, num_simulations // (num_rounds * num_left))):
      turns += [visits] * num_left
      visits += 1
    num_left = max(2, num_left // 2)
  return np.array(turns[:num_simulations], np.int32)


def root_scores(
    choice: selection.Choice, began: subtree.Progress, noise_A: jax.Array, *,
    num_simulations: int, settings: Settings,
) -> jax.Array:
  """Noise + log-prob + completed Q of those whose turn it is, [A]."""
  choice, branching = _usable(choice), len(noise_A)
  # The simulation that expands the root visits none of its children.
  plans = np.zeros((2, branching + 1, num_simulations), np.int32)
  for has_root in (0, 1):
    num_visits = num_simulations - 1 + has_root
    for num_valid in range(branching + 1):
      plans[has_root, num_valid, :num_visits] = schedule(
          min(num_valid, settings.max_considered), num_visits)
  visits_A = choice.visits.astype(jnp.int32) - began.visits
  num_valid = jnp.sum(choice.is_valid, dtype=jnp.int32)
  num_done = jnp.sum(visits_A, where=choice.is_valid)
  turn = jnp.asarray(plans)[
      began.is_expanded.astype(jnp.int32), num_valid,
      jnp.minimum(num_done, num_simulations - 1)]
  return _among(choice, visits_A == turn, noise_A, settings)


def final_scores(
    choice: selection.Choice, noise_A: jax.Array, settings: Settings
) -> jax.Array:
  """Noise + log-prob + completed Q of the most visited children, [A]."""
  choice = _usable(choice)
  most = jnp.max(choice.visits, where=choice.is_valid, initial=0.0)
  return _among(choice, choice.visits == most, noise_A, settings)


def inner_scores(choice: selection.Choice, settings: Settings) -> jax.Array:
  """How much the improved policy exceeds the share of visits, [A]."""
  choice = _usable(choice)
  improved_A = selection.priors(choice.replace(
      log_probs=selection.logits(choice) + completed_q(choice, settings)))
  total = jnp.sum(choice.visits, where=choice.is_valid)
  return jnp.where(
      choice.is_valid, improved_A - choice.visits / (1.0 + total), -jnp.inf)


def completed_q(choice: selection.Choice, settings: Settings) -> jax.Array:
  """sigma(completed Q), [A], of Danihelka et al.; rescaled to [0, 1] first.

  An unvisited child has the mixed value v_mix of their Appendix D, not the
  value that the step function gave it.
  """
  is_seen_A = choice.is_valid & (choice.visits > 0)
  priors_A = jnp.maximum(
      selection.priors(choice), jnp.finfo(jnp.float32).tiny)
  weights_A = jnp.where(is_seen_A, priors_A, 0.0)
  weights_A /= jnp.maximum(
      jnp.sum(weights_A), jnp.finfo(jnp.float32).tiny)
  seen_value = jnp.sum(weights_A * choice.q_values, where=is_seen_A)
  total = jnp.sum(choice.visits, where=choice.is_valid)
  mixed = (choice.node_value + total * seen_value) / (1.0 + total)
  completed_A = jnp.where(is_seen_A, choice.q_values, mixed)
  low = jnp.min(completed_A, where=choice.is_valid, initial=jnp.inf)
  high = jnp.max(completed_A, where=choice.is_valid, initial=-jnp.inf)
  most = jnp.max(choice.visits, where=choice.is_valid, initial=0.0)
  scale = settings.value_scale * (settings.max_visit_init + most)
  # Below that a difference is rounding, which must not be blown up to [0, 1].
  is_flat = high - low < 1e-5
  return jnp.where(
      is_flat, 0.0,
      scale * (completed_A - low) / jnp.where(is_flat, 1.0, high - low))


def _usable(choice: selection.Choice) -> selection.Choice:
  """Without the children whose value is NaN or -inf, if there are others."""
  is_usable_A = choice.is_valid & (choice.q_values > -jnp.inf)
  return choice.replace(is_valid=jnp.where(
      jnp.any(is_usable_A), is_usable_A, choice.is_valid))


def _among(choice, is_meant_A, noise_A, settings) -> jax.Array:
  """The scores of some children; -inf for the others. All if there are none."""
  is_meant_A &= choice.is_valid
  is_meant_A |= ~jnp.any(is_meant_A)
  logits_A = selection.logits(choice)
  logits_A -= jnp.max(
      logits_A, where=choice.is_valid, initial=selection.NO_PROB)
  scores_A = noise_A + logits_A + completed_q(choice, settings)
  return jnp.where(is_meant_A, jnp.maximum(scores_A, -1e9), -jnp.inf)
