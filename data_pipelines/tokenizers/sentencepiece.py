# SPDX-License-Identifier: Apache-2.0
"""A sentencepiece model with reserved control tokens, trained or reused.

Two kinds of vocabulary. With `number_tokens=None` the pieces are learned by
byte-pair merges and every digit is a token of its own. With `number_tokens=n`
every integer 0..n and every other character is one token: a small vocabulary
for traces in few symbols. Texts of `pieces` are one token each in both: from
left to right the longest number or piece that stands there is taken.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import functools
import hashlib
import io
import itertools
import re

import numpy as np
import sentencepiece

from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

PAD = '<pad>'  # fills rows after the last segment; never trained
EOS = '<eos>'  # ends a sequence
BOS = '<bos>'  # begins a sequence, for models that expect one
UNK = '<unk>'  # a character the vocabulary cannot write
STEP = '<|step|>'  # ends a reasoning step
BACK = '<|back|>'  # the search returns to an earlier state
ANSWER = '<|answer|>'  # the final answer follows
THINK = '<|think|>'  # the search follows
EPISODE = '<|episode|>'  # another attempt at the same question follows
CONTROL_TOKENS = (PAD, EOS, BOS, UNK, STEP, BACK, ANSWER, THINK, EPISODE)
_UNK_ID = CONTROL_TOKENS.index(UNK)
_TEXT_ID = len(CONTROL_TOKENS)  # the first piece
_CONTROL_IDS = {name: i for i, name in enumerate(CONTROL_TOKENS) if i > _UNK_ID}

FILE = 'tokenizer.model'
_DIGEST = f'{FILE}.sha256'
REPLACEMENT = '\ufffd'  # what an unknown or unused id decodes to
BYTE_FALLBACK_VOCAB = 512  # from this size on, 256 pieces are raw bytes
_SPACE = '\u2581'  # sentencepiece writes a space as this character
# What no piece may be: it is split, is a byte, or cannot be stored.
_FOREIGN = re.compile(f'{_SPACE}|^<0x[0-9A-F]{{2}}>$|[\0\ud800-\udfff]')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which model is used; see `configs/base.py`."""

  vocab_size: int = config_lib.setting(low=32)  # upper bound
  number_tokens: int | None = config_lib.setting(low=9, high=9999)
  path: str | None = config_lib.setting()  # reuse this model; None: train one
  # Words that are one token each; a blank may begin them.
  pieces: tuple[str, ...] = config_lib.setting(is_unique=True)

  def __post_init__(self):
    if self.path == '':
      raise config_lib.ConfigError(
          "path: got ''; must be a tokenizer.model to reuse, or None.")
    numbers = _numbers(self.number_tokens)
    for i, text in enumerate(self.pieces):
      if text in ('', ' ', '\n', *CONTROL_TOKENS, *numbers) or (
          _FOREIGN.search(text)):
        raise config_lib.ConfigError(
            f'pieces[{i}]: got {text!r}; must be a text that is not a token '
            'already, as are a blank, a line feed, control tokens, bytes and '
            f'number_tokens, without {_SPACE!r}, NUL and surrogates.')
    taken = len(CONTROL_TOKENS) + 1 + len(numbers) + len(self.pieces)
    if self.path is None and self.vocab_size <= taken:
      raise config_lib.ConfigError(
          f'vocab_size: got {self.vocab_size}; must be greater than {taken}, '
          'the control tokens, the line feed, number_tokens and pieces.')

  def make(self, texts: Iterable[str]) -> 'Tokenizer':
    """Trains a tokenizer on the texts, or reads the one to reuse.

    Raises:
      UserError: as `train`; or there is no sentencepiece model to reuse.
    """
    if self.path is not None:
      return _read(files.path(self.path))
    return train(texts, self.vocab_size, self.number_tokens, self.pieces)

  def check(self) -> int | None:
    """Makes sure that the model to reuse is there; returns its tokens.

    Raises:
      UserError: there is none, or it is no sentencepiece model.
    """
    if self.path is None:
      return None
    if files.size(files.path(self.path)) is None:
      raise config_lib.UserError(
          f'tokenizer: path: got {self.path!r}; there is no such file.')
    return _read(files.path(self.path)).vocab_size

  def placeholder(self) -> '_Placeholder':
    """Makes as many tokens of a text as a trained model at most."""
    return _Placeholder(self)


