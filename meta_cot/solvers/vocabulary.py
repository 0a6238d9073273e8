# SPDX-License-Identifier: Apache-2.0
"""What a compiled search must know of a tokenizer."""

import dataclasses

from data_pipelines import tokenizers
from meta_cot.solvers import trees


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Constants of the programs of a search."""

  pad_id: int
  eos_ids: tuple[int, ...]  # end a text
  delimiter_ids: tuple[int, ...]  # end a step, and belong to it
  texts: tuple[str, ...]  # of every id that the model can write


def of(tokenizer: tokenizers.Tokenizer, vocab_size: int) -> Vocabulary:
  """That of a tokenizer.

  Args:
    tokenizer: of the model.
    vocab_size: of the model, at least the tokenizer's.

  Raises:
    ValueError: no token ends a step.
  """
  return Vocabulary(
      pad_id=tokenizer.pad_id, eos_ids=tokenizer.eos_ids,
      delimiter_ids=trees.delimiter_ids(tokenizer),
      texts=tuple(tokenizer.decode([i]) for i in range(vocab_size)))
