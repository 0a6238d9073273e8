# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of pretrained models: the fast ones of Hugging Face.

A folder of a checkpoint has tokenizer.json, and says in others which tokens end
a text. Tokens are bytes: byte-level vocabularies (Llama 3, Qwen, SmolLM) and
those that fall back to bytes (Gemma). So decoding joins bytes, a text of two
parts has the tokens' bytes of both, and parts of a character are no fault.
Texts are encoded without control tokens, whatever they say.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import json
import re
from typing import Any

import numpy as np

from data_pipelines.tokenizers import controls
from data_pipelines.tokenizers import templates
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.tasks import faults

FILE = 'tokenizer.json'
SETTINGS = 'tokenizer_config.json'  # of a checkpoint, beside it
PROMPTS = ('text', 'chat')
_TOKENS = 'tokens.json'  # what the file does not say; with a hash of all
REPLACEMENT = '\ufffd'
_SPACE = '\u2581'  # of vocabularies that fall back to bytes
_BYTE = re.compile('<0x([0-9A-F]{2})>')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which tokenizer is used; see `configs/base.py`."""

  path: str = config_lib.setting()  # a checkpoint's folder
  # How questions are put: text (behind what begins a text) | chat (as the
  # checkpoint's chat template has what a user says).
  prompt: str = config_lib.setting(choices=PROMPTS)
  vocab_size: None = None  # its files say

  def make(self, texts: Iterable[str]) -> 'Tokenizer':
    """Reads the tokenizer; learns nothing."""
    del texts
    return of_checkpoint(files.path(self.path), self.prompt)

  def check(self) -> int:
    """Makes sure that it is there; returns its tokens."""
    return self.make(()).vocab_size

  def placeholder(self) -> 'Tokenizer':
    """Returns the tokenizer itself."""
    return self.make(())


def load(folder: files.Path) -> 'Tokenizer':
  """Reads the tokenizer that `save` left in a folder.

  Raises:
    UserError: a file is missing, damaged, or of another tokenizer.
  """
  folder = files.path(folder)
  told = files.read_json(
      folder / _TOKENS, pad_id=int, eos_ids=list, before=list, after=list,
      fingerprint=str)
  try:
    made = Tokenizer(
        (folder / FILE).read_bytes(), told['pad_id'],
        *(tuple(told[name]) for name in ('eos_ids', 'before', 'after')))
  except ValueError as e:
    raise config_lib.UserError(f'{folder / FILE}: {e}') from e
  if made.fingerprint != told['fingerprint']:
    raise config_lib.UserError(
        f'{folder / FILE}: not the tokenizer that {_TOKENS} names; restore '
        'both files from a copy.')
  return made


def of_checkpoint(
    folder: files.Path, prompt: str = 'text', control: Sequence[str] = (),
) -> 'Tokenizer':
  """Reads the tokenizer of a checkpoint as it was published.

  All tokens that generation_config.json, config.json and tokenizer_config.json
  say end a text do; rows are filled with the padding token, or the first end.

  Args:
    folder: with tokenizer.json.
    prompt: of PROMPTS.
    control: names of control tokens that are added.

  Raises:
    UserError: no such file, no end of texts, a name that is a token's, or
      no chat template that one question can be put into; names it.
  """
  folder = files.path(folder)
  if not (folder / FILE).is_file():
    raise config_lib.UserError(
        f'{folder / FILE}: no such file; the folder must be that of a '
        'checkpoint with a fast tokenizer.')
  told = {name: _optional(folder / name) for name in (
      'generation_config.json', 'config.json', SETTINGS)}
  try:
    data = (folder / FILE).read_bytes()
    ids = _Ids(data)
    eos_ids = [*dict.fromkeys(
        i for some in told.values()
        for i in ids.all_of(some.get('eos_token_id'), some.get('eos_token')))]
    if not eos_ids:
      raise ValueError('no file of the folder says what ends a text')
    pads = [i for some in told.values() for i in ids.all_of(
        some.get('pad_token_id'), some.get('pad_token'))]
    return of_parts(
        controls.add(data, control), (*pads, eos_ids[0])[0], eos_ids, prompt,
        templates.of_checkpoint(folder, told[SETTINGS]))
  except ValueError as e:
    raise config_lib.UserError(f'{folder / FILE}: {e}') from e


def of_parts(
    data: bytes, pad_id: int, eos_ids: Sequence[int], prompt: str,
    template: templates.Template | None,
) -> 'Tokenizer':
  """Makes a tokenizer, and finds what stands around a question.

  Raises:
    ValueError: as of `Tokenizer` and of `templates.around`.
  """
  processor = _processor(data)
  encode = lambda text, add: processor.encode(text, add_special_tokens=add).ids
  if prompt == 'chat':
    if template is None:
      raise ValueError('the checkpoint has no chat template')
    before, after = (
        encode(text, False) for text in templates.around(template))
  else:  # what the tokenizer itself writes before a text
    plain, whole = encode('a', False), encode('a', True)
    starts = [i for i in range(len(whole)) if whole[i:i + len(plain)] == plain]
    before, after = whole[:starts[0]] if starts else [], []
  return Tokenizer(
      data, pad_id, tuple(eos_ids), tuple(before), tuple(after))


class Tokenizer:
  """A `base.Tokenizer` around one of Hugging Face's."""

  def __init__(
      self, data: bytes, pad_id: int, eos_ids: tuple[int, ...],
      before: tuple[int, ...] = (), after: tuple[int, ...] = ()):
    """Reads tokenizer.json; a ValueError says why it is none for us.

    Args:
      data: of the file.
      pad_id: fills rows.
      eos_ids: end a text.
      before: tokens that begin a question.
      after: tokens between a question and what is written.
    """
    self._arguments = data, pad_id, eos_ids, before, after
    self.data, self._before, self._after = data, before, after
    self._processor = _processor(data)
    self._processor.encode_special_tokens = True  # as text
    self.pad_id, self.eos_ids, self.eos_id = pad_id, eos_ids, eos_ids[0]
    self.fingerprint = hashlib.sha256(
        data + json.dumps(self._arguments[1:]).encode()).hexdigest()
    raw = json.loads(data)
    _check_prefix(raw)
    self._control = {  # id -> name
        token['id']: token['content'] for token in raw['added_tokens']
        if token['special']}
    for i in (pad_id, *eos_ids):
      self._control.setdefault(i, self._processor.id_to_token(i))
    if None in self._control.values():
      raise ValueError(f'no tokens {pad_id}, {eos_ids} of padding and ends')
    self.control_ids = {name: i for i, name in self._control.items()
                        if i not in (pad_id, *eos_ids)}
    self._bytes = _pieces(raw, self._processor, self._control)
    self.vocab_size = len(self._bytes)

  def __reduce__(self):
    return Tokenizer, self._arguments

  def __eq__(self, other):
    return isinstance(other, Tokenizer) and (
        self.fingerprint == other.fingerprint)

  def __hash__(self):
    return hash(self.fingerprint)

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`; never a control id, whatever the text says."""
    text = text.encode(errors='replace').decode()  # no surrogates
    return self._processor.encode(text, add_special_tokens=False).ids

  def encode_prompt(self, text: str) -> list[int]:
    """Token ids of a question, as the checkpoint wants it put.

    Where something stands behind it, a line feed at its end is left out.
    """
    if self._after:
      text = text.removesuffix('\n')
    return [*self._before, *self.encode(text), *self._after]

  def decode(self, ids: Sequence[int], *, show_control: bool = False) -> str:
    """Text of `ids`; never raises on what a model may sample."""
    parts = []
    for i in map(int, ids):
      if not 0 <= i < self.vocab_size:
        parts.append(REPLACEMENT.encode())
      elif i in self._control:
        parts.append(self._control[i].encode() if show_control else b'')
      else:
        parts.append(self._bytes[i])
    return b''.join(parts).decode(errors='replace')

  def containing(self, text: str) -> np.ndarray:
    """Finds the tokens that have `text` in them, bool [vocab_size]."""
    part = text.encode()
    return np.array([
        i not in self._control and part in piece
        for i, piece in enumerate(self._bytes)])

  def save(self, folder: files.Path) -> None:
    """Writes the files that `load` reads, atomically."""
    folder = files.path(folder)
    files.write_json(folder / _TOKENS, dict(
        pad_id=self.pad_id, eos_ids=list(self.eos_ids),
        before=list(self._before), after=list(self._after),
        fingerprint=self.fingerprint))
    files.write_atomic(folder / FILE, self.data)


class _Ids:
  """Finds the ids of tokens that files name in several ways."""

  def __init__(self, data: bytes):
    self._processor = _processor(data)

  def all_of(self, number: Any, name: Any) -> list[int]:
    """The ids of a number, several numbers, a name, or a token's description.
    """
    if isinstance(number, int):
      return [number]
    if isinstance(number, list):
      return number
    name = name.get('content') if isinstance(name, Mapping) else name
    found = self._processor.token_to_id(name) if (
        isinstance(name, str)) else None
    return [] if found is None else [found]


def _processor(data: bytes) -> Any:
  try:
    import tokenizers
  except ImportError as e:
    raise config_lib.UserError(
        "a tokenizer of a checkpoint needs the package tokenizers; pip install "
        "'meta-cot[hf]'.") from e
  caught = faults.Caught(FILE)  # it raises nothing more specific
  with caught:
    return tokenizers.Tokenizer.from_str(data.decode())
  raise ValueError(
      f'no fast tokenizer ({" ".join(str(caught.error).split())[:200]})')


def _check_prefix(raw: Mapping[str, Any]) -> None:
  """Refuses vocabularies in which a text begins with a blank of its own."""
  text = json.dumps([raw.get('normalizer'), raw.get('pre_tokenizer')])
  if '"Prepend"' in text or re.search(
      '"prepend_scheme": "(always|first)"|"add_prefix_space": true', text):
    raise ValueError(
        'it writes a blank before every text, so that texts cannot be joined; '
        'use a checkpoint whose tokenizer does not')


def _pieces(raw, processor, control) -> list[bytes]:
  """The bytes of every token; b'' where an id has no token."""
  decoder = json.dumps(raw.get('decoder'))
  if '"ByteLevel"' in decoder:
    to_bytes = _of_byte_level
  elif '"ByteFallback"' in decoder:
    to_bytes = _of_byte_fallback
  else:
    raise ValueError('its tokens are no bytes: neither ByteLevel nor '
                     'ByteFallback is its decoder')
  added = {token['id']: token['content'] for token in raw['added_tokens']}
  number = 1 + max((*added, *processor.get_vocab().values()))
  pieces = [b''] * number
  for text, i in processor.get_vocab().items():
    pieces[i] = added[i].encode() if i in added else (
        b'' if i in control else to_bytes(text))
  return pieces


def _of_byte_level(text: str) -> bytes:
  return bytes(_BYTE_OF[char] for char in text)


def _of_byte_fallback(text: str) -> bytes:
  byte = _BYTE.fullmatch(text)
  return bytes([int(byte[1], 16)]) if byte else text.replace(
      _SPACE, ' ').encode()


def _byte_level() -> dict[str, int]:
  """The character that byte-level vocabularies write for every byte."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [byte for byte in range(256) if byte not in shown]
  return {chr(byte): byte for byte in shown} | {
      chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF = _byte_level()


def _optional(path) -> Mapping[str, Any]:
  """An object of JSON; empty where there is no file."""
  return files.read_json(path) if path.is_file() else {}
