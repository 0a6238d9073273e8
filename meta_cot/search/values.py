# SPDX-License-Identifier: Apache-2.0
"""Other values and outcomes for a step function: wrappers, StepFn -> StepFn.

They change what the children are worth and leave the children alone, so that
any of them goes with any step function.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.search import base


@struct.dataclass
class Counted:
  """An embedding, and what its path has cost so far."""

  embedding: Any  # [..., ...]
  log_prob: jax.Array  # [...] float32, of all steps
  num_tokens: jax.Array  # [...] int32, of all steps


def count_root(root: base.Root) -> base.Root:
  """The root for a `likelihood` step function; an empty path is certain."""
  shape = root.value.shape
  return root.replace(
      embedding=Counted(
          root.embedding, jnp.zeros(shape, jnp.float32),
          jnp.zeros(shape, jnp.int32)),
      value=jnp.where(root.is_terminal, root.value, 1.0))


def likelihood(step_fn: base.StepFn, *, is_reward: bool) -> base.StepFn:
  """Values in (0, 1]: the geometric mean of the path's token probabilities.

  A beam over it is the beam of decoding, with length normalisation. `step_fn`
  gives `num_tokens`. With `is_reward` rewards become the values too. Embeddings
  are `Counted`; begin with `count_root`.
  """

  def step(params, rng, path):
    counted = path.embeddings
    expansion = step_fn(
        params, rng, path.replace(embeddings=counted.embedding))
    leaf_Rx1 = jnp.maximum(path.length - 1, 0)[:, None]
    of_leaf = lambda x_RxD: jnp.take_along_axis(x_RxD, leaf_Rx1, axis=1)
    log_prob_RxA = of_leaf(counted.log_prob) + expansion.log_prob
    num_tokens_RxA = of_leaf(counted.num_tokens) + expansion.num_tokens
    value_RxA = jnp.exp(log_prob_RxA / jnp.maximum(num_tokens_RxA, 1))
    return expansion.replace(
        embedding=Counted(expansion.embedding, log_prob_RxA, num_tokens_RxA),
        value=value_RxA,
        reward=jnp.where(expansion.is_terminal, value_RxA, 0.0) if is_reward
        else expansion.reward)

  return step


def settled(step_fn: base.StepFn) -> base.StepFn:
  """Terminal children have their rewards as values: nothing is left open."""

  def step(params, rng, path):
    expansion = step_fn(params, rng, path)
    return expansion.replace(value=jnp.where(
        expansion.is_terminal, expansion.reward, expansion.value))

  return step
