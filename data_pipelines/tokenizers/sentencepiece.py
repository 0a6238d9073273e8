# SPDX-License-Identifier: Apache-2.0
"""Text <-> token ids: a sentencepiece model with reserved control tokens.

Two kinds of vocabulary. With `number_tokens=None` the pieces are learned by
byte-pair merges and every digit is a token of its own. With `number_tokens=n`
every integer 0..n and every other character is one token: the small vocabulary
of the compact trace style.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import io
import itertools

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

REPLACEMENT = '\ufffd'  # what an unknown or unused id decodes to
BYTE_FALLBACK_VOCAB = 512  # from this size on, 256 pieces are raw bytes
_SPACE = '\u2581'  # sentencepiece writes a space as this character


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """Settings of `train`."""

  vocab_size: int = config_lib.setting(low=32)  # upper bound
  number_tokens: int | None = config_lib.setting(low=9, high=9999)
  path: str | None = config_lib.setting()  # reuse this model; None: train one

  def __post_init__(self):
    if self.path == '':
      raise config_lib.ConfigError(
          "path: got ''; must be a tokenizer.model to reuse, or None.")


def train(texts: Iterable[str], config: TokenizerConfig) -> bytes:
  """Learns a vocabulary; the same texts and settings give the same bytes.

  Args:
    texts: at least one non-empty text of the kind to be encoded.
    config: `vocab_size` is an upper bound; the model may have fewer pieces. At
      `BYTE_FALLBACK_VOCAB` or more, any unicode text survives a round trip.

  Returns:
    The serialized model, for `Tokenizer`.

  Raises:
    ValueError: no text, or a vocabulary too small for its characters.
  """
  has_bytes = config.vocab_size >= BYTE_FALLBACK_VOCAB
  # A space needs a piece of its own: its bytes would read back as U+2581.
  spaced = itertools.chain((' \n',) if has_bytes else (), texts)
  numbers = () if config.number_tokens is None else tuple(
      str(n) for n in range(config.number_tokens + 1))
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        # Lines, because the trainer skips overlong sentences.
        sentence_iterator=(
            line for text in spaced for line in text.splitlines(True)),
        model_writer=model,
        model_type='bpe' if config.number_tokens is None else 'char',
        vocab_size=config.vocab_size, hard_vocab_limit=False,
        byte_fallback=has_bytes,
        normalization_rule_name='identity', add_dummy_prefix=False,
        remove_extra_whitespaces=False, split_digits=True,
        character_coverage=1.0, max_sentence_length=1 << 20,
        user_defined_symbols=['\n', *numbers],
        # Control pieces are never matched in text, user-defined ones are.
        control_symbols=list(CONTROL_TOKENS[4:]),
        pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        pad_piece=PAD, eos_piece=EOS, bos_piece=BOS, unk_piece=UNK,
        unk_surface=REPLACEMENT, num_threads=1, minloglevel=2)
  except RuntimeError as e:
    raise ValueError(
        f'tokenizer.vocab_size: training with {config.vocab_size} pieces '
        f'failed ({" ".join(str(e).split())}); give at least one text, and '
        'enough pieces for its characters.') from e
  return model.getvalue()


class Tokenizer:
  """Encodes and decodes with one trained model; picklable, read only."""

  pad_id = 0
  eos_id = 1
  bos_id = 2
  unk_id = 3

  def __init__(self, model_proto: bytes):
    """Wraps the output of `train`.

    Raises:
      ValueError: not a model, or one without the control tokens.
    """
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(model_proto)
      self.vocab_size = self._processor.get_piece_size()
    except RuntimeError as e:
      raise ValueError(
          f'tokenizer model ({len(model_proto)} bytes) is not a sentencepiece '
          'model; delete the file and run the stage train_tokenizer.') from e
    self._proto = model_proto
    self.fingerprint = hashlib.sha256(model_proto).hexdigest()
    self.control_ids = {
        name: self._processor.piece_to_id(name) for name in CONTROL_TOKENS}
    self._control_names = {i: name for name, i in self.control_ids.items()}
    if sorted(self._control_names) != list(range(len(CONTROL_TOKENS))):
      raise ValueError(
          'tokenizer model has control tokens '
          f'{self.control_ids}, expected {CONTROL_TOKENS} as ids '
          f'0..{len(CONTROL_TOKENS) - 1}; train it again.')
    # The space character's own bytes: `_SPACE` in a text is not a space.
    self._space_ids = [
        self._processor.piece_to_id(f'<0x{byte:02X}>')
        for byte in _SPACE.encode()]
    if self.unk_id in self._space_ids:
      self._space_ids = [self.unk_id]

  def __reduce__(self):
    return Tokenizer, (self._proto,)

  @property
  def model(self) -> bytes:
    """The serialized model this tokenizer wraps."""
    return self._proto

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`; never a control id, whatever the text says."""
    if _SPACE not in text:
      return self._processor.encode(text)
    first, *rest = text.split(_SPACE)
    ids = self._processor.encode(first)
    for part in rest:
      ids += self._space_ids + self._processor.encode(part)
    return ids

  def decode(self, ids: Sequence[int], *, show_control: bool = False) -> str:
    """Text of `ids`; never raises on what a model may sample.

    Args:
      ids: any integers. Ids of no piece (a vocabulary padded by the model) and
        incomplete bytes decode to U+FFFD.
      show_control: write control tokens by name instead of dropping them.
    """
    parts, run = [], []
    for i in map(int, ids):
      if 0 <= i < self.vocab_size and i not in self._control_names:
        run.append(i)
        continue
      if i == self.unk_id and not show_control or i not in self._control_names:
        shown = REPLACEMENT
      else:
        shown = self._control_names[i] if show_control else ''
      if shown:
        parts += [self._processor.decode(run), shown]
        run = []
    return ''.join([*parts, self._processor.decode(run)])


def save(path: files.Path, model_proto: bytes) -> None:
  """Writes a trained model, atomically."""
  files.write_atomic(path, model_proto)


def load(path: files.Path) -> Tokenizer:
  """Reads a trained model.

  Raises:
    ValueError: missing or not a model; names the file.
  """
  path = files.path(path)
  if not path.is_file():
    raise config_lib.UserError(
        f'{path}: no tokenizer model here; run the stages generate_traces and '
        'train_tokenizer first.')
  try:
    return Tokenizer(path.read_bytes())
  except ValueError as e:
    raise config_lib.UserError(f'{path}: {e}') from e


def is_whole(path: files.Path) -> bool:
  """Tells whether `load` would read it: neither missing nor damaged."""
  try:
    load(path)
  except config_lib.UserError:
    return False
  return True
