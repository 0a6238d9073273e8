# SPDX-License-Identifier: Apache-2.0
"""A kind of tokenizer, for tests: a token a character, two that end a text."""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import types

import numpy as np

from meta_cot.runtime import files

CONTROL_TOKENS = ('<pad>', '<end>', '<turn>', '<|step|>')
FILE = 'characters.json'
_UNKNOWN = '\ufffd'


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of the group `vocabulary`."""

  vocab_size: None = None  # follows from the texts

  def make(self, texts: Iterable[str]) -> 'Tokenizer':
    return Tokenizer(_UNKNOWN + ''.join(sorted(set(''.join(texts)))))

  def check(self) -> None:
    pass

  def placeholder(self) -> 'Tokenizer':
    return Tokenizer(_UNKNOWN)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """See `base.Tokenizer`."""

  characters: str
  pad_id = 0
  eos_id = 2
  eos_ids = (2, 1)
  control_ids = types.MappingProxyType({'<|step|>': 3})

  @property
  def vocab_size(self) -> int:
    return len(CONTROL_TOKENS) + len(self.characters)

  @property
  def fingerprint(self) -> str:
    return hashlib.sha256(self.characters.encode()).hexdigest()

  def encode(self, text: str) -> list[int]:
    known = [c if c in self.characters else _UNKNOWN for c in text]
    return [len(CONTROL_TOKENS) + self.characters.index(c) for c in known]

  def encode_prompt(self, text: str) -> list[int]:
    return self.encode(text)

  def decode(self, ids: Sequence[int], *, show_control: bool = False) -> str:
    control = CONTROL_TOKENS if show_control else [''] * len(CONTROL_TOKENS)
    shown = [*control, *self.characters]
    return ''.join(
        shown[i] if 0 <= i < len(shown) else _UNKNOWN for i in map(int, ids))

  def containing(self, text: str) -> np.ndarray:
    return np.array([False] * len(CONTROL_TOKENS) + [
        c == text for c in self.characters])

  def save(self, folder: files.Path) -> None:
    files.write_json(files.path(folder) / FILE, dict(text=self.characters))


def load(folder: files.Path) -> Tokenizer:
  return Tokenizer(files.read_json(files.path(folder) / FILE, text=str)['text'])
