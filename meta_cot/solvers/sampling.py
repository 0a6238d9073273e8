# SPDX-License-Identifier: Apache-2.0
"""Whole texts, sampled or greedy, in fixed-size device batches.

With several processes all of them pass the same prompts and get the same
completions.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import time

import jax
import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot import traces
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.rollouts import verdicts
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.tasks import base as tasks_base


@dataclasses.dataclass(frozen=True)
class Settings:
  """How texts are drawn."""

  batch_size: int = config_lib.setting(low=1)  # texts written together
  max_new_tokens: int = config_lib.setting(low=1)
  num_samples: int = config_lib.setting(low=1)  # of every problem
  temperature: float = config_lib.setting(low=0.0)  # 0: greedy
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)

  def greedy(self) -> 'Settings':
    """The same, but for the one likeliest text of a problem."""
    return dataclasses.replace(
        self, num_samples=1, temperature=0.0, top_k=None, top_p=None)


@dataclasses.dataclass(frozen=True)
class Completion:
  """What the model wrote after a prompt."""

  text: str  # prompt and continuation, what ends it cut off
  num_tokens: int  # generated, what ends it included
  is_finished: bool  # ended by a token that ends a text, not by the limit
  log_prob: float  # of these tokens, as they were drawn


class Sampler:
  """The solver: N texts of every problem.

  Greedy texts are kept, with what `traces.analyze` says of them.
  """

  def __init__(
      self, settings: Settings, task: tasks_base.Task, mesh: jax.sharding.Mesh):
    self._settings = settings
    self._task = task
    self._mesh = mesh
    self._decoder = functools.cache(self._make_decoder)

  def __call__(
      self, policy: base.Policy, problems: Sequence[Problem],
      rng: types.PRNGKey, *, first: int = 0,
  ) -> base.Outcomes:
    """See `base.Solver`."""
    copies = self._settings.num_samples
    decoder = self._decoder(policy.model, policy.tokenizer)
    prompts = [
        traces.prompt(p, style=policy.style)
        for p in problems for _ in range(copies)]
    longest = max(prompts, key=lambda p: len(policy.tokenizer.encode(p)))
    decoder(policy.params, [longest], rng)  # compiles
    start = time.perf_counter()
    completions = decoder(policy.params, prompts, rng, first * copies)
    seconds = time.perf_counter() - start
    claims = [
        verdicts.of_text(
            self._task, problems[i // copies], c.text, policy.style,
            is_finished=c.is_finished)
        for i, c in enumerate(completions)]
    shape = len(problems), copies
    grid = lambda values, dtype: np.array(list(values), dtype).reshape(shape)
    return base.Outcomes(
        is_correct=grid((c.verdict.is_correct for c in claims), bool),
        is_finished=grid((c.is_finished for c in completions), bool),
        num_tokens=grid((c.num_tokens for c in completions), np.float64),
        answers=grid((c.answer for c in claims), object),
        values=grid(
            (math.exp(c.log_prob / c.num_tokens) for c in completions),
            np.float64),
        seconds=seconds, occupancy=_occupancy(completions, decoder.batch_size),
        details=self._details(policy, problems, completions, claims))

  def _make_decoder(self, model, tokenizer) -> 'Decoder':
    s = self._settings
    return Decoder(
        model, tokenizer, self._mesh, batch_size=s.batch_size,
        max_new_tokens=s.max_new_tokens, sampling=decode.Sampling(
            temperature=s.temperature, top_k=s.top_k, top_p=s.top_p))

  def _details(self, policy, problems, completions, claims) -> dict:
    if self._settings.temperature > 0:
      return {}
    told = [
        traces.analyze(p, c.text, policy.style, c.is_finished)
        for p, c in zip(problems, completions, strict=True)]
    column = lambda values: base.objects([[value] for value in values])
    return dict(
        text=column(c.text for c in completions),
        reason=column(c.verdict.reason for c in claims),
        error=column(t.primary_error for t in told),
        nodes=column(t.nodes for t in told),
        backtracks=column(t.backtracks for t in told))


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
    self.batch_size = sharding.up_to_parts(batch_size, mesh)
    self._generate = jit_generate(
        model, mesh, max_new_tokens=max_new_tokens, sampling=sampling,
        eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id)

  def __call__(
      self, params: types.Params, prompts: list[str], rng: types.PRNGKey,
      first: int = 0,
  ) -> list[Completion]:
    """Completes all prompts; i samples with its own key, `first` + i of rng."""
    encoded = [self._tokenizer.encode(prompt) for prompt in prompts]
    width = decode.prompt_width(max(map(len, encoded)))
    completions = []
    for start in range(0, len(prompts), self.batch_size):
      ids = encoded[start:start + self.batch_size]
      texts = prompts[start:start + self.batch_size]
      generation = self._run(params, ids, width, first + start, rng)
      completions += [
          self._completion(text, generation, row)
          for row, text in enumerate(texts)]
    return completions

  def _run(self, params, ids, width, start, rng):
    """One batch; short ones are filled up with copies of their first row."""
    rows = ids + ids[:1] * (self.batch_size - len(ids))
    tokens_BxP = np.full(
        (self.batch_size, width), self._tokenizer.pad_id, np.int32)
    for row, tokens in enumerate(rows):
      tokens_BxP[row, :len(tokens)] = tokens
    host = dict(
        prompts=tokens_BxP,
        lengths=np.array([len(tokens) for tokens in rows], np.int32),
        row_ids=np.arange(start, start + self.batch_size, dtype=np.int32))
    placed = sharding.split_batch(host, self._mesh)
    return jax.device_get(self._generate(
        params, placed['prompts'], placed['lengths'], rng,
        row_ids_B=placed['row_ids']))

  def _completion(self, prompt, generation, row) -> Completion:
    length = int(generation.lengths[row])
    is_finished = bool(generation.is_finished[row])
    tokens = generation.tokens[row, :length - is_finished].tolist()
    return Completion(
        prompt + self._tokenizer.decode(tokens), length, is_finished,
        float(generation.log_probs[row, :length].sum()))


def _occupancy(completions: Sequence[Completion], batch_size: int) -> float:
  """Share of the decoder's row-steps that made a token."""
  rows = [
      [c.num_tokens for c in completions[i:i + batch_size]]
      for i in range(0, len(completions), batch_size)]
  return sum(map(sum, rows)) / sum(max(r) * batch_size for r in rows)
