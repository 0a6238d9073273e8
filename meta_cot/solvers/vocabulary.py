# SPDX-License-Identifier: Apache-2.0
"""What a compiled search must know of a tokenizer."""

import dataclasses

from data_pipelines.tokenizers import sentencepiece as tokenizer_lib
from meta_cot.solvers import trees


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
