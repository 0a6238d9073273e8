# SPDX-License-Identifier: Apache-2.0
"""Sampling text from a model: prefill, then one token at a time in a loop.

A row draws the same tokens alone or in any batch: its randomness depends on
its id and on the position of the token only.
"""

import dataclasses
import math

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot.model import attention
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.types import Params, PRNGKey

_WIDTH_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How the next token is drawn; applied in this order."""

  temperature: float  # 0 takes the likeliest token (the lowest id of a tie)
  top_k: int | None = None  # keep the k likeliest, and ties with the k-th
  top_p: float | None = None  # then the fewest likeliest that hold mass p

  def __post_init__(self):
    if not 0 <= self.temperature < math.inf:
      raise ValueError(
          f'temperature: got {self.temperature!r}; must be finite and at '
          'least 0.')
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(
          f'top_k: got {self.top_k!r}; must be at least 1, or None to keep '
          'all tokens.')
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise ValueError(
          f'top_p: got {self.top_p!r}; must be in (0, 1], or None to keep '
          'all tokens.')
    if self.temperature == 0 and (self.top_k, self.top_p) != (None, None):
      raise ValueError(
          f'top_k, top_p: got {self.top_k!r}, {self.top_p!r}; must be None '
          'where temperature is 0: the likeliest token is taken.')


@struct.dataclass
class Generation:
  """New tokens of every row, the prompt not included.

  `log_probs` are those of the distribution that was sampled, after
  temperature, top-k and top-p. At temperature 0, where that is a point, they
  are the model's own (temperature 1). Behind a row's length they are 0.
  """

  tokens: jax.Array  # [B, T] int32; what ends a row included, padding after
  log_probs: jax.Array  # [B, T] float32, natural
  lengths: jax.Array  # [B] int32, tokens up to what ends a row, included
  is_finished: jax.Array  # [B] bool, False where T tokens did not suffice


@struct.dataclass
class _State:
  step: jax.Array  # [] int32, tokens drawn so far
  last: jax.Array  # [B] int32, the newest token
  cache: cache_lib.Cache  # has all tokens but the newest
  generation: Generation


def generate(
    config: model_config.ModelConfig,
    params: Params,
    prompts_RxP: jax.Array,
    prompt_lengths_R: jax.Array,
    rng: PRNGKey,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    eos_ids: tuple[int, ...],
    pad_id: int = 0,
    row_ids_B: jax.Array | None = None,
) -> Generation:
  """Continues every prompt until one of `eos_ids` or `max_new_tokens` tokens.

  Pure; jit it with `config` and the keyword settings but `row_ids_B` static.
  Ends early once every row has ended. The cache grows in a few stages, as
  attention costs as much as there are slots. A prompt is read once, however
  many rows continue it: they share its keys and values.

  Args:
    prompts_RxP: int32, padded on the right with anything. R divides B: row b
      continues prompt b // (B / R).
    prompt_lengths_R: int32, at least 1.
    rng: consumed. Row b draws the token of position t with the key folded
      first with `row_ids_B[b]`, then with t.
    max_new_tokens: T.
    eos_ids: tokens that end a row; () for none.
    pad_id: fills a row behind its end.
    row_ids_B: int32, distinct; 0 .. R-1 by default.

  Raises:
    ValueError: T < 1, P + T exceeds `config.max_length`, R does not divide B,
      or an id is not of the model's vocabulary.
  """
  num_prompts = len(prompts_RxP)
  if row_ids_B is None:
    row_ids_B = jnp.arange(num_prompts)
  _check(config, prompts_RxP, row_ids_B, max_new_tokens, eos_ids, pad_id)
  repeat = lambda x: jnp.repeat(x, len(row_ids_B) // num_prompts, axis=0)
  prompt_lengths_B = repeat(prompt_lengths_R)
  keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, row_ids_B)
  params = transformer.slice_layers(config, params)

  def draw(logits_BxV, state):
    positions_B = prompt_lengths_B + state.step
    tokens_B, log_probs_B = sample(
        logits_BxV, jax.vmap(jax.random.fold_in)(keys_B, positions_B), sampling)
    return _record(state, tokens_B, log_probs_B, eos_ids, pad_id)

  def advance(state):
    hidden_Bx1xD, cache = transformer.decode_hidden(
        config, params, state.last[:, None], state.cache,
        positions_BxL=(prompt_lengths_B + state.step - 1)[:, None],
        shared=shared)
    logits_Bx1xV = transformer.read_out(config, params, hidden_Bx1xD).logits
    return draw(logits_Bx1xV[:, 0], state.replace(cache=cache))

  prefilled = prefill(config, params, prompts_RxP, prompt_lengths_R)
  state, shared = _start(
      config, prefilled.cache, repeat(prompts_RxP[:, 0]), max_new_tokens,
      pad_id)
  num_slots = state.cache.num_slots
  state = draw(repeat(prefilled.logits[:, 0]), state)
  for stage_end in stages(max_new_tokens):
    state = state.replace(
        cache=cache_lib.grow(state.cache, num_slots + stage_end - 1))
    state = jax.lax.while_loop(
        lambda s, end=stage_end: (s.step < end) & ~jnp.all(
            s.generation.is_finished),
        advance, state)
  return state.generation


def prompt_width(num_tokens: int) -> int:
  """P for prompts of at most so many tokens: fewer widths, fewer programs."""
  return -(-num_tokens // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE


def prefill(
    config: model_config.ModelConfig,
    params: Params,
    prompts_BxP: jax.Array,
    prompt_lengths_B: jax.Array,
) -> transformer.Output:
  """Reads prompts of different length, padded on the right.

  Returns heads at the last token of every prompt ([B, 1, ...]) and a full cache
  of P slots (see `cache.grow`).
  """
  hidden_BxD, cache = read_prompts(
      config, params, prompts_BxP, prompt_lengths_B)
  output = transformer.read_out(config, params, hidden_BxD[:, None])
  return output.replace(cache=cache)


def read_prompts(
    config: model_config.ModelConfig,
    params: Params,
    texts_RxP: jax.Array,
    prompt_lengths_B: jax.Array,
) -> tuple[jax.Array, cache_lib.Cache]:
  """`prefill` without the heads; prompts that share a text read it once.

  Args:
    texts_RxP: int32, padded on the right with anything. R divides B: prompt b
      is the beginning of text b // (B / R).
    prompt_lengths_B: int32, at least 1.

  Returns:
    The trunk's output at the last token of every prompt, [B, D], and the cache
    of B rows.
  """
  num_texts = len(texts_RxP)
  ends_RxE = prompt_lengths_B.reshape(num_texts, -1)
  positions_RxP = jnp.broadcast_to(
      jnp.arange(texts_RxP.shape[1], dtype=jnp.int32)[None], texts_RxP.shape)
  hidden_RxPxD, cache = transformer.decode_hidden(
      config, params, texts_RxP, cache_lib.create(config, *texts_RxP.shape),
      positions_BxL=positions_RxP,
      is_valid_BxL=positions_RxP < jnp.max(ends_RxE, axis=1, keepdims=True),
      is_prefill=True)
  hidden_RxExD = jnp.take_along_axis(
      hidden_RxPxD, ends_RxE[:, :, None] - 1, axis=1)
  if ends_RxE.shape[1] > 1:
    cache = cache_lib.share_rows(cache, prompt_lengths_B)
  return hidden_RxExD.reshape(-1, hidden_RxPxD.shape[-1]), cache


def sample(
    logits_BxV: jax.Array, keys_B: PRNGKey, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
  """Draws a token per row from float32 logits; the keys are consumed.

  Returns:
    Tokens [B] int32, and their log-probabilities [B] float32 as described in
    `Generation`. Where a logit is NaN, or all are -inf, there is no
    distribution: the token is some id of the vocabulary, its log-probability
    NaN.
  """
  if sampling.temperature == 0:
    tokens_B = _first_max(logits_BxV)
    log_totals_B = jax.nn.logsumexp(logits_BxV, axis=-1)
  else:
    logits_BxV = truncate(logits_BxV, sampling)
    tokens_B, log_totals_B = _draw(logits_BxV, keys_B)
  logits_B = jnp.take_along_axis(logits_BxV, tokens_B[:, None], axis=-1)[:, 0]
  return tokens_B, logits_B - log_totals_B


def _draw(logits_BxV, keys_B):
  """Tokens drawn, and the logarithms of the sums of weights, [B] each.

  First a block of tokens, then one of its tokens: about 2 sqrt(V) random
  numbers and not V, which took longer than the layers of a small model.
  """
  vocab_size = logits_BxV.shape[-1]
  block_size = 2 ** (vocab_size.bit_length() // 2)
  logits_BxV = jnp.pad(
      logits_BxV, ((0, 0), (0, -vocab_size % block_size)),
      constant_values=-jnp.inf)
  logits_BxNxW = logits_BxV.reshape(len(logits_BxV), -1, block_size)
  log_totals_BxN = jax.nn.logsumexp(logits_BxNxW, axis=-1)
  blocks_B = _draw_one(log_totals_BxN, keys_B, 0)
  logits_BxW = jnp.take_along_axis(
      logits_BxNxW, blocks_B[:, None, None], axis=1)[:, 0]
  tokens_B = blocks_B * block_size + _draw_one(logits_BxW, keys_B, 1)
  tokens_B = jnp.minimum(tokens_B, vocab_size - 1)  # where a logit is NaN
  return tokens_B, jax.nn.logsumexp(log_totals_BxN, axis=-1)


def _draw_one(logits_BxN, keys_B, stage):
  """An index per row by Gumbel's maximum, [B] int32."""
  noise = lambda key: jax.random.gumbel(
      jax.random.fold_in(key, stage), logits_BxN.shape[1:])
  return _first_max(logits_BxN + jax.vmap(noise)(keys_B))


