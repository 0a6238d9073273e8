# SPDX-License-Identifier: Apache-2.0
"""Plays episodes with a model: problems in, rollouts out, shapes fixed."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from flax import struct
import jax
import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import sharding
from meta_cot import traces
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.rollouts import episodes
from meta_cot.rollouts import rollout as rollout_lib
from meta_cot.rollouts import spawning
from meta_cot.rollouts import threads


@struct.dataclass
class Asked:
  """Questions on the devices."""

  prompts: jax.Array  # [Q, P] int32
  lengths: jax.Array  # [Q] int32
  ids: jax.Array  # [Q] int32
  # [Q] int32, tokens of the searches whose attempts are in the prompts.
  num_explored: jax.Array | None = None
  hidden: Any = None  # a tree of [Q, ...], what feedback knows of them


def jit_rollout(
    model: model_config.ModelConfig, *, rules: episodes.Episodes,
    num_samples: int, num_slots: int,
) -> Callable[..., episodes.Rollouts]:
  """Makes (params, prompts, lengths, ids, rng) -> rollouts, jitted.

  With feedback the last argument is what it knows of the questions.
  """

  @jax.jit
  def play(params, prompts_QxP, lengths_Q, ids_Q, rng, hidden=None):
    return rollout_lib.rollout(
        model, params, prompts_QxP, lengths_Q, rng, rules=rules,
        num_samples=num_samples, num_slots=num_slots, question_ids_Q=ids_Q,
        hidden=hidden)

  return play


def jit_threads(
    model: model_config.ModelConfig, *, rules: threads.Rules,
    num_samples: int, num_slots: int,
) -> Callable[..., threads.Rollouts]:
  """Makes (params, prompts, lengths, ids, rng) -> rollouts, jitted."""

  @jax.jit
  def play(params, prompts_QxP, lengths_Q, ids_Q, rng):
    return spawning.rollout(
        model, params, prompts_QxP, lengths_Q, rng, rules=rules,
        num_samples=num_samples, num_slots=num_slots, question_ids_Q=ids_Q)

  return play


class Player:
  """G trajectories for each of Q questions; one program for all calls.

  The rules say whether they are of episodes or have threads.
  """

  def __init__(
      self, model: model_config.ModelConfig,
      tokenizer: tokenizers.Tokenizer, mesh: jax.sharding.Mesh, *,
      rules: episodes.Episodes | threads.Rules, style: str, width: int,
      num_questions: int, num_samples: int, num_slots: int,
  ):
    """Compiles nothing; P is `width`, see `prompt_width`."""
    self._tokenizer = tokenizer
    self._mesh = mesh
    self._style = style
    self._width = width
    self.rules = rules
    self.num_questions = num_questions
    self.num_samples = num_samples
    most = num_questions * num_samples
    jit_play = jit_rollout
    if isinstance(rules, threads.Rules):
      most, jit_play = most * rules.num_rows, jit_threads
    self.num_slots = min(num_slots, most)
    self.play = jit_play(
        model, rules=rules, num_samples=num_samples, num_slots=self.num_slots)
    self.whole = jax.jit(  # in full on every device
        lambda x: x, out_shardings=sharding.replicated(mesh))

  def ask(
      self, problems: Sequence[Problem], ids: Sequence[int],
      openings: Sequence[str] | None = None,
  ) -> Asked:
    """Puts 1 to Q problems on the devices; the first one fills the rest.

    Random draws follow from `ids`; `openings` are texts in front of the
    questions, none by default.
    """
    missing = self.num_questions - len(problems)
    encoded = [
        self._tokenizer.encode_prompt(o + traces.prompt(p, style=self._style))
        for o, p in zip(
            openings or [''] * len(problems), problems, strict=True)]
    prompts_QxP, lengths_Q = padded(
        encoded + encoded[:1] * missing, self._width, self._tokenizer.pad_id)
    ids_Q = np.array([*ids, *ids[:1] * missing], np.int32)
    hidden, feedback = None, self.rules.feedback
    if feedback is not None:
      known = [feedback.hidden(problem) for problem in problems]
      hidden = jax.tree.map(
          lambda *x: np.stack(x), *known, *known[:1] * missing)
    prompts_QxP, lengths_Q, ids_Q, hidden = sharding.split_batch(
        (prompts_QxP, lengths_Q, ids_Q, hidden), self._mesh)
    return Asked(prompts_QxP, lengths_Q, ids_Q, hidden=hidden)

  def __call__(
      self, params: types.Params, asked: Asked, rng: types.PRNGKey
  ) -> episodes.Rollouts | threads.Rollouts:
    """Plays; the results are split over the devices."""
    hidden = () if asked.hidden is None else (asked.hidden,)
    return self.play(
        params, asked.prompts, asked.lengths, asked.ids, rng, *hidden)

  def fetch(self, rollouts: Any) -> Any:
    """Copies results to the host, in full in every process."""
    return jax.device_get(self.whole(rollouts))


def padded(
    rows: Sequence[Sequence[int]], width: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Puts texts into one array: tokens [R, width] and lengths [R], int32."""
  tokens_RxP = np.full((len(rows), width), pad_id, np.int32)
  for tokens_P, row in zip(tokens_RxP, rows):
    tokens_P[:len(row)] = row
  return tokens_RxP, np.array([len(row) for row in rows], np.int32)


def prompt_width(
    tokenizer: tokenizers.Tokenizer, problems: Sequence[Problem],
    style: str, openings: Sequence[str] = ('',),
) -> int:
  """Finds P for these problems, any of the texts in front."""
  longest = max(
      len(tokenizer.encode_prompt(traces.prompt(p, style=style)))
      for p in problems)
  longest += max(len(tokenizer.encode(o)) for o in openings)
  return decode.prompt_width(longest)


@functools.cache
def token_of(tokenizer: tokenizers.Tokenizer, text: str) -> int:
  """Finds the one token that is `text`.

  Raises:
    ValueError: there is none.
  """
  ids = tokenizers.of_setting(tokenizer, text)
  if len(ids) != 1:
    raise ValueError(
        f'{text!r} is {len(ids)} tokens; must be one token of the tokenizer.')
  return ids[0]
