# SPDX-License-Identifier: Apache-2.0
"""Questions with a text in front, such as the prompt of a discount."""

from collections.abc import Iterable
import dataclasses
from typing import Any

from data_pipelines import tokenizers


@dataclasses.dataclass(frozen=True)
class Opened:
  """A tokenizer that puts `text` in front of every question."""

  tokenizer: tokenizers.Tokenizer
  text: str

  def encode_prompt(self, text: str) -> list[int]:
    """See `tokenizers.Tokenizer`."""
    return self.tokenizer.encode_prompt(self.text + text)

  def __getattr__(self, name: str) -> Any:
    """All else is the tokenizer's own."""
    if name.startswith('__'):  # of copies that have no fields yet
      raise AttributeError(name)
    return getattr(self.tokenizer, name)


def named(discounts: Iterable[tuple[float, str]]) -> dict[str, str]:
  """Names the texts by their discounts; one alone needs no name."""
  some = tuple(discounts)
  if len(some) == 1:
    return {'': some[0][1]}
  return {f'gamma {gamma:g}': text for gamma, text in some}
