# SPDX-License-Identifier: Apache-2.0
"""What a task says between two episodes, in the graph or on the host.

A task whose feedback has `respond` (`tasks.base.InGraphFeedback`) answers
inside the program that plays; any other is asked on the host, which gets the
question itself. Axes as in `episodes`; A symbols, B bytes of a problem.
"""

import dataclasses
import functools
import re
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import problem as problem_lib
from meta_cot.problem import Problem, Verdict
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.runtime import callbacks
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base

NONE, TASK, SHUFFLED = KINDS = 'none', 'task', 'shuffled'
_NUM_BYTES = 4096  # B, of a problem as JSON, at most
_NUM_OTHERS = 64  # problems whose feedback `shuffled` gives instead


def make(
    kind: str, length: int, task: base.Task, tokenizer: tokenizers.Tokenizer,
    style: str,
) -> episodes.Feedback | None:
  """Makes what episodes are answered with.

  Args:
    kind: none (silence), task (its own feedback) or shuffled (that of another
      problem, which follows from the problem's id: a control).
    length: tokens of texts from the host, at most; the rest is cut off.
    task: that answers.
    tokenizer: of the policy.
    style: of the policy.

  Raises:
    ConfigError: the task gives none, or its symbols are no tokens.
  """
  if kind == NONE:
    return None
  if task.feedback is None:
    raise config_lib.ConfigError(
        f'episodes.feedback: got {kind!r}; this task gives none: must be '
        "'none'.")
  others = () if kind == TASK else tuple(
      task.problems(base.TRAIN, 0, _NUM_OTHERS))
  if hasattr(task.feedback, 'respond'):
    return InGraph(
        task, others, _ids(task.feedback.symbols, tokenizer),
        _blank_ids(tokenizer), tuple(tokenizer.eos_ids))
  judge = judge_lib.Judge(task, tokenizer, style)
  return OnHost(task, others, judge, length)


@dataclasses.dataclass(frozen=True)
class _Told:
  """Whose feedback a question gets."""

  task: base.Task
  others: tuple[Problem, ...]  # (): its own

  def _heard(self, problem: Problem) -> Problem:
    """The problem whose feedback is given, never itself among several."""
    others = [x for x in self.others if x.id != problem.id]
    if not others:
      return problem
    return others[zlib.crc32(problem.id.encode()) % len(others)]

  def __hash__(self) -> int:
    return hash((type(self), len(self.others)))


@dataclasses.dataclass(frozen=True)
class InGraph(_Told):
  """A task's pure function of symbols, on tokens."""

  ids: tuple[int, ...]  # of the symbols, [A]
  blank_ids: tuple[int, ...]  # write nothing
  stop_ids: tuple[int, ...]

  __hash__ = _Told.__hash__

  @property
  def length(self) -> int:
    """F."""
    return self.task.feedback.length

  def hidden(self, problem: Problem) -> dict[str, np.ndarray]:
    """Returns what the task's function knows of a question."""
    return self.task.feedback.hidden(self._heard(problem))

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and types of `hidden`."""
    first = next(iter(self.task.problems(base.TRAIN, 0, 1)))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        self.task.feedback.hidden(first))

  def __call__(
      self, hidden: Any, tokens_SxT: jax.Array, length_S: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `episodes.Feedback`; what has no end is no attempt."""
    ids_A = jnp.asarray(self.ids, jnp.int32)
    last_Sx1 = jnp.take_along_axis(
        tokens_SxT, jnp.maximum(length_S - 1, 0)[:, None], axis=1)
    is_finished_S = decode.is_one_of(last_Sx1[:, 0], self.stop_ids)
    is_text_SxT = (
        jnp.arange(tokens_SxT.shape[1])[None] < length_S[:, None] - 1)
    is_text_SxT &= ~decode.is_one_of(tokens_SxT, self.blank_ids)
    order_SxT = jnp.argsort(~is_text_SxT, axis=1, stable=True)
    tokens_SxT = jnp.take_along_axis(tokens_SxT, order_SxT, axis=1)
    number_S = jnp.sum(is_text_SxT, axis=1, dtype=jnp.int32)
    is_symbol_SxTxA = tokens_SxT[..., None] == ids_A[None, None]
    symbols_SxT = jnp.where(
        jnp.any(is_symbol_SxTxA, axis=2) & is_finished_S[:, None] & (
            jnp.arange(tokens_SxT.shape[1])[None] < number_S[:, None]),
        jnp.argmax(is_symbol_SxTxA, axis=2), -1).astype(jnp.int32)
    # One more than fits is never an attempt.
    said_SxF, said_S, rewards_S = self.task.feedback.respond(
        hidden, symbols_SxT, jnp.where(
            is_finished_S, number_S, tokens_SxT.shape[1] + 1))
    return ids_A[said_SxF], said_S, jnp.where(is_finished_S, rewards_S, 0.0)


