# SPDX-License-Identifier: Apache-2.0
"""The steps below one leaf while they are written, and drawn all different.

Stochastic beam search (Kool, van Hoof and Welling, "Stochastic beams and where
to find them", arXiv 1903.06059) over the tokens of a step. Every text has a
perturbed log-probability: its own plus Gumbel noise; that of a beginning is the
largest of all its continuations. So a beam that keeps the A largest at every
token ends with the A largest of all steps there are, without a look at the
others: the Gumbel-top-k trick over whole steps.

Child i of a leaf, from 1, is step s with probability p(s) / (1 - the sum of
p(children before)) unless it is one of those: the steps are drawn without
replacement, in this order, where p(s) is the probability of the whole step.
The probability that s is among the first k is therefore the sum of the products
of these terms over all orders of k different steps that have it, and given the
(k + 1)th largest perturbed log-probability t it is 1 - exp(-p(s) / exp(t)).

Axes as in `step`; V tokens of the vocabulary.
"""

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.search import tree as tree_lib
from meta_cot.types import PRNGKey

KINDS = ('independent', 'without_replacement')


@struct.dataclass
class Writing:
  """Children on their way."""

  step: jax.Array  # [] int32, tokens drawn so far
  is_live: jax.Array  # [C] bool
  is_terminal: jax.Array  # [C] bool
  has_text: jax.Array  # [C] bool, a token that is not blank
  tokens: jax.Array  # [C, T] int32
  length: jax.Array  # [C] int32
  num_passes: jax.Array  # [C] int32, over the model, dead or alive
  log_prob: jax.Array  # [C] float32
  # [C] float32, perturbed log-probability; -inf: no step. None: independent.
  score: jax.Array | None
  hidden: jax.Array  # [C, model width], at the newest token that counts
  cache: cache_lib.Cache  # C rows of T slots


def begin(
    is_child_RxA: jax.Array, keys_R: PRNGKey
) -> tuple[jax.Array, jax.Array]:
  """One empty step below every leaf: live rows [C] bool and scores [C]."""
  # No branch has this number.
  score_R = jax.vmap(lambda key: jax.random.gumbel(
      jax.random.fold_in(key, 2**32 - 1), (), jnp.float32))(keys_R)
  is_first_A = jnp.arange(is_child_RxA.shape[1]) == 0
  is_live_RxA = is_child_RxA & is_first_A[None]
  score_RxA = jnp.where(is_live_RxA, score_R[:, None], -jnp.inf)
  return is_live_RxA.reshape(-1), score_RxA.reshape(-1)


def choose(
    writing: Writing, logits_CxV: jax.Array, keys_C: PRNGKey,
    sampling: decode.Sampling, is_child_RxA: jax.Array,
) -> tuple[Writing, jax.Array, jax.Array]:
  """Chooses the beginnings of steps with the largest scores, one token longer.

  Args:
    writing: rows in any order within a leaf; what has ended stays as it is.
    logits_CxV: float32, behind every row.
    keys_C: consumed.
    sampling: by which tokens are drawn; its temperature is above 0.
    is_child_RxA: places below every leaf, the first ones.

  Returns:
    The rows that were chosen, those with the highest scores first, with their
    scores and without the new tokens; these [C] int32 and their
    log-probabilities [C], anything where a row is not live.
  """
  shape = is_child_RxA.shape
  logits_CxV = decode.truncate(logits_CxV, sampling)
  is_out_CxV = logits_CxV <= attention.NEG_INF
  log_probs_CxV = jnp.where(
      is_out_CxV, -jnp.inf, jax.nn.log_softmax(logits_CxV, axis=-1))
  scores_CxV = perturbed(
      writing.log_prob[:, None] + log_probs_CxV, writing.score, keys_C)
  # Of one row no more than A can be chosen.
  num = min(shape[1], scores_CxV.shape[1])
  scores_CxM, tokens_CxM = jax.lax.top_k(scores_CxV, num)
  itself_CxM = jnp.where(
      jnp.arange(num)[None] == 0, writing.score[:, None], -jnp.inf)
  scores_CxM = jnp.where(writing.is_live[:, None], scores_CxM, itself_CxM)
  scores_RxA, chosen_RxA = jax.lax.top_k(
      scores_CxM.reshape(shape[0], -1), shape[1])
  scores_RxA = jnp.where(is_child_RxA, scores_RxA, -jnp.inf)
  rows_RxA = chosen_RxA // num
  tokens_RxA = tree_lib.gather(
      tokens_CxM.reshape(shape[0], -1), chosen_RxA)
  log_probs_RxA = tree_lib.gather(
      log_probs_CxV.reshape(shape[0], -1),
      rows_RxA * log_probs_CxV.shape[1] + tokens_RxA)
  writing = _take(writing, rows_RxA).replace(score=scores_RxA.reshape(-1))
  is_step_C = writing.score > -jnp.inf
  writing = writing.replace(
      is_live=writing.is_live & is_step_C,
      is_terminal=writing.is_terminal & is_step_C,
      length=jnp.where(is_step_C, writing.length, 0))
  return writing, tokens_RxA.reshape(-1), log_probs_RxA.reshape(-1)


def _take(writing: Writing, rows_RxA: jax.Array) -> Writing:
  """Row `rows_RxA` of the rows of its leaf in every place."""
  shape = rows_RxA.shape

  def of_rows(x):  # [C, ...]
    x = tree_lib.gather(x.reshape(*shape, *x.shape[1:]), rows_RxA)
    return x.reshape(-1, *x.shape[2:])

  def of_heads(x):  # [(layers,) C, K, T, Dh]
    return of_rows(x) if x.ndim == 4 else jax.vmap(of_rows)(x)

  cache = writing.cache
  rest = jax.tree.map(of_rows, writing.replace(step=None, cache=None))
  return rest.replace(step=writing.step, cache=cache.replace(
      keys=jax.tree.map(of_heads, cache.keys),
      values=jax.tree.map(of_heads, cache.values)))


def perturbed(
    log_probs_CxV: jax.Array, scores_C: jax.Array, keys_C: PRNGKey
) -> jax.Array:
  """Scores of all continuations, the largest being that of the beginning.

  Args:
    log_probs_CxV: of the longer texts; -inf: there is none.
    scores_C: of the texts that are continued; the result is of no use where one
      is -inf.
    keys_C: consumed.

  Returns:
    [C, V] float32: Gumbel variables at `log_probs_CxV`, given their maximum
    (Kool et al., appendix B.3).
  """
  num_tokens = log_probs_CxV.shape[1]
  noise_CxV = jax.vmap(lambda key: jax.random.gumbel(
      key, (num_tokens,), jnp.float32))(keys_C)
  free_CxV = log_probs_CxV + noise_CxV
  scores_Cx1 = scores_C[:, None]
  below_CxV = free_CxV - jnp.max(free_CxV, axis=1, keepdims=True)
  v_CxV = scores_Cx1 - free_CxV + _log1mexp(below_CxV)
  return scores_Cx1 - jnp.maximum(v_CxV, 0.0) - jnp.log1p(
      jnp.exp(-jnp.abs(v_CxV)))


def _log1mexp(x: jax.Array) -> jax.Array:
  """log(1 - exp(x)) for x <= 0."""
  return jnp.where(
      x > -0.7, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))
