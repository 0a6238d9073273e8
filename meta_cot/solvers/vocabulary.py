# SPDX-License-Identifier: Apache-2.0
"""What a compiled search must know of a tokenizer, and verdicts on its tokens.
"""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from data_pipelines.tokenizers import sentencepiece as tokenizer_lib
from meta_cot.solvers import trees
from meta_cot.verifiers import in_graph


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Constants of the programs of a search."""

  pad_id: int
  eos_id: int
  delimiter_ids: tuple[int, ...]  # end a step, and belong to it
  texts: tuple[str, ...]  # of every id that the model can write


def of(tokenizer: tokenizer_lib.Tokenizer, vocab_size: int) -> Vocabulary:
  """That of a tokenizer.

  Args:
    tokenizer: of the model.
    vocab_size: of the model, at least the tokenizer's.

  Raises:
    ValueError: no token ends a step.
  """
  return Vocabulary(
      pad_id=tokenizer.pad_id, eos_id=tokenizer.eos_id,
      delimiter_ids=trees.delimiter_ids(tokenizer),
      texts=tuple(tokenizer.decode([i]) for i in range(vocab_size)))


def verdict(texts: Sequence[str]) -> Callable[..., jax.Array]:
  """The verifier as an `outcome` of `reasoning.make_step_fn`.

  Args:
    texts: of all tokens, see `Vocabulary`.

  Returns:
    1.0 for a right solution, else 0.0; `problem` holds 'numbers' and 'target'.
  """
  table_VxC = in_graph.symbol_table(texts)

  def outcome(problem, tokens_M, length):
    symbols_MxC = jnp.asarray(table_VxC)[tokens_M]
    is_text_M = jnp.arange(tokens_M.shape[0]) < length
    symbols_MxC = jnp.where(is_text_M[:, None], symbols_MxC, in_graph.BLANK)
    return in_graph.check(
        symbols_MxC.reshape(-1), problem['numbers'],
        problem['target']).astype(jnp.float32)

  return outcome
