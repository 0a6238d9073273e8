# SPDX-License-Identifier: Apache-2.0
"""Completes lists of text prompts in fixed-size device batches.

With several processes all of them pass the same prompts and get the same
completions.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config


@dataclasses.dataclass(frozen=True)
class Completion:
  """What the model wrote after a prompt."""

  text: str  # prompt and continuation, what ends it cut off
  num_tokens: int  # generated, what ends it included
  is_finished: bool  # ended by a token that ends a text, not by the limit


def jit_generate(
    model: model_config.ModelConfig, mesh: jax.sharding.Mesh, *,
    max_new_tokens: int, sampling: decode.Sampling,
    eos_ids: tuple[int, ...], pad_id: int,
) -> Callable[..., decode.Generation]:
  """`decode.generate` jitted for a mesh; every device gets the whole result.

  Call it as (params, prompts_BxP, prompt_lengths_B, rng, row_ids_B=...).
  """
  return jax.jit(
      functools.partial(
          decode.generate, model, max_new_tokens=max_new_tokens,
          sampling=sampling, eos_ids=eos_ids, pad_id=pad_id),
      out_shardings=sharding.replicated(mesh))


class Decoder:
  """Completes prompts; every call with the same widths reuses one program."""

  def __init__(
      self, model: model_config.ModelConfig,
      tokenizer: tokenizers.Tokenizer, mesh: jax.sharding.Mesh, *,
      batch_size: int, max_new_tokens: int, sampling: decode.Sampling,
  ):
    self._tokenizer = tokenizer
    self._mesh = mesh
    self._batch_size = sharding.up_to_parts(batch_size, mesh)
    self._generate = jit_generate(
        model, mesh, max_new_tokens=max_new_tokens, sampling=sampling,
        eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id)

  def __call__(
      self, params: types.Params, prompts: list[str], rng: types.PRNGKey
  ) -> list[Completion]:
    """Completes each prompt; prompt i samples with its own key, `i` of rng."""
    encoded = [self._tokenizer.encode(prompt) for prompt in prompts]
    width = decode.prompt_width(max(map(len, encoded)))
    completions = []
    for start in range(0, len(prompts), self._batch_size):
      ids = encoded[start:start + self._batch_size]
      texts = prompts[start:start + self._batch_size]
      generation = self._run(params, ids, width, start, rng)
      completions += [
          self._completion(text, generation, row)
          for row, text in enumerate(texts)]
    return completions

  def _run(self, params, ids, width, start, rng):
    """One batch; short ones are filled up with copies of their first row."""
    rows = ids + ids[:1] * (self._batch_size - len(ids))
    tokens_BxP = np.full(
        (self._batch_size, width), self._tokenizer.pad_id, np.int32)
    for row, tokens in enumerate(rows):
      tokens_BxP[row, :len(tokens)] = tokens
    host = dict(
        prompts=tokens_BxP,
        lengths=np.array([len(tokens) for tokens in rows], np.int32),
        row_ids=np.arange(start, start + self._batch_size, dtype=np.int32))
    placed = sharding.split_batch(host, self._mesh)
    return jax.device_get(self._generate(
        params, placed['prompts'], placed['lengths'], rng,
        row_ids_B=placed['row_ids']))

  def _completion(self, prompt, generation, row) -> Completion:
    length = int(generation.lengths[row])
    is_finished = bool(generation.is_finished[row])
    tokens = generation.tokens[row, :length - is_finished].tolist()
    return Completion(
        prompt + self._tokenizer.decode(tokens), length, is_finished)