def load(folder: files.Path) -> 'Tokenizer':
  """Reads the tokenizer of a folder; a UserError names a damaged file."""
  path = files.path(folder) / FILE
  digest, tokenizer = path.with_name(_DIGEST), _read(path)
  # A model that is cut off may be a model too.
  if digest.is_file() and (
      digest.read_bytes().strip() != tokenizer.fingerprint.encode()):
    raise config_lib.UserError(
        f'{path}: its sha256 is not that of {_DIGEST}; delete both files and '
        'run its stage again.')
  return tokenizer


def train(
    texts: Iterable[str], vocab_size: int, number_tokens: int | None = None,
    pieces: Sequence[str] = (),
) -> 'Tokenizer':
  """Learns a vocabulary; the same texts and settings give the same bytes.

  Args:
    texts: at least one non-empty text of the kind to be encoded.
    vocab_size: an upper bound; the model may have fewer pieces. At
      `BYTE_FALLBACK_VOCAB` or more, any unicode text survives a round trip.
    number_tokens: see above.
    pieces: see above.

  Raises:
    UserError: no text, or a vocabulary too small for its characters.
  """
  has_bytes = vocab_size >= BYTE_FALLBACK_VOCAB
  # A space needs a piece of its own: its bytes would read back as U+2581, and
  # pieces that take it with them must not be all that can write it.
  spaced = itertools.chain((' \n',) if has_bytes or pieces else (), texts)
  # Lines, as the trainer skips overlong sentences; all of them now, as it would
  # make an error of its own of a signal that comes while it waits for one.
  lines = [line for text in spaced for line in text.splitlines(True)]
  words = [text.replace(' ', _SPACE) for text in pieces]
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model,
        model_type='bpe' if number_tokens is None else 'char',
        vocab_size=vocab_size, hard_vocab_limit=False,
        byte_fallback=has_bytes,
        normalization_rule_name='identity', add_dummy_prefix=False,
        remove_extra_whitespaces=False, split_digits=True,
        character_coverage=1.0, max_sentence_length=1 << 20,
        user_defined_symbols=['\n', *_numbers(number_tokens), *words],
        # Control pieces are never matched in text, user-defined ones are.
        control_symbols=list(CONTROL_TOKENS[4:]),
        pad_id=0, eos_id=1, bos_id=2, unk_id=_UNK_ID,
        pad_piece=PAD, eos_piece=EOS, bos_piece=BOS, unk_piece=UNK,
        unk_surface=REPLACEMENT, num_threads=1, minloglevel=2)
  except RuntimeError as e:
    raise config_lib.UserError(
        f'tokenizer: vocab_size: training with {vocab_size} pieces failed '
        f'({" ".join(str(e).split())}); give at least one text, and '
        'enough pieces for its characters.') from e
  return Tokenizer(model.getvalue())


