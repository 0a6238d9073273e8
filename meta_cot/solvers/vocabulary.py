# SPDX-License-Identifier: Apache-2.0
"""What a compiled search must know of a tokenizer, and verdicts on its tokens.
"""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import tokenizers
from meta_cot.problem import Problem
from meta_cot.rollouts import verdicts
from meta_cot.solvers import steps
from meta_cot.tasks import base


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Constants of the programs of a search."""

  pad_id: int
  eos_ids: tuple[int, ...]  # end a text
  delimiter_ids: tuple[int, ...]  # end a step, and belong to it
  texts: tuple[str, ...]  # of every id that the model can write


def of(
    tokenizer: tokenizers.Tokenizer, vocab_size: int, style: str,
    kind: str = 'solution',
) -> Vocabulary:
  """That of a tokenizer.

  Args:
    tokenizer: of the model.
    vocab_size: of the model, at least the tokenizer's.
    style: of its texts.
    kind: of the steps, of `steps.KINDS`.

  Raises:
    ValueError: no token ends a step.
  """
  return Vocabulary(
      pad_id=tokenizer.pad_id, eos_ids=tokenizer.eos_ids,
      delimiter_ids=steps.end_ids(tokenizer, style, kind),
      texts=tuple(tokenizer.decode([i]) for i in range(vocab_size)))


@dataclasses.dataclass(eq=False)
class HostVerdict:
  """The verifier on the host as an `outcome` of `reasoning.LanguageStep`.

  For what no function of arrays judges. `problem` holds the 'index' of one of
  `problems`.
  """

  task: base.Task
  tokenizer: tokenizers.Tokenizer
  style: str
  problems: Mapping[int, Problem] = dataclasses.field(default_factory=dict)

  def __call__(self, problem, tokens_M, length) -> jax.Array:
    """1.0 for a right text, else 0.0; [] float32."""
    return jax.pure_callback(
        self._verdict, jax.ShapeDtypeStruct((), jnp.float32),
        problem['index'], tokens_M, length, vmap_method='sequential')

  def _verdict(self, index, tokens_M, length) -> np.ndarray:
    tokens = np.asarray(tokens_M)[:int(length)].tolist()
    # Most texts are parts of one, without an end.
    is_ended = bool(set(tokens[-1:]) & set(self.tokenizer.eos_ids))
    return np.float32(is_ended and verdicts.of_tokens(
        self.task, self.tokenizer, self.problems[int(index)], tokens,
        self.style).verdict.is_correct)
