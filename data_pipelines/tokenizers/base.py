# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer is, and what a kind of tokenizer is.

A kind is a module, and one line of `factory.KINDS`. It has

  FILE          by this file its folders are told; `save` writes it last
  load(folder)  the tokenizer that was saved there
  Settings      of the group `tokenizer`: `kind`, `vocab_size` (as many tokens
                at most; None: only its files say), and what else it needs. They

    make(texts)    a tokenizer, learned from the texts or read
    check()        that what `make` reads is there; how many tokens it has, None
                   where they are learned
    placeholder()  what programs are built with before there is one: `pad_id`,
                   `eos_ids`, `control_ids`, `containing`, `decode` and
                   `encode`, which makes of a text as many tokens as the one to
                   come at most

`make`, `check` and `load` raise a UserError of one line that names the file.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from meta_cot.runtime import files


class Tokenizer(Protocol):
  """Encodes and decodes; picklable, hashable, read only.

  Control tokens mean something by themselves: padding, ends, marks. No text of
  a user or of a model is ever encoded as one.
  """

  vocab_size: int
  pad_id: int  # fills rows
  eos_ids: tuple[int, ...]  # all that end a text; control tokens
  eos_id: int  # the first of them, which ends the texts that are trained on
  control_ids: Mapping[str, int]  # by name, without padding and ends
  fingerprint: str  # equal for tokenizers that do the same

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`; never a control id, whatever the text says."""

  def encode_prompt(self, text: str) -> list[int]:
    """Token ids of a question; control tokens that begin it may stand there.

    What a model writes follows them, encoded on its own.
    """

  def decode(self, ids: Sequence[int], *, show_control: bool = False) -> str:
    """Text of `ids`; never raises on what a model may sample.

    Args:
      ids: any integers. Ids of no token and incomplete bytes decode to U+FFFD.
      show_control: write control tokens by name instead of dropping them.
    """

  def containing(self, text: str) -> np.ndarray:
    """Finds the tokens whose own text has `text` in it, at least a character.

    Returns:
      Bool [vocab_size]; False for control tokens.
    """

  def save(self, folder: files.Path) -> None:
    """Writes the files that `load` reads, atomically."""


def of_setting(tokenizer: Tokenizer, text: str) -> list[int]:
  """Token ids of a text in the settings: it may name a control token."""
  control_id = tokenizer.control_ids.get(text)
  return tokenizer.encode(text) if control_id is None else [control_id]
