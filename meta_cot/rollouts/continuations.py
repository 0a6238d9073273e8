# SPDX-License-Identifier: Apache-2.0
"""Monte-Carlo values at step boundaries (VinePPO, arXiv 2410.01679).

An episode is cut into steps by tokens that end one. The value of the context
before a step is the mean worth of fresh trajectories that continue it. A
trajectory is read once for all of its contexts, a context once for all of its
continuations.

Axes besides those of `episodes`: J = E * S steps of a trajectory, step j is
step j % S of episode j // S; V = N * (J - 1) contexts, of all steps but the
first, whose context is the question.
"""

from collections.abc import Callable, Sequence
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot import decode
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player as player_lib
from meta_cot.rollouts import queue
from meta_cot.rollouts import rollout as rollout_lib
from meta_cot.rollouts import rows as rows_lib
from meta_cot.types import Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Steps:
  """How an episode is cut."""

  # Each ends a step that is not blank, and belongs to it.
  end_ids: tuple[int, ...]
  number: int  # S; what is left of an episode is its last step
  blank_ids: tuple[int, ...] = ()  # write blanks, or nothing

  def of_tokens(self, rows: rows_lib.Rows, num_episodes: int) -> jax.Array:
    """Numbers the step of every token of trajectories in one row each.

    Returns:
      j of J, [R, X] int32; -1: was not drawn.
    """
    is_end_RxX = self.is_end(rows)
    before_RxX = jnp.cumsum(is_end_RxX, axis=1, dtype=jnp.int32) - is_end_RxX
    episode_E = jnp.arange(num_episodes)[None, None]
    earlier_RxE = jnp.sum(
        is_end_RxX[..., None] & (rows.episode[..., None] < episode_E), axis=1,
        dtype=jnp.int32)
    number_RxX = before_RxX - jnp.take_along_axis(
        earlier_RxE, jnp.maximum(rows.episode, 0), axis=1)
    number_RxX = jnp.minimum(number_RxX, self.number - 1)
    return jnp.where(
        rows.is_sampled, rows.episode * self.number + number_RxX, -1)

  def is_end(self, rows: rows_lib.Rows) -> jax.Array:
    """Tells which tokens end a step that is not blank, [R, X] bool."""
    is_end_RxX = rows.is_sampled & decode.is_one_of(
        rows.targets, self.end_ids)
    num_texts_RxX = jnp.cumsum(
        rows.is_sampled & ~decode.is_one_of(rows.targets, self.blank_ids),
        axis=1, dtype=jnp.int32)
    # A step begins behind such a token too where it is in no step's end: then
    # all of its step is blank. And it begins with an episode.
    newest_RxX = jax.lax.cummax(rows.episode, axis=1)
    is_last_RxX = jnp.pad(
        newest_RxX[:, 1:] != newest_RxX[:, :-1], ((0, 0), (0, 1)))
    passed_RxX = jax.lax.cummax(
        jnp.where(is_end_RxX | is_last_RxX, num_texts_RxX, 0), axis=1)
    passed_RxX = jnp.pad(passed_RxX, ((0, 0), (1, 0)))[:, :-1]
    return is_end_RxX & (num_texts_RxX > passed_RxX)


@struct.dataclass
class Contexts:
  """What stands before the steps of trajectories."""

  texts: jax.Array  # [N, X] int32, prompts and what was written
  lengths: jax.Array  # [V] int32, of the contexts in their texts
  beginning: queue.Beginning  # of what continues them, [V]
  written: jax.Array  # [V, T] int32, of the episode so far, at the right


