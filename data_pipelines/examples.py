# SPDX-License-Identifier: Apache-2.0
"""Records -> training sequences: tokens, targets, what is trained of them."""

import dataclasses

import numpy as np

from data_pipelines import arms
from data_pipelines import tokenizers
from meta_cot.settings import config as config_lib
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import masks
from meta_cot.traces import record as record_lib

# One position of an example; a structured array packs all of it at once.
_OF_TOKENS = ('budget', 'limit')  # openings
POSITION = np.dtype(
    [('tokens', np.int32), ('targets', np.int32), ('weights', np.float32)])


@dataclasses.dataclass(frozen=True)
class ValueConfig:
  """Settings of what a value learns of a state, see `values.Values`."""

  weight: float = config_lib.setting(above=0.0)  # of a state
  policy_weight: float = config_lib.setting(low=0.0)  # of a right token
  # Share of the weight that successes have; None: as many as there are.
  balance: float | None = config_lib.setting(above=0.0, below=1.0)


@dataclasses.dataclass(frozen=True)
class VerdictConfig:
  """Settings of what a model says of a state, see `verdicts.Verdicts`."""

  ask: str = config_lib.setting()  # a token; the verdict follows it
  right: str = config_lib.setting()  # a token
  wrong: str = config_lib.setting()  # a token
  # Ends every state of a verification before the verdict; None: there is none.
  chain: str | None = config_lib.setting()

  def __post_init__(self):
    if self.right == self.wrong:
      raise config_lib.ConfigError(
          f'right: got {self.right!r}, as wrong; must be different.')


@dataclasses.dataclass(frozen=True)
class PairsConfig:
  """Settings of pairs of steps, see `pairs.Pairs`, and of what they teach."""

  beta: float = config_lib.setting(above=0.0)  # see `objectives.dpo`
  min_gap: float = config_lib.setting(above=0.0, high=1.0)  # of targets


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Settings of the training sequences and of how they are packed."""

  sequence_length: int = config_lib.setting(low=2)  # of a packed row
  mask: str = config_lib.setting(choices=tuple(masks.MASKS))
  num_records: int | None = config_lib.setting(low=1)  # of train; None: all
  packing_bins: int = config_lib.setting(low=1)  # rows that are filled at once
  num_workers: int = config_lib.setting(low=0)  # per stream; 0 = no others
  num_streams: int = config_lib.setting(low=1)  # shared by all hosts
  prune_fraction: float = config_lib.setting(low=0.0, high=1.0)
  max_attempts: int = config_lib.setting(low=1)  # arms that write several
  trained_attempts: str = config_lib.setting(choices=('final', 'all'))
  backtrack_rate: float = config_lib.setting(low=0.0, high=1.0)
  opening: str = config_lib.setting(choices=(
      'none', 'strategy', 'budget', 'limit', 'any'))
  openings: tuple[str, ...] = config_lib.setting(is_unique=True)
  value: ValueConfig
  verdict: VerdictConfig
  pairs: PairsConfig

  def __post_init__(self):
    if (self.opening == 'none') != (not self.openings):
      raise config_lib.ConfigError(
          f'openings: got {self.openings} with opening {self.opening!r}; name '
          "what may stand there, or nothing with 'none'.")
    if self.opening in _OF_TOKENS and not all(
        name.isdecimal() for name in self.openings):
      raise config_lib.ConfigError(
          f'openings: got {self.openings} with opening {self.opening!r}; must '
          'be whole numbers of tokens.')


@dataclasses.dataclass(frozen=True)
class Texts:
  """Makes the sequence that an arm writes of a record; picklable."""

  arm: arms.Arm
  config: DataConfig
  tokenizer: tokenizers.Tokenizer
  style: str

  @property
  def is_random(self) -> bool:
    """Whether a record gives another sequence every time."""
    return self.arm.is_random or self.config.prune_fraction > 0

  def plain(self) -> 'Texts':
    """The same without pruning, for validation."""
    return dataclasses.replace(
        self, config=dataclasses.replace(self.config, prune_fraction=0.0))

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator
  ) -> np.ndarray | None:
    """Returns POSITION [n]; None where the arm writes nothing of the record."""
    config = self.config
    if config.prune_fraction and rng.random() < config.prune_fraction:
      record = masks.prune(record, rng.random(), rng)
    arm = dataclasses.replace(self.arm, rate=config.backtrack_rate)
    attempts = arm(record, rng, config.max_attempts)
    if attempts is None:
      return None
    write = lambda tokenizer: tokenize_attempts(
        attempts, config, tokenizer, self.style)
    tokens, weights = write(self.tokenizer)
    if config.opening != 'none':
      opening = self._opening(record, attempts, len(tokens), rng)
      if opening is None:
        return None
      tokens, weights = write(tokenizers.Opened(
          self.tokenizer, tokenizers.opening(opening)))
    example = np.empty(len(tokens) - 1, POSITION)
    example['tokens'] = tokens[:-1]
    example['targets'] = tokens[1:]
    example['weights'] = weights[1:]
    return example

  def _opening(
      self, record: record_lib.TraceRecord, attempts: arms.Attempts,
      num_tokens: int, rng: np.random.Generator) -> str | None:
    """What stands before the question; None: nothing that is named does."""
    names = self.config.openings
    if self.config.opening == 'strategy':
      return record.strategy if record.strategy in names else None
    if self.config.opening == 'any':
      return names[rng.integers(len(names))]
    written = num_tokens - len(self.tokenizer.encode_prompt(
        format_lib.prompt(attempts[0], self.style)))
    holding = [name for name in names if int(name) >= written]
    if self.config.opening == 'limit' and holding:
      return holding[rng.integers(len(holding))]
    return min(holding, key=int, default=None)


def tokenize(
    events: arms.Events, style: str, mask: str,
    tokenizer: tokenizers.Tokenizer,
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens of one sequence and the weight of predicting each of them.

  The prompt is encoded on its own, as it is at inference, and so is every
  stretch that is trained or not; no token spans a boundary. A solution that a
  policy wrote keeps the tokens it was written in. An end of sequence is
  appended; it is trained too, except where `meta_cot` leaves out the solution
  it follows.

  Args:
    events: from `traces.linearize` or an arm.
    style: of the text.
    mask: which parts are trained; see `traces.masks`.
    tokenizer: of the text.

  Returns:
    Tokens int32 [n] and weights float32 [n], 0 or 1; the prompt has 0.
  """
  text, trained = masks.trained_ranges(events, style, mask)
  done = len(format_lib.prompt(events, style))
  parts = [(0, done, 0)]  # start, stop, weight
  for start, stop in trained:
    parts += [(done, start, 0), (start, stop, 1)]
    done = stop
  written = _written(events[-1], style, tokenizer)
  ids, weights = [], []
  for start, stop, weight in (*parts, (done, len(text), 0)):
    encode = tokenizer.encode if start else tokenizer.encode_prompt
    piece = text[start:stop]
    part = written.get(piece) or encode(piece) if piece else []
    ids += part
    weights += [weight] * len(part)
  ids.append(tokenizer.eos_id)
  weights.append(masks.trains_end(events, mask))
  return np.asarray(ids, np.int32), np.asarray(weights, np.float32)