@dataclasses.dataclass(frozen=True)
class OnHost(_Told):
  """A task's function of texts, called back from the program."""

  judge: judge_lib.Judge
  length: int  # F

  __hash__ = _Told.__hash__

  def hidden(self, problem: Problem) -> np.ndarray:
    """Returns the problem as JSON, uint8 [B], zeros behind it.

    Raises:
      UserError: it is longer.
    """
    heard = self._heard(problem)
    text = problem_lib.to_json(heard).encode()
    if len(text) > _NUM_BYTES:
      raise config_lib.UserError(
          f'problem {heard.id!r}: {len(text)} bytes; must be at most '
          f'{_NUM_BYTES} for feedback on the host.')
    return np.frombuffer(text.ljust(_NUM_BYTES, b'\0'), np.uint8)

  def shapes(self) -> jax.ShapeDtypeStruct:
    """Returns shape and type of `hidden`."""
    return jax.ShapeDtypeStruct((_NUM_BYTES,), np.uint8)

  def __call__(
      self, hidden: jax.Array, tokens_SxT: jax.Array, length_S: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `episodes.Feedback`."""
    shape = lambda *shape, dtype=jnp.int32: jax.ShapeDtypeStruct(shape, dtype)
    return callbacks.by_rows(
        self.say, (shape(self.length), shape(), shape(dtype=jnp.float32)),
        hidden, tokens_SxT, length_S)

  def say(
      self, hidden_SxB: np.ndarray, tokens_SxT: np.ndarray,
      length_S: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers on the host; attempts of no tokens get nothing."""
    said_SxF = np.zeros((len(tokens_SxT), self.length), np.int32)
    number_S, rewards_S = np.zeros((2, len(tokens_SxT)), np.int32)
    for s, (hidden_B, tokens, length) in enumerate(zip(
        *map(np.asarray, (hidden_SxB, tokens_SxT, length_S)), strict=True)):
      attempt = tokens[:length].tolist()
      if attempt:
        text, rewards_S[s] = self._answer(hidden_B, attempt)
        ids = self.judge.tokenizer.encode(text)[:self.length]
        said_SxF[s, :len(ids)], number_S[s] = ids, len(ids)
    return said_SxF, number_S, rewards_S.astype(np.float32)

  def _answer(self, hidden_B, attempt: list[int]) -> tuple[str, bool]:
    """The text behind an attempt, and whether it is right."""
    problem = problem_lib.from_json(hidden_B.tobytes().rstrip(b'\0'))
    claim = judge_lib.Claim(None, Verdict(False, 'unfinished'))
    if attempt[-1] in self.judge.tokenizer.eos_ids:
      claim = self.judge.claim(problem, attempt[:-1])
    return self.task.feedback(
        problem, claim.answer or '', claim.verdict), claim.verdict.is_correct


def _ids(
    symbols: tuple[str, ...], tokenizer: tokenizers.Tokenizer
) -> tuple[int, ...]:
  """The tokens of the symbols.

  Raises:
    ConfigError: a symbol is not one token, or a token is several symbols.
  """
  encoded = {symbol: tokenizer.encode(symbol) for symbol in symbols}
  for symbol, ids in encoded.items():
    if len(ids) != 1:
      raise config_lib.ConfigError(
          f'episodes.feedback: the symbol {symbol!r} is {len(ids)} tokens; '
          'must be one: name it in vocabulary.pieces of the tokenizer.')
  ids = tuple(ids[0] for ids in encoded.values())
  several = re.compile(f'(?:{"|".join(map(re.escape, symbols))})+')
  for i, text in enumerate(_texts(tokenizer)):
    if i not in ids and several.fullmatch(text):
      raise config_lib.ConfigError(
          f'episodes.feedback: the token {text!r} is several symbols; each '
          'must be a token of its own.')
  return ids


def _blank_ids(tokenizer: tokenizers.Tokenizer) -> tuple[int, ...]:
  """Tokens that write nothing."""
  return tuple(
      i for i, text in enumerate(_texts(tokenizer))
      if not text and i not in tokenizer.eos_ids)


@functools.cache
def _texts(tokenizer: tokenizers.Tokenizer) -> tuple[str, ...]:
  """What every token writes."""
  return tuple(
      tokenizer.decode([i]) for i in range(len(tokenizer.containing(' '))))
