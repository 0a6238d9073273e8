# SPDX-License-Identifier: Apache-2.0
"""Choosing one of several answers: best of N, majority, weighted vote.

Axes: B problems, S candidates of a problem in the order of their creation.
Answers are int32: equal ones have equal ids, NONE is no answer. A choice is the
int32 index [B] of a candidate, of a tie the first one; NONE where no candidate
has an answer.
"""

import jax
import jax.numpy as jnp

from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib


def best_of_n(answers_BxS: jax.Array, scores_BxS: jax.Array) -> jax.Array:
  """Chooses the highest score (method section 2, best-of-N); all are finite."""
  return ranking.best(answers_BxS != tree_lib.NONE, scores_BxS)


def majority(answers_BxS: jax.Array) -> jax.Array:
  """Chooses the answer that most candidates give."""
  return weighted(answers_BxS, jnp.ones(answers_BxS.shape, jnp.float32))


def weighted(answers_BxS: jax.Array, weights_BxS: jax.Array) -> jax.Array:
  """Chooses the answer whose weights, all finite, have the largest sum."""
  is_same_BxSxS = answers_BxS[:, :, None] == answers_BxS[:, None, :]
  weights_BxS = weights_BxS.astype(jnp.float32)
  totals_BxS = jnp.sum(
      jnp.where(is_same_BxSxS, weights_BxS[:, None, :], 0.0), axis=-1)
  return ranking.best(answers_BxS != tree_lib.NONE, totals_BxS)
