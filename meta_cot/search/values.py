# SPDX-License-Identifier: Apache-2.0
"""Other values and outcomes for a step function: wrappers, StepFn -> StepFn.

They change what the children are worth and leave the children alone, so that
any of them goes with any step function. What children are worth a `Source`
says; `valued` makes it a wrapper.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import operator
import types
from typing import Any, Protocol

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.search import base


@struct.dataclass
class Valued:
  """An embedding, and what a source keeps of its path."""

  embedding: Any  # [..., ...]
  kept: Any  # [..., ...]


@struct.dataclass
class Worth:
  """What a source says of children."""

  value: jax.Array  # [R, A] float32
  kept: Any = ()  # pytree [R, A, ...], for what is below them
  # [R, A] int32, tokens drawn to know it; 0: none.
  num_tokens: jax.Array | int = 0
  num_passes: jax.Array | int = 0  # as of `Expansion`, for these tokens


@struct.dataclass
class Beginning:
  """What a source needs of problems, and says of their roots."""

  value: jax.Array  # [B] float32
  kept: Any = ()  # pytree [B, ...]
  rows: Any = ()  # what the nodes of a problem share


class Source(Protocol):
  """Says what children are worth. Pure; equal settings are equal."""

  def begin(self, own: Any, inputs: Any, root: base.Root) -> Beginning:
    """Reads the problems.

    Args:
      own: parameters of the source itself; None for most.
      inputs: of the problems, [B, ...].
      root: before it is `Valued`.
    """

  def __call__(
      self, params: tuple[Any, tuple[Any, Any]], path: base.Path, kept: Any,
      expansion: base.Expansion,
  ) -> Worth:
    """Values the children of an expansion.

    Args:
      params: those of the step function, and (own parameters, own rows).
      path: with the embeddings of the step function.
      kept: of the nodes on the path, [R, D, ...].
      expansion: as the step function made it.
    """


def valued(
    step_fn: base.StepFn, source: Source, *, is_reward: bool) -> base.StepFn:
  """Children are worth what the source says; rewards too with `is_reward`.

  `params` are (those of `step_fn`, those of the source), see `Source`. What the
  source draws is counted in `num_tokens`, which `step_fn` gives. Embeddings are
  `Valued`; begin with `begin`.
  """

  def step(params, rng, path):
    kept = path.embeddings.kept
    path = path.replace(embeddings=path.embeddings.embedding)
    expansion = step_fn(params[0], rng, path)
    worth = source(params, path, kept, expansion)
    return expansion.replace(
        embedding=Valued(expansion.embedding, worth.kept), value=worth.value,
        num_tokens=expansion.num_tokens + worth.num_tokens,
        num_passes=None if expansion.num_passes is None else (
            expansion.num_passes + worth.num_passes),
        reward=jnp.where(expansion.is_terminal, worth.value, 0.0) if is_reward
        else expansion.reward)

  return step


def begin(root: base.Root, beginning: Beginning) -> base.Root:
  """The root for a `valued` step function."""
  return root.replace(
      embedding=Valued(root.embedding, beginning.kept),
      value=jnp.where(root.is_terminal, root.value, beginning.value))


def inner(embedding: Any) -> Any:
  """The embedding of the step function itself, `Valued` or not."""
  return embedding.embedding if isinstance(embedding, Valued) else embedding


def settled(step_fn: base.StepFn) -> base.StepFn:
  """Terminal children have their rewards as values: nothing is left open."""

  def step(params, rng, path):
    expansion = step_fn(params, rng, path)
    return expansion.replace(value=jnp.where(
        expansion.is_terminal, expansion.reward, expansion.value))

  return step


@struct.dataclass
class Counted:
  """What a path has cost so far."""

  log_prob: jax.Array  # [...] float32, of all steps
  num_tokens: jax.Array  # [...] int32, of all steps


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Values in (0, 1]: the geometric mean of the path's token probabilities.

  A beam over it is the beam of decoding, with length normalisation. An empty
  path is certain.
  """

  def begin(self, own: Any, inputs: Any, root: base.Root) -> Beginning:
    """See `Source`."""
    del own, inputs
    zeros = functools.partial(jnp.zeros, root.value.shape)
    return Beginning(
        jnp.ones(root.value.shape, jnp.float32),
        kept=Counted(zeros(jnp.float32), zeros(jnp.int32)))

  def __call__(self, params, path, kept, expansion) -> Worth:
    """See `Source`."""
    del params
    leaf_Rx1 = jnp.maximum(path.length - 1, 0)[:, None]
    of_leaf = lambda x_RxD: jnp.take_along_axis(x_RxD, leaf_Rx1, axis=1)
    log_prob_RxA = of_leaf(kept.log_prob) + expansion.log_prob
    num_tokens_RxA = of_leaf(kept.num_tokens) + expansion.num_tokens
    return Worth(
        jnp.exp(log_prob_RxA / jnp.maximum(num_tokens_RxA, 1)),
        kept=Counted(log_prob_RxA, num_tokens_RxA))


@dataclasses.dataclass(frozen=True)
class Own:
  """The step function's own values."""

  def begin(self, own: Any, inputs: Any, root: base.Root) -> Beginning:
    """See `Source`."""
    del own, inputs
    return Beginning(root.value)

  def __call__(self, params, path, kept, expansion) -> Worth:
    """See `Source`."""
    del params, path, kept
    return Worth(expansion.value)


def _mean(values: Sequence[jax.Array], weights: Sequence[float]) -> jax.Array:
  return sum(w * v for v, w in zip(values, weights)) / sum(weights)


def _product(
    values: Sequence[jax.Array], weights: Sequence[float]) -> jax.Array:
  return functools.reduce(
      operator.mul, (v ** w for v, w in zip(values, weights)))


# (values, weights above 0) -> value.
MIXINGS: Mapping[str, Callable[..., jax.Array]] = types.MappingProxyType(
    dict(mean=_mean, product=_product))


@dataclasses.dataclass(frozen=True)
class Mixture:
  """What several sources say: their weighted mean, or product of powers."""

  sources: tuple[Source, ...]
  weights: tuple[float, ...]  # above 0; exponents of a product
  mixing: str  # of MIXINGS

  def begin(self, own: Any, inputs: Any, root: base.Root) -> Beginning:
    """See `Source`; all sources have the same parameters of their own."""
    found = [source.begin(own, inputs, root) for source in self.sources]
    return Beginning(
        self._mix(found), kept=tuple(x.kept for x in found),
        rows=tuple(x.rows for x in found))

  def __call__(self, params, path, kept, expansion) -> Worth:
    """See `Source`."""
    params, (own, rows) = params
    found = [
        source((params, (own, mine)), path, of_path, expansion)
        for source, mine, of_path in zip(self.sources, rows, kept)]
    return Worth(
        self._mix(found), kept=tuple(x.kept for x in found),
        num_tokens=sum(x.num_tokens for x in found),
        num_passes=sum(x.num_passes for x in found))

  def _mix(self, found: Sequence[Worth | Beginning]) -> jax.Array:
    return MIXINGS[self.mixing]([x.value for x in found], self.weights)
