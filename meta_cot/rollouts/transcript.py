# SPDX-License-Identifier: Apache-2.0
"""What a rollout's loop writes: one array, into which a step puts one token.

All else that is known of trajectories follows from it when the loop has ended;
to keep it step by step would cost the loop a scatter for every array. Axes as
in `episodes`.
"""

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot.rollouts import episodes

NUM_LINES = 3
_NONE, _FORCED, _DRAWN = range(3)  # drawn in episode e: _DRAWN + e


@struct.dataclass
class Transcript:
  """Trajectories so far."""

  # [R * 3, C] int32, three lines a row: tokens, bits of their log-probs, kinds.
  # Two axes, as a TPU would make 128 of an axis of three.
  written: jax.Array
  num_steps: jax.Array  # [] int32, of the loop
  num_live: jax.Array  # [] int32, slots that added a token, over all steps


def empty(num_rows: int, row_length: int) -> Transcript:
  """No token in any row."""
  zero = jnp.zeros((), jnp.int32)
  return Transcript(
      jnp.zeros((num_rows * NUM_LINES, row_length), jnp.int32), zero, zero)


def entry(
    tokens_S: jax.Array, log_probs_S: jax.Array, is_drawn_S: jax.Array,
    episode_S: jax.Array,
) -> jax.Array:
  """[S, 3] int32, to be written for one token of every slot."""
  bits_S = jax.lax.bitcast_convert_type(
      log_probs_S.astype(jnp.float32), jnp.int32)
  kind_S = jnp.where(is_drawn_S, episode_S + _DRAWN, _FORCED)
  return jnp.stack([tokens_S, bits_S, kind_S], axis=1)


def read(
    rules: episodes.Episodes, transcript: Transcript
) -> episodes.Rollouts:
  """Everything about trajectories that have ended."""
  tokens_RxC, bits_RxC, kind_RxC = (
      transcript.written[line::NUM_LINES] for line in range(NUM_LINES))
  num_episodes, per_row = rules.num_episodes, rules.rows_per_trajectory
  by_trajectory = lambda x_RxC: x_RxC.reshape(-1, per_row, x_RxC.shape[1])
  episode_RxC = jnp.maximum(kind_RxC - _DRAWN, -1)
  is_of_NxExC = by_trajectory(episode_RxC) == (
      jnp.arange(num_episodes, dtype=jnp.int32)[None, :, None])
  column_C = jnp.arange(tokens_RxC.shape[1], dtype=jnp.int32)[None, None]
  ends_NxE = jnp.max(jnp.where(is_of_NxExC, column_C + 1, 0), axis=2)
  is_last_NxExC = is_of_NxExC & (column_C == ends_NxE[..., None] - 1)
  last_NxE = jnp.sum(
      jnp.where(is_last_NxExC, by_trajectory(tokens_RxC), 0), axis=2)
  is_taken_NxE = ends_NxE > 0
  has_given_up_NxE = jnp.zeros(ends_NxE.shape, bool)
  if rules.give_up_id is not None:
    has_given_up_NxE = is_taken_NxE & (last_NxE == rules.give_up_id)
  return episodes.Rollouts(
      tokens=tokens_RxC,
      log_probs=jax.lax.bitcast_convert_type(bits_RxC, jnp.float32),
      is_sampled=kind_RxC >= _DRAWN, episode=episode_RxC,
      lengths=jnp.sum(kind_RxC != _NONE, axis=1, dtype=jnp.int32),
      starts=ends_NxE - jnp.sum(is_of_NxExC, axis=2, dtype=jnp.int32),
      ends=ends_NxE,
      is_finished=is_taken_NxE & decode.is_one_of(last_NxE, rules.stop_ids),
      has_given_up=has_given_up_NxE, num_steps=transcript.num_steps,
      num_live=transcript.num_live)
