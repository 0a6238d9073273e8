# SPDX-License-Identifier: Apache-2.0
"""What a model says of tokens that were drawn: log-probs, entropy, values.

Axes: R rows, X positions of a row (see `rows`).
"""

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import policy_gradient


@struct.dataclass
class Scores:
  """At every position, of the token that follows it."""

  sampled: jax.Array  # [R, X] float32, log-prob as the sampler has it
  plain: jax.Array  # [R, X] float32, at temperature 1 with nothing cut off
  entropy: jax.Array  # [R, X] float32, nats, of the distribution sampled from
  values: jax.Array | None  # [R, X] float32, of the context before the token


def score(
    config: model_config.ModelConfig,
    params: types.Params,
    tokens_RxX: jax.Array,
    targets_RxX: jax.Array,
    *,
    sampling: decode.Sampling,
    num_chunks: int = 1,
) -> Scores:
  """Reads rows and scores their next tokens; differentiable.

  Args:
    config: of the model.
    params: unboxed.
    tokens_RxX: int32, padded on the right.
    targets_RxX: int32, what follows.
    sampling: of the sampler.
    num_chunks: pieces of a row whose logits exist one at a time.

  Raises:
    ValueError: rows are longer than the model's, or do not divide.
  """
  hidden_RxXxD = transformer.hidden(config, params, tokens_RxX)
  if tokens_RxX.shape[1] % num_chunks:
    raise ValueError(
        f'num_loss_chunks: got {num_chunks}; must divide the '
        f'{tokens_RxX.shape[1]} positions of a row.')

  def piece(hidden_RxCxD, targets_RxC) -> Scores:
    output = transformer.read_out(config, params, hidden_RxCxD)
    return _of_logits(output, targets_RxC, sampling)

  if num_chunks == 1:
    return piece(hidden_RxXxD, targets_RxX)

  def cut(x):  # [R, X, ...] -> [chunks, R, X / chunks, ...]
    x = x.reshape(x.shape[0], num_chunks, -1, *x.shape[2:])
    return jnp.swapaxes(x, 0, 1)

  scores = jax.lax.map(
      lambda x: jax.checkpoint(piece)(*x),
      (cut(hidden_RxXxD), cut(targets_RxX)))
  join = lambda x: jnp.swapaxes(x, 0, 1).reshape(targets_RxX.shape)
  return jax.tree.map(join, scores)


def _of_logits(output, targets_RxX, sampling) -> Scores:
  logits_RxXxV = output.logits
  chosen = lambda x_RxXxV: jnp.take_along_axis(
      jax.nn.log_softmax(x_RxXxV, axis=-1), targets_RxX[..., None],
      axis=-1)[..., 0]
  plain_RxX = chosen(logits_RxXxV)
  sampled_RxX, drawn_RxXxV = plain_RxX, logits_RxXxV
  if sampling != decode.Sampling(temperature=1.0):
    flat = logits_RxXxV.reshape(-1, logits_RxXxV.shape[-1])
    drawn_RxXxV = decode.truncate(flat, sampling).reshape(logits_RxXxV.shape)
    sampled_RxX = chosen(drawn_RxXxV)
  return Scores(
      sampled=sampled_RxX, plain=plain_RxX,
      entropy=policy_gradient.entropy(drawn_RxXxV), values=output.values)
