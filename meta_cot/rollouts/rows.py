# SPDX-License-Identifier: Apache-2.0
"""Rollouts as rows to train on: prompt and trajectory without a gap.

Position x of a row predicts token x + 1. Axes as in `episodes`; X = P + C - 1
positions of a row.
"""

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.rollouts import episodes


@struct.dataclass
class Places:
  """Where the tokens of rows stand that are not one text each."""

  positions: jax.Array  # [R, X] int32, in the text of the token
  segments: jax.Array  # [R, X] int32; a token sees those before in its segment
  num_seen: jax.Array  # [R, X] int32, and as many at the beginning of the row

  @property
  def arguments(self) -> dict[str, jax.Array]:
    """Names the arrays as `transformer.hidden` does."""
    return dict(
        positions_BxL=self.positions, segment_ids_BxL=self.segments,
        num_seen_BxL=self.num_seen)


@struct.dataclass
class Rows:
  """R training rows; padding behind each."""

  tokens: jax.Array  # [R, X] int32, read
  targets: jax.Array  # [R, X] int32, predicted
  is_sampled: jax.Array  # [R, X] bool, of the targets: exactly what is trained
  behaviour: jax.Array  # [R, X] float32, log-probs of the targets when drawn
  episode: jax.Array  # [R, X] int32, of the targets; -1 where not sampled
  trajectory: jax.Array  # [R] int32
  places: Places | None = None  # None: a row is a text
  # [R, X] bool, of the targets: of a text behind what was drawn that is learned
  # by its likelihood; None: there is none.
  is_given: jax.Array | None = None


def assemble(
    prompts_QxP: jax.Array, prompt_lengths_Q: jax.Array,
    rollouts: episodes.Rollouts, *, pad_id: int, multiple: int = 1,
) -> Rows:
  """Makes the training rows of all trajectories of prompts.

  Prompts are int32, padded on the right with anything; `pad_id` fills the rows,
  and X is rounded up to a multiple of `multiple`.
  """
  num_rows, num_new = rollouts.tokens.shape
  num_questions, num_prompt = prompts_QxP.shape
  per_question = num_rows // num_questions
  repeat = lambda x: jnp.repeat(x, per_question, axis=0)
  lengths_R = repeat(prompt_lengths_Q)
  width = -(-(num_prompt + num_new - 1) // multiple) * multiple + 1
  column_RxX = jnp.arange(width)[None]
  at_RxX = column_RxX - lengths_R[:, None]

  def row(prompt_RxP, new_RxC, fill):
    """Both parts of the rows; `fill` behind them."""
    of_prompt = jnp.pad(prompt_RxP, ((0, 0), (0, width - num_prompt)))
    of_new = jnp.take_along_axis(
        new_RxC, jnp.clip(at_RxX, 0, num_new - 1), axis=1)
    is_new_RxX = (at_RxX >= 0) & (at_RxX < rollouts.lengths[:, None])
    return jnp.where(
        at_RxX < 0, of_prompt, jnp.where(is_new_RxX, of_new, fill))

  blank = lambda x, fill: row(
      jnp.full((num_rows, num_prompt), fill, x.dtype), x, fill)
  tokens_RxX = row(repeat(prompts_QxP), rollouts.tokens, pad_id)
  return Rows(
      tokens=tokens_RxX[:, :-1], targets=tokens_RxX[:, 1:],
      is_sampled=blank(rollouts.is_sampled, False)[:, 1:],
      behaviour=blank(rollouts.log_probs, 0.0)[:, 1:],
      episode=blank(rollouts.episode, -1)[:, 1:],
      trajectory=jnp.arange(num_rows, dtype=jnp.int32) * (
          rollouts.starts.shape[0]) // num_rows)
