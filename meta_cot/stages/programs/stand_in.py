# SPDX-License-Identifier: Apache-2.0
"""What stands in for a tokenizer and for problems where neither exists yet.

Ids and texts are constants of a program: others of the same number and length
make the same program.
"""

import dataclasses
import re
from typing import ClassVar

from meta_cot.problem import Problem
from meta_cot.tasks.countdown import problems as countdown_problems
from meta_cot.tasks.countdown import task as countdown

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


def problem(config: countdown_problems.CountdownConfig) -> Problem:
  """The longest problem, solvable or not."""
  return countdown.make_problem(
      [config.max_number] * config.num_numbers, config.max_target)
