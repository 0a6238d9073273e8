# SPDX-License-Identifier: Apache-2.0
"""Judges that say in words what a text is worth (objective `verdict`).

A text and the mark that asks are a state; the judge completes it some times,
and the share of completions that end with the token for right is its value
(arXiv 2501.04682, section 3.1). A text is read once for all of its verdicts.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import program
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.reasoning import node as node_lib
from meta_cot.rollouts import labels
from meta_cot.solvers import base
from meta_cot.training import flops
from meta_cot.training import policy as policy_lib
from meta_cot.types import PRNGKey

_SAMPLING = decode.Sampling(1.0, None, None)


@dataclasses.dataclass(frozen=True)
class Reader:
  """Asks a judge for verdicts, with one program.

  Attributes:
    model: of the judge.
    tokenizer: of the judge, and of the texts.
    words: of `examples.VerdictConfig`, by its fields.
    mesh: devices, over which a batch is split.
    width: tokens of the longest question.
    text_width: of the longest text behind it, and of a verdict with its
      verification.
    num_verdicts: of every text.
    batch_size: texts judged together.
  """

  model: model_config.ModelConfig
  tokenizer: tokenizers.Tokenizer
  words: Mapping[str, Any]
  mesh: jax.sharding.Mesh
  width: int
  text_width: int
  num_verdicts: int
  batch_size: int

  @property
  def num_states(self) -> int:
    """Texts of one call."""
    return sharding.up_to_parts(self.batch_size, self.mesh)

  @functools.cached_property
  def _complete(self):
    (right,) = tokenizers.of_setting(self.tokenizer, self.words['right'])
    return jit_complete(
        self.model, self.mesh, self.tokenizer.eos_ids, self.tokenizer.pad_id,
        right, self.text_width, self.num_verdicts, self.num_states)

  def __call__(
      self, judge: base.Policy, questions: Sequence[Sequence[int]],
      texts: Sequence[Sequence[int]], rng: PRNGKey,
  ) -> list[float]:
    """Returns the share of right verdicts of every text, at least one.

    What is drawn follows from `rng` and the tokens: equal texts have equal
    verdicts.
    """
    ask = tokenizers.of_setting(self.tokenizer, self.words['ask'])
    labeler = labels.Labeler(
        self._complete, self.mesh, self.num_states, self.width,
        self.text_width + 1, self.tokenizer.pad_id,
        inputs=lambda problems: [{} for _ in problems], judge=None)
    num_right, _ = labeler(judge.params, [
        labels.State(None, tuple(question), (*text, *ask))
        for question, text in zip(questions, texts, strict=True)], rng)
    return (num_right / self.num_verdicts).tolist()


@functools.cache
def jit_complete(
    model: model_config.ModelConfig, mesh: jax.sharding.Mesh,
    eos_ids: tuple[int, ...], pad_id: int, right_id: int, length: int,
    num_verdicts: int, num_states: int,
) -> Callable[..., labels.Completed]:
  """Jits `labels.jit_complete` with verdicts of at most `length` tokens."""
  return labels.jit_complete(
      model, mesh, rules=labels.rules(_SAMPLING, length, eos_ids),
      num_rollouts=num_verdicts, num_slots=num_states * num_verdicts,
      outcome=node_lib.ends_with(right_id), pad_id=pad_id)


def program_of(
    name: str, model: model_config.ModelConfig, mesh: jax.sharding.Mesh, *,
    tokenizer: tokenizers.Tokenizer, width: int, text_width: int,
    num_verdicts: int, batch_size: int,
) -> program.Program:
  """Describes what a `Reader` compiles; no verdict ends early."""
  number = sharding.up_to_parts(batch_size, mesh)
  ints = lambda *shape: program.rows(shape, jnp.int32, mesh)
  states = labels.States(
      ints(number, width), ints(number), ints(number, text_width + 1),
      ints(number), ints(number), {})
  tokens = number * num_verdicts * text_width
  read = width + text_width + 1
  work = flops.prefill_flops(model, number, read, num_readouts=0)
  work += tokens * model.flops_per_token(read + text_width / 2)
  return program.Program(
      name, jit_complete(
          model, mesh, tokenizer.eos_ids, tokenizer.pad_id, 0, text_width,
          num_verdicts, number),
      (policy_lib.abstract(model, mesh), states, program.placed(
          jax.eval_shape(lambda: jax.random.key(0)), mesh)), {}, work, tokens)
