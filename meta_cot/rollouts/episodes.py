# SPDX-License-Identifier: Apache-2.0
"""What an episode is, and what is kept of a trajectory of episodes.

A trajectory is a question, then attempts at it one after another in one
context (arXiv 2501.04682, section 6.3): all but the last explore. Between two
episodes the environment may write: forced tokens, which are read but were not
drawn and are never trained.

Axes besides those of `types`: Q questions, G samples of each, N = Q * G
trajectories (trajectory n is sample n % G of question n // G), E episodes, R
rows of tokens, C tokens of a row behind its prompt.
"""

import dataclasses
from typing import Any, Protocol

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot.problem import Problem

NUM_LINES = 3  # of a row of `Transcript.written`
_NONE, _FORCED, _DRAWN = range(3)  # drawn in episode e: _DRAWN + e


class Feedback(Protocol):
  """What the environment says after an episode; pure, and hashable."""

  length: int  # F, tokens at most

  def hidden(self, problem: Problem) -> Any:
    """Returns what it knows of a question, a tree of NumPy arrays.

    Those of all questions have equal shapes.
    """

  def shapes(self) -> Any:
    """Returns the same tree of jax.ShapeDtypeStruct."""

  def __call__(
      self, hidden: Any, tokens_SxT: jax.Array, length_S: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Answers episodes, inside the program that plays them.

    Args:
      hidden: of the slots' questions, a tree of arrays [S, ...].
      tokens_SxT: int32, drawn in the episode, what ended it included.
      length_S: int32, of them.

    Returns:
      Tokens [S, F] int32, their number [S] int32, and the reward [S] float32
      of the episode.
    """


@dataclasses.dataclass(frozen=True)
class Episodes:
  """The rules of a trajectory. Equal settings are equal.

  Raises:
    ValueError: no trajectory can follow these rules.
  """

  num_episodes: int  # E
  episode_length: int  # T, tokens drawn in an episode, at most
  sampling: decode.Sampling
  stop_ids: tuple[int, ...]  # each ends an episode, with an answer
  give_up_id: int | None = None  # ends an episode, without one
  reset_ids: tuple[int, ...] = ()  # written between two episodes
  max_tokens: int | None = None  # drawn in a trajectory; None: E * T
  # Earlier attempts in the context of an episode (Eq. 6); None: all. With a
  # window every episode is a row of its own, which starts at the prompt.
  window: int | None = None
  feedback: Feedback | None = None  # None: silence

  def __post_init__(self):
    for name, low in dict(
        num_episodes=1, episode_length=1, max_tokens=1, window=0).items():
      value = getattr(self, name)
      if value is not None and value < low:
        raise ValueError(f'{name}: got {value}; must be at least {low}.')
    if self.give_up_id in self.stop_ids:
      raise ValueError(
          f'give_up_id: got {self.give_up_id}; must not be one of stop_ids, '
          f'{self.stop_ids}.')

  @property
  def is_windowed(self) -> bool:
    """Whether some attempt is ever out of sight."""
    return self.window is not None and self.window < self.num_episodes - 1

  @property
  def rows_per_trajectory(self) -> int:
    return self.num_episodes if self.is_windowed else 1

  @property
  def num_between(self) -> int:
    """Forced tokens between two episodes, at most."""
    said = 0 if self.feedback is None else self.feedback.length
    return said + len(self.reset_ids)

  @property
  def row_length(self) -> int:
    """C."""
    if self.is_windowed:
      return self.window * (self.episode_length + self.num_between) + (
          self.episode_length)
    drawn = self.num_episodes * self.episode_length
    return min(drawn, self.max_tokens or drawn) + (
        self.num_between * (self.num_episodes - 1))

  @property
  def num_tokens(self) -> int:
    """Tokens of a trajectory's rows behind their prompts, at most."""
    if not self.is_windowed:
      return self.row_length
    seen = sum(min(e, self.window) for e in range(self.num_episodes))
    return seen * (self.episode_length + self.num_between) + (
        self.num_episodes * self.episode_length)


@struct.dataclass
class Rollouts:
  """Trajectories of Q questions; N and R axes may be split over devices.

  The rows of trajectory n are n * rows_per_trajectory and on. `log_probs` are
  those of the distribution that was sampled (`decode.Generation`), 0 at forced
  tokens and behind a row's length.
  """

  tokens: jax.Array  # [R, C] int32, behind the prompt
  log_probs: jax.Array  # [R, C] float32, natural
  is_sampled: jax.Array  # [R, C] bool, False: forced, or none
  episode: jax.Array  # [R, C] int32; -1 where no token was drawn
  lengths: jax.Array  # [R] int32, forced tokens included
  starts: jax.Array  # [N, E] int32, of the drawn tokens in the episode's row
  ends: jax.Array  # [N, E] int32, behind them; 0 where there was no episode
  is_finished: jax.Array  # [N, E] bool, ended by one of `stop_ids`
  has_given_up: jax.Array  # [N, E] bool
  num_steps: jax.Array  # [] int32, of the loop
  num_live: jax.Array  # [] int32, slots that added a token, over all steps

  @property
  def is_taken(self) -> jax.Array:
    """Whether there was such an episode, [N, E] bool."""
    return self.ends > self.starts


@struct.dataclass
class Transcript:
  """What a rollout's loop writes: one array, into which a step puts one token.

  All else that is known of trajectories follows from it when the loop has
  ended; to keep it step by step would cost the loop a scatter for every array.
  """

  # [R * 3, C] int32, three lines a row: tokens, bits of their log-probs, kinds.
  # Two axes, as a TPU would make 128 of an axis of three.
  written: jax.Array
  num_steps: jax.Array  # as in `Rollouts`
  num_live: jax.Array


def entry(
    tokens_S: jax.Array, log_probs_S: jax.Array, is_drawn_S: jax.Array,
    episode_S: jax.Array,
) -> jax.Array:
  """Makes what is written for one token of every slot, [S, 3] int32."""
  bits_S = jax.lax.bitcast_convert_type(
      log_probs_S.astype(jnp.float32), jnp.int32)
  kind_S = jnp.where(is_drawn_S, episode_S + _DRAWN, _FORCED)
  return jnp.stack([tokens_S, bits_S, kind_S], axis=1)


def read(rules: Episodes, transcript: Transcript) -> Rollouts:
  """Reads everything about trajectories that have ended."""
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
  return Rollouts(
      tokens=tokens_RxC,
      log_probs=jax.lax.bitcast_convert_type(bits_RxC, jnp.float32),
      is_sampled=kind_RxC >= _DRAWN, episode=episode_RxC,
      lengths=jnp.sum(kind_RxC != _NONE, axis=1, dtype=jnp.int32),
      starts=ends_NxE - jnp.sum(is_of_NxExC, axis=2, dtype=jnp.int32),
      ends=ends_NxE,
      is_finished=is_taken_NxE & decode.is_one_of(last_NxE, rules.stop_ids),
      has_given_up=has_given_up_NxE, num_steps=transcript.num_steps,
      num_live=transcript.num_live)