def _written(
    event: events_lib.Event, style: str, tokenizer: tokenizers.Tokenizer
) -> dict[str, list[int]]:
  """The solution's text, with and without the end of its last step: tokens."""
  tokens = list(getattr(event, 'tokens', ()))
  while tokens and tokens[-1] in tokenizer.eos_ids:
    tokens.pop()
  text = tokenizer.decode(tokens)
  return {text: tokens, text.removesuffix(
      format_lib.STYLES[style].STEP_END): tokens} if tokens else {}


def tokenize_attempts(
    attempts: arms.Attempts, config: DataConfig,
    tokenizer: tokenizers.Tokenizer, style: str,
) -> tuple[np.ndarray, np.ndarray]:
  """As `tokenize`: the question, then attempts, each with its end of sequence.

  Args:
    attempts: at least one; the question of the first is the one written. What
      the environment said of one is read behind its end, and never trained.
    config: `trained_attempts` 'final' leaves only the last one's weights
      (arXiv 2501.04682, Eq. 5-6, and Eq. 7 for its end); 'all' keeps all.
    tokenizer: of the text.
    style: of the text.
  """
  parts = []
  for number, events in enumerate(attempts, start=1):
    said = [e for e in events if isinstance(e, events_lib.Feedback)]
    events = tuple(e for e in events if e not in said)
    tokens, weights = tokenize(events, style, config.mask, tokenizer)
    if config.trained_attempts == 'final' and number < len(attempts):
      weights[:] = 0
    start = 0 if number == 1 else len(
        tokenizer.encode_prompt(format_lib.prompt(events, style)))
    parts.append((tokens[start:], weights[start:]))
    ids = tokenizer.encode(''.join(e.text for e in said))
    parts.append((np.asarray(ids, np.int32), np.zeros(len(ids), np.float32)))
  tokens, weights = zip(*parts)
  return np.concatenate(tokens), np.concatenate(weights)
