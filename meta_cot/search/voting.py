# SPDX-License-Identifier: Apache-2.0
"""Choosing one of several answers: best of N, majority, weighted vote.

Axes: B problems, S candidates of a problem in the order of their creation.
"""

import jax
import jax.numpy as jnp

from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib


def best_of_n(answers_BxS: jax.Array, scores_BxS: jax.Array) -> jax.Array:
  """The candidate with the highest score (method section 2, best-of-N).

  Args:
    answers_BxS: int32; equal answers have equal ids, NONE is no answer.
    scores_BxS: finite; of a reward model or a verifier, say.

  Returns:
    [B] int32 index of the candidate, the first one of a tie; NONE where no
    candidate has an answer.
  """
  return ranking.best(answers_BxS != tree_lib.NONE, scores_BxS)


def majority(answers_BxS: jax.Array) -> jax.Array:
  """The first candidate with the answer that most candidates give.

  Args:
    answers_BxS: int32; equal answers have equal ids, NONE is no answer.

  Returns:
    [B] int32; of answers that are equally frequent the one that was given
    first; NONE where no candidate has an answer.
  """
  return weighted(answers_BxS, jnp.ones(answers_BxS.shape, jnp.float32))


def weighted(answers_BxS: jax.Array, weights_BxS: jax.Array) -> jax.Array:
  """The first candidate with the answer whose weights have the largest sum.

  Args:
    answers_BxS: int32; equal answers have equal ids, NONE is no answer.
    weights_BxS: finite; what every candidate's vote counts.

  Returns:
    [B] int32; of answers with equal sums the one that was given first; NONE
    where no candidate has an answer.
  """
  is_same_BxSxS = answers_BxS[:, :, None] == answers_BxS[:, None, :]
  weights_BxS = weights_BxS.astype(jnp.float32)
  totals_BxS = jnp.sum(
      jnp.where(is_same_BxSxS, weights_BxS[:, None, :], 0.0), axis=-1)
  return ranking.best(answers_BxS != tree_lib.NONE, totals_BxS)
