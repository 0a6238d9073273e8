# SPDX-License-Identifier: Apache-2.0
"""What a model says of tokens that were drawn: log-probs, entropy, values.

Axes: R rows, X positions of a row (see `rows`), Q questions, P tokens of a
prompt, C positions whose next token is behind the prompt.
"""

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot import types
from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import policy_gradient
from meta_cot.rollouts import rows as rows_lib


@struct.dataclass
class Scores:
  """At every position, of the token that follows it."""

  sampled: jax.Array  # [R, X] float32, log-prob as the sampler has it
  plain: jax.Array  # [R, X] float32, at temperature 1 with nothing cut off
  entropy: jax.Array  # [R, X] float32, nats, of the distribution sampled from
  values: jax.Array | None  # [R, X] float32, of the context before the token


@struct.dataclass
class Prompts:
  """What rows have in common: row r begins with prompt r // (R / Q)."""

  tokens: jax.Array  # [Q, P] int32, padded on the right with anything
  lengths: jax.Array  # [Q] int32


def can_share(
    config: model_config.ModelConfig, num_rows: int, length: int) -> bool:
  """Tells whether rows of this length are scored faster with `Prompts`.

  A prompt is then read once for all rows that begin with it, and attention is
  dense, over two caches. That suits the CPU; fused kernels want whole rows, and
  what the backward pass stores of a cache is too much for recomputation.
  """
  return (
      config.execution.layer_loop == 'unroll'
      and config.execution.remat == 'none'
      and attention.choose(config, num_rows, length) == 'dense')


def score(
    config: model_config.ModelConfig, params: types.Params,
    tokens_RxX: jax.Array, targets_RxX: jax.Array, *,
    sampling: decode.Sampling, num_chunks: int = 1,
    prompts: Prompts | None = None, places: rows_lib.Places | None = None,
) -> Scores:
  """Reads rows and scores their next tokens; differentiable.

  Args:
    config: of the model.
    params: unboxed.
    tokens_RxX: int32, padded on the right.
    targets_RxX: int32, what follows.
    sampling: of the sampler.
    num_chunks: pieces of a row whose logits exist one at a time; divides X.
    prompts: of the rows, to be read once each, all logits at once; scores of
      tokens in the prompts are 0 then.
    places: of the tokens, where rows are trees.

  Raises:
    ValueError: rows are longer than the model's.
  """
  if prompts is not None:
    return _score_shared(
        config, params, tokens_RxX, targets_RxX, prompts, sampling)
  hidden_RxXxD = transformer.hidden(
      config, params, tokens_RxX, **places.arguments if places else {})

  def piece(hidden_RxCxD, targets_RxC) -> Scores:
    output = transformer.read_out(config, params, hidden_RxCxD)
    return _of_logits(output, targets_RxC, sampling)

  if num_chunks == 1:
    return piece(hidden_RxXxD, targets_RxX)

  def cut(x):  # [R, X, ...] -> [chunks, R, X / chunks, ...]
    return jnp.swapaxes(
        x.reshape(x.shape[0], num_chunks, -1, *x.shape[2:]), 0, 1)

  scores = jax.lax.map(
      lambda x: jax.checkpoint(piece)(*x),
      (cut(hidden_RxXxD), cut(targets_RxX)))
  join = lambda x: jnp.swapaxes(x, 0, 1).reshape(targets_RxX.shape)
  return jax.tree.map(join, scores)


def _score_shared(
    config, params, tokens_RxX, targets_RxX, prompts, sampling) -> Scores:
  """Prompts first, then what is behind them, which sees its prompt's cache."""
  num_rows, num_positions = tokens_RxX.shape
  num_questions, num_prompt = prompts.tokens.shape
  of_rows = lambda x: jnp.repeat(x, num_rows // num_questions, axis=0)
  positions_QxP = jnp.broadcast_to(
      jnp.arange(num_prompt, dtype=jnp.int32)[None], prompts.tokens.shape)
  hidden_QxPxD, cache = transformer.decode_hidden(
      config, params, prompts.tokens,
      cache_lib.create(config, *prompts.tokens.shape),
      positions_BxL=positions_QxP,
      is_valid_BxL=positions_QxP < prompts.lengths[:, None], is_prefill=True)
  last_Qx1xD = jnp.take_along_axis(
      hidden_QxPxD, prompts.lengths[:, None, None] - 1, axis=1)

  # Position c of a row's own predicts the token c behind its prompt.
  lengths_Rx1 = of_rows(prompts.lengths)[:, None]
  at_RxC = lengths_Rx1 - 1 + jnp.arange(num_positions - num_prompt + 1)[None]
  own = lambda x_RxX: jnp.take_along_axis(x_RxX, at_RxC, axis=1)
  read_RxL = own(tokens_RxX)[:, 1:]
  hidden_RxLxD, _ = transformer.decode_hidden(
      config, params, read_RxL, cache_lib.create(config, *read_RxL.shape),
      positions_BxL=at_RxC[:, 1:], shared=(cache,))
  output = transformer.read_out(config, params, jnp.concatenate(
      [of_rows(last_Qx1xD), hidden_RxLxD], axis=1))
  scores = _of_logits(output, own(targets_RxX), sampling)

  from_RxX = jnp.arange(num_positions)[None] - (lengths_Rx1 - 1)
  is_own_RxX = (from_RxX >= 0) & (from_RxX < at_RxC.shape[1])
  place = lambda x_RxC: jnp.where(is_own_RxX, jnp.take_along_axis(
      x_RxC, jnp.clip(from_RxX, 0, at_RxC.shape[1] - 1), axis=1), 0.0)
  return jax.tree.map(place, scores)


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