class Tokenizer:
  """A `base.Tokenizer` with one trained model."""

  pad_id = 0
  eos_id = 1
  eos_ids = (eos_id,)
  control_ids = _CONTROL_IDS

  def __init__(self, model_proto: bytes):
    """Wraps a serialized model; a ValueError says that it is none of ours."""
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(model_proto)
      self.vocab_size = self._processor.get_piece_size()
    except RuntimeError as e:
      raise ValueError(
          f'tokenizer model ({len(model_proto)} bytes) is not a sentencepiece '
          'model; delete the file and run its stage again.') from e
    self._proto = model_proto
    self.fingerprint = hashlib.sha256(model_proto).hexdigest()
    ids = {name: self._processor.piece_to_id(name) for name in CONTROL_TOKENS}
    if list(ids.values()) != list(range(len(CONTROL_TOKENS))):
      raise ValueError(
          f'tokenizer model has control tokens {ids}, expected '
          f'{CONTROL_TOKENS} as ids 0..{len(CONTROL_TOKENS) - 1}; train it '
          'again.')
    # The space character's own bytes: `_SPACE` in a text is not a space.
    self._space_ids = [
        self._processor.piece_to_id(f'<0x{byte:02X}>')
        for byte in _SPACE.encode()]
    if _UNK_ID in self._space_ids:
      self._space_ids = [_UNK_ID]

  def __reduce__(self):
    return Tokenizer, (self._proto,)

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`; never a control id, whatever the text says."""
    if _SPACE not in text:
      return self._processor.encode(text)
    first, *rest = text.split(_SPACE)
    ids = self._processor.encode(first)
    for part in rest:
      ids += self._space_ids + self._processor.encode(part)
    return ids

  def encode_prompt(self, text: str) -> list[int]:
    """Token ids of a question, which nothing begins."""
    return self.encode(text)

  def decode(self, ids: Sequence[int], *, show_control: bool = False) -> str:
    """Text of `ids`; never raises on what a model may sample."""
    parts, run = [], []
    for i in map(int, ids):
      if _TEXT_ID <= i < self.vocab_size:
        run.append(i)
        continue
      if show_control and 0 <= i < _TEXT_ID:
        shown = CONTROL_TOKENS[i]
      else:
        shown = '' if 0 <= i < _TEXT_ID and i != _UNK_ID else REPLACEMENT
      if shown:
        parts += [self._processor.decode(run), shown]
        run = []
    return ''.join([*parts, self._processor.decode(run)])

  def containing(self, text: str) -> np.ndarray:
    """Finds the pieces that have `text` in them, bool [vocab_size]."""
    return np.array([
        i >= _TEXT_ID and text in self.decode([i])
        for i in range(self.vocab_size)])

  def save(self, folder: files.Path) -> None:
    """Writes the model behind its hash, atomically."""
    folder = files.path(folder)
    files.write_atomic(folder / _DIGEST, self.fingerprint + '\n')
    files.write_atomic(folder / FILE, self._proto)


def _read(path) -> Tokenizer:
  if not path.is_file():
    raise config_lib.UserError(f'{path}: no tokenizer model here.')
  try:
    return Tokenizer(path.read_bytes())
  except ValueError as e:
    raise config_lib.UserError(f'{path}: {e}') from e


@dataclasses.dataclass(frozen=True)
class _Placeholder:
  """Has one token for all text."""

  settings: Settings
  pad_id = Tokenizer.pad_id
  eos_id = Tokenizer.eos_id
  eos_ids = Tokenizer.eos_ids
  control_ids = _CONTROL_IDS

  def encode(self, text: str) -> list[int]:
    """One token per number, per piece and per other character."""
    return [_TEXT_ID] * len(_pattern(self.settings).findall(text))

  def encode_prompt(self, text: str) -> list[int]:
    """As many tokens as `encode` makes."""
    return self.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of which nothing is known, a character for every token."""
    return REPLACEMENT * len(ids)

  def containing(self, text: str) -> np.ndarray:
    """Finds the token of all text where one has `text`, bool [vocab_size]."""
    is_there = len(text) == 1 or any(
        text in word for word in _words(self.settings))
    return is_there & (np.arange(self.settings.vocab_size) == _TEXT_ID)


def _numbers(largest: int | None) -> tuple[str, ...]:
  return () if largest is None else tuple(map(str, range(largest + 1)))


def _words(settings: Settings) -> tuple[str, ...]:
  """All texts that are one token each because the settings say so."""
  return (*_numbers(settings.number_tokens), *settings.pieces)


@functools.cache
def _pattern(settings: Settings) -> re.Pattern:
  """What is one token: the longest word that stands there, or a character."""
  words = sorted(_words(settings), key=len, reverse=True)
  return re.compile('|'.join([*map(re.escape, words), '.']), re.DOTALL)