def _first_max(x_BxN):
  """Where the largest is, the first of equals; `argmax` is slow on the CPU."""
  indices_BxN = jax.lax.broadcasted_iota(jnp.int32, x_BxN.shape, 1)
  is_largest_BxN = x_BxN == jnp.max(x_BxN, axis=-1, keepdims=True)
  return jnp.min(
      jnp.where(is_largest_BxN, indices_BxN, x_BxN.shape[1] - 1), axis=-1)


def truncate(logits_BxV: jax.Array, sampling: Sampling) -> jax.Array:
  """Logits of the sampled distribution; NEG_INF where a token is ruled out."""
  logits_BxV = logits_BxV / sampling.temperature
  vocab_size = logits_BxV.shape[-1]
  if sampling.top_k is not None and sampling.top_k < vocab_size:
    kth_Bx1 = jax.lax.top_k(logits_BxV, sampling.top_k)[0][:, -1:]
    logits_BxV = jnp.where(logits_BxV < kth_Bx1, attention.NEG_INF, logits_BxV)
  if sampling.top_p is not None and sampling.top_p < 1:
    sorted_BxV = -jnp.sort(-logits_BxV, axis=-1)
    probs_BxV = jax.nn.softmax(sorted_BxV, axis=-1)
    before_BxV = jnp.cumsum(probs_BxV, axis=-1) - probs_BxV
    is_kept_BxV = before_BxV < sampling.top_p
    least_Bx1 = jnp.min(
        jnp.where(is_kept_BxV, sorted_BxV, jnp.inf), axis=-1, keepdims=True)
    # There is no distribution where none is kept: it stays so.
    least_Bx1 = jnp.where(jnp.isinf(least_Bx1), -jnp.inf, least_Bx1)
    logits_BxV = jnp.where(
        logits_BxV < least_Bx1, attention.NEG_INF, logits_BxV)
  return logits_BxV


