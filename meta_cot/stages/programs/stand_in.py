# SPDX-License-Identifier: Apache-2.0
"""What stands in for a tokenizer and for problems where neither is stored yet.

Ids and texts are constants of a program: others of the same number and length
make the same program.
"""

import dataclasses
import re
from typing import ClassVar

from meta_cot.problem import Problem
from meta_cot.stages import experiment as experiment_lib

_TEXT_ID = 9  # of all text; no control token


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Makes of a text as many tokens as a trained one does at most."""

  number_tokens: int | None  # as in `tokenizer.TokenizerConfig`
  pad_id: ClassVar[int] = 0
  eos_id: ClassVar[int] = 1

  def encode(self, text: str) -> list[int]:
    """A token per number up to `number_tokens` and per other character."""
    largest = -1 if self.number_tokens is None else self.number_tokens
    pieces = re.findall(r'\d+|\D', text)
    return [_TEXT_ID] * sum(
        1 if piece.isdigit() and int(piece) <= largest else len(piece)
        for piece in pieces)


def problem(experiment: experiment_lib.Experiment) -> Problem:
  """The longest of the first problems."""
  tokenizer = Tokenizer(experiment.tokenizer.number_tokens)
  return max(
      experiment_lib.first_problems(experiment.task, experiment.seed),
      key=lambda problem: len(tokenizer.encode(problem.question)))
