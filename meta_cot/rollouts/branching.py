# SPDX-License-Identifier: Apache-2.0
"""Draws trees: where trunks are left, and what is drawn there instead.

Axes as in `trees`; V = R * F branches.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from meta_cot import types
from meta_cot.rollouts import continuations
from meta_cot.rollouts import episodes
from meta_cot.rollouts import player as player_lib
from meta_cot.rollouts import queue
from meta_cot.rollouts import rows as rows_lib
from meta_cot.rollouts import trees

PLACES = ('steps', 'entropy')

# (params, rows) -> entropy of the distribution that every target was drawn
# from, [R, X] float32.
Entropy = Callable[[types.Params, rows_lib.Rows], jax.Array]


def jit_leave(
    num_branches: int, *, steps: continuations.Steps | None = None,
    entropy: Entropy | None = None,
) -> Callable[..., tuple[continuations.Contexts, jax.Array]]:
  """Makes (params, prompts, lengths, trunks, rng) -> contexts, kept; jitted.

  A branch keeps [R, F] int32 tokens of its trunk, and its context is that. With
  `steps` they are up to the ends of steps, drawn without replacement; with
  `entropy` up to the tokens of highest entropy, which are drawn again. Where a
  trunk has too few such places the others keep nothing: they begin at the
  question.
  """

  @jax.jit
  def leave(params, prompts_QxP, lengths_Q, trunks, rng):
    rows = rows_lib.assemble(prompts_QxP, lengths_Q, trunks, pad_id=0)
    num_rows, num_new = trunks.tokens.shape
    first_R = jnp.repeat(lengths_Q, num_rows // len(lengths_Q)) - 1
    if steps is not None:  # a step's end is kept: what is behind it is drawn
      keys_R = jax.vmap(jax.random.fold_in, (None, 0))(
          rng, jnp.arange(num_rows))
      score_RxX = jax.vmap(
          lambda key: jax.random.uniform(key, rows.targets.shape[1:]))(keys_R)
      is_place_RxX, behind = steps.is_end(rows), 1
    else:
      score_RxX, is_place_RxX, behind = (
          entropy(params, rows), rows.is_sampled, 0)
    kept_RxX = jnp.arange(
        rows.targets.shape[1])[None] - first_R[:, None] + behind
    is_place_RxX &= (kept_RxX > 0) & (kept_RxX < trunks.lengths[:, None])
    top_RxF, at_RxF = jax.lax.top_k(
        jnp.where(is_place_RxX, score_RxX, -jnp.inf), num_branches)
    kept_RxF = jnp.where(
        top_RxF > -jnp.inf, jnp.take_along_axis(kept_RxX, at_RxF, axis=1),
        0).astype(jnp.int32)
    kept_V = kept_RxF.reshape(-1)
    return jax.tree.map(queue.split, (continuations.Contexts(
        texts=rows.tokens, lengths=(first_R[:, None] + 1 + kept_RxF).reshape(
            -1).astype(jnp.int32),
        beginning=queue.Beginning(jnp.zeros_like(kept_V), kept_V),
        written=jnp.zeros((len(kept_V), 0), jnp.int32)), kept_RxF))

  return leave


@dataclasses.dataclass(frozen=True)
class Branches:
  """Grows trees on trunks."""

  leave: Callable[..., tuple[continuations.Contexts, jax.Array]]
  go_on: Callable[..., episodes.Rollouts]  # see `continuations.jit_continue`

  def __call__(
      self, params: types.Params, asked: player_lib.Asked,
      trunks: episodes.Rollouts, rng: types.PRNGKey,
  ) -> trees.Trees:
    """Draws the branches of all trunks; a trunk and a place are read once.

    Args:
      params: of the policy.
      asked: the questions.
      trunks: their trajectories, of one episode in one row.
      rng: consumed.
    """
    places, draws = jax.random.split(rng)
    found, kept_RxF = self.leave(
        params, asked.prompts, asked.lengths, trunks, places)
    played = self.go_on(
        params, found.texts, found.lengths, found.beginning, draws)
    return join(trunks, played, kept_RxF)


@jax.jit
def join(
    trunks: episodes.Rollouts, played: episodes.Rollouts, kept_RxF: jax.Array
) -> trees.Trees:
  """Puts trunks and their branches [V] together."""
  num_rows, num_new = trunks.tokens.shape

  def beside(trunk, branches):
    branches = branches.reshape(num_rows, -1, *branches.shape[1:])
    return jnp.concatenate([trunk[:, None], branches], axis=1)

  return trees.Trees(
      tokens=beside(trunks.tokens, played.tokens[:, :num_new]),
      log_probs=beside(trunks.log_probs, played.log_probs[:, :num_new]),
      lengths=beside(trunks.lengths, played.lengths),
      kept=jnp.pad(kept_RxF, ((0, 0), (1, 0))))
