# SPDX-License-Identifier: Apache-2.0
"""Questions with a text in front, such as a budget or the prompt of a discount.
"""

import dataclasses
from typing import Any

from data_pipelines.tokenizers import base


@dataclasses.dataclass(frozen=True)
class Opened:
  """A tokenizer that puts `text` in front of every question."""

  tokenizer: base.Tokenizer
  text: str

  def encode_prompt(self, text: str) -> list[int]:
    """See `base.Tokenizer`."""
    return self.tokenizer.encode_prompt(self.text + text)

  def __getattr__(self, name: str) -> Any:
    """All else is the tokenizer's own."""
    if name.startswith('__'):  # of copies that have no fields yet
      raise AttributeError(name)
    return getattr(self.tokenizer, name)


def opening(name: str) -> str:
  """Writes what names a strategy, or a budget, before a question."""
  return f'{name}:'