def is_one_of(tokens: jax.Array, ids: tuple[int, ...]) -> jax.Array:
  """Tells whether tokens (int32, any shape) are among `ids`.

  One lookup in a constant of the program, however many ids there are.
  """
  table_V = np.zeros(max(ids, default=0) + 1, bool)  # False behind its end
  table_V[list(ids)] = True
  return jnp.asarray(table_V).at[tokens].get(mode='fill', fill_value=False)


def check_ids(
    config: model_config.ModelConfig, **ids: tuple[int, ...]) -> None:
  """Checks that ids, by the name of their setting, are of the vocabulary.

  Raises:
    ValueError: names the first that is not.
  """
  for name, tokens in ids.items():
    for token in tokens:
      if not 0 <= token < config.vocab_size:
        raise ValueError(
            f'{name}: got {token}; must be a token id from 0 to '
            f'{config.vocab_size - 1}.')


def _start(config, cache, last_B, num_new, pad_id):
  """The state of B rows behind a cache of prompts, and what they share."""
  shape, shared = (len(last_B), num_new), ()
  if len(last_B) > len(cache.positions):
    shared = (cache_lib.turn(cache),)
    cache = cache_lib.create(config, len(last_B), 1)
  return _State(
      step=jnp.zeros((), jnp.int32), last=last_B, cache=cache,
      generation=Generation(
          tokens=jnp.full(shape, pad_id, jnp.int32),
          log_probs=jnp.zeros(shape, jnp.float32),
          lengths=jnp.zeros(len(last_B), jnp.int32),
          is_finished=jnp.zeros(len(last_B), bool))), shared


def _record(state, tokens_B, log_probs_B, eos_ids, pad_id):
  """The state with one more token in every row that has not ended."""
  done = state.generation
  is_live_B = ~done.is_finished
  tokens_B = jnp.where(is_live_B, tokens_B, pad_id)
  log_probs_B = jnp.where(is_live_B, log_probs_B, 0.0)
  put = lambda x_BxT, new_B: jax.lax.dynamic_update_slice(
      x_BxT, new_B[:, None], (0, state.step))
  return state.replace(
      step=state.step + 1, last=tokens_B,
      generation=Generation(
          tokens=put(done.tokens, tokens_B),
          log_probs=put(done.log_probs, log_probs_B),
          lengths=done.lengths + is_live_B,
          is_finished=done.is_finished | is_one_of(tokens_B, eos_ids)))


def stages(max_new_tokens: int) -> list[int]:
  """Numbers of new tokens at which a cache grows; the last is T."""
  quarter = -(-max_new_tokens // 4)
  if quarter < 16:
    return [max_new_tokens]
  return [*range(quarter, max_new_tokens, quarter), max_new_tokens]


def _check(config, prompts_RxP, rows_B, max_new_tokens, eos_ids, pad_id):
  (num_prompts, num_prompt), num_rows = prompts_RxP.shape, len(rows_B)
  if num_rows % num_prompts:
    raise ValueError(
        f'row_ids_B: got {num_rows} for {num_prompts} prompts; must be a '
        'multiple.')
  check_ids(config, eos_ids=eos_ids, pad_id=(pad_id,))
  if max_new_tokens < 1:
    raise ValueError(
        f'max_new_tokens: got {max_new_tokens}; must be at least 1.')
  if num_prompt + max_new_tokens > config.max_length:
    raise ValueError(
        f'max_new_tokens: got {max_new_tokens} after prompts of {num_prompt}; '
        'together they must be at most config.model.max_length, '
        f'{config.max_length}.')
