# SPDX-License-Identifier: Apache-2.0
"""Monte-Carlo values before every episode (VinePPO, arXiv 2410.01679).

The value of a context is the mean worth of fresh trajectories that continue
it. A context is read once and shared by all of its continuations.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.rl import episodes
from meta_cot.rl import rollout as rollout_lib
from meta_cot.rl import rows as rows_lib


def contexts(
    rows: rows_lib.Rows, prompt_lengths_N: jax.Array,
    rollouts: episodes.Rollouts,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What was read before every episode but the first.

  Args:
    rows: of the trajectories, one row each.
    prompt_lengths_N: int32, of their prompts.
    rollouts: of the same.

  Returns:
    Tokens [N * (E - 1), X] int32, lengths [N * (E - 1)] int32 and the number of
    the episode that follows. Of an episode that did not take place the context
    is the first token.
  """
  num, num_episodes = rollouts.starts.shape
  later = num_episodes - 1
  tokens = jnp.repeat(rows.tokens, later, axis=0)
  lengths_NxE = jnp.where(
      rollouts.is_taken, prompt_lengths_N[:, None] + rollouts.starts, 1)
  number = jnp.tile(jnp.arange(1, num_episodes, dtype=jnp.int32), num)
  return tokens, lengths_NxE[:, 1:].reshape(-1), number


def jit_continue(
    model: model_config.ModelConfig, *, rules: episodes.Episodes,
    num_rollouts: int, num_slots: int,
) -> Callable[..., episodes.Rollouts]:
  """(params, tokens, lengths, episode, rng) -> rollouts, jitted."""

  @jax.jit
  def play(params, tokens_BxX, lengths_B, episode_B, rng):
    split = lambda x: sharding.constrain(x, 'act_batch', *[None] * (x.ndim - 1))
    return rollout_lib.rollout(
        model, params, split(tokens_BxX), split(lengths_B), rng, rules=rules,
        num_samples=num_rollouts, num_slots=num_slots,
        first_episode_Q=split(episode_B))

  return play