def jit_contexts(
    steps: Steps, episode_length: int
) -> Callable[..., Contexts]:
  """Makes (prompts, lengths, rollouts) -> contexts, jitted.

  They are those of all steps but the first. Of a step that did not take place
  the context is the first token.
  """

  @jax.jit
  def find(prompts_QxP, lengths_Q, rollouts):
    rows = rows_lib.assemble(prompts_QxP, lengths_Q, rollouts, pad_id=0)
    num, num_episodes = rollouts.starts.shape
    prompt_lengths_N = jnp.repeat(lengths_Q, num // len(lengths_Q))
    j_J = jnp.arange(num_episodes * steps.number, dtype=jnp.int32)
    is_of_NxXxJ = steps.of_tokens(
        rows, num_episodes)[..., None] == j_J[None, None]
    first_NxJ = jnp.argmax(is_of_NxXxJ, axis=1).astype(jnp.int32)
    is_used_NxJ = jnp.any(is_of_NxXxJ, axis=1)
    # Position x of a row has read x + 1 tokens and predicts the next.
    lengths_NxJ = jnp.where(is_used_NxJ, first_NxJ + 1, 1)
    starts_NxE = prompt_lengths_N[:, None] + rollouts.starts
    drawn_NxJ = jnp.where(
        is_used_NxJ, lengths_NxJ - jnp.repeat(starts_NxE, steps.number, 1), 0)
    place_NxJxT = lengths_NxJ[..., None] + (
        jnp.arange(-episode_length, 0)[None, None])
    written_NxJxT = jnp.take_along_axis(
        rows.tokens[:, None], jnp.maximum(place_NxJxT, 0), axis=2)
    later = lambda x_NxJ: x_NxJ[:, 1:].reshape(-1, *x_NxJ.shape[2:])
    return jax.tree.map(queue.split, Contexts(
        texts=rows.tokens, lengths=later(lengths_NxJ),
        beginning=queue.Beginning(
            jnp.tile(j_J[1:] // steps.number, num), later(drawn_NxJ)),
        written=later(written_NxJxT)))

  return find


def rejoin(
    played: episodes.Rollouts, found: Contexts, num_rollouts: int
) -> episodes.Rollouts:
  """Puts what their first episode had before in front of continuations.

  All NumPy; `played` are `num_rollouts` of every context. A judge can read the
  result.
  """
  each = lambda x_V: np.repeat(x_V, num_rollouts, axis=0)
  width = found.written.shape[1]
  starts_NxE = played.starts + width
  first = np.arange(len(starts_NxE)), each(found.beginning.episode)
  starts_NxE[first] -= each(found.beginning.drawn)
  return played.replace(
      tokens=np.concatenate([each(found.written), played.tokens], axis=1),
      starts=starts_NxE, ends=played.ends + width)


def jit_continue(
    model: model_config.ModelConfig, *, rules: episodes.Episodes,
    num_rollouts: int, num_slots: int,
) -> Callable[..., episodes.Rollouts]:
  """Makes (params, texts, lengths, beginning, rng) -> rollouts, jitted."""

  @jax.jit
  def play(params, texts_RxX, lengths_V, beginning, rng):
    texts_RxX, lengths_V, beginning = jax.tree.map(
        queue.split, (texts_RxX, lengths_V, beginning))
    return rollout_lib.rollout(
        model, params, texts_RxX, lengths_V, rng, rules=rules,
        num_samples=num_rollouts, num_slots=num_slots, beginning=beginning)

  return play


@dataclasses.dataclass(frozen=True)
class Vine:
  """Values of the policy before every step."""

  steps: Steps
  player: player_lib.Player
  judge: Callable[..., judge_lib.Judged]
  num_rollouts: int
  find: Callable[..., Contexts]  # see `jit_contexts`
  go_on: Callable[..., episodes.Rollouts]  # see `jit_continue`

  def __call__(
      self, params: Params, asked: player_lib.Asked,
      rollouts: episodes.Rollouts, problems: Sequence[Problem],
      judged: judge_lib.Judged, worth: Callable[..., np.ndarray], rng: PRNGKey,
  ) -> np.ndarray:
    """Values every step.

    Args:
      params: of the policy.
      asked: the questions.
      rollouts: their trajectories.
      problems: that were asked.
      judged: verdicts on the trajectories.
      worth: (verdicts, questions [V], drawn in earlier episodes [V]) -> mean
        worth of the continuations of every context, [V].
      rng: consumed.

    Returns:
      [N, J] float32; of steps that did not take place junk.
    """
    num, num_episodes = judged.rewards.shape
    num_steps, num_questions = self.steps.number, len(problems)
    keys = jax.random.split(rng)
    zero_Q = jnp.zeros(num_questions, jnp.int32)
    played = self.player.fetch(self.go_on(
        params, asked.prompts, asked.lengths,
        queue.Beginning(zero_Q, zero_Q), keys[0]))
    numbers_Q = np.arange(num_questions)
    first_Q = worth(
        self.judge(problems, played), numbers_Q, np.zeros_like(numbers_Q))
    values_NxJ = np.empty((num, num_episodes * num_steps), np.float32)
    values_NxJ[:, 0] = np.repeat(first_Q, num // num_questions)
    if values_NxJ.shape[1] > 1:
      found = self.find(asked.prompts, asked.lengths, rollouts)
      played = self.player.fetch(self.go_on(
          params, found.texts, found.lengths, found.beginning, keys[1]))
      played = rejoin(played, self.player.fetch(found), self.num_rollouts)
      numbers_V = np.repeat(numbers_Q, len(found.lengths) // num_questions)
      before_NxJ = np.repeat(judged.tokens_before, num_steps, axis=1)
      values_NxJ[:, 1:] = worth(
          self.judge([problems[q] for q in numbers_V], played), numbers_V,
          before_NxJ[:, 1:].reshape(-1)).reshape(num, -1)
    return values_NxJ
