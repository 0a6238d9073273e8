# SPDX-License-Identifier: Apache-2.0
"""Dialogues with a model that is told how to answer, whatever the model is.

A dialogue is a coroutine: it yields a `Prompt`, is sent the `Reply` to it, and
returns a `Result`. Several go on at the same time, one reply each in a round.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
import functools
import re
from typing import NamedTuple

from meta_cot.solvers import instructions

_VERDICT = re.compile(
    r'verdict\W{1,8}(not\s{1,4}confident|confident)\b', re.IGNORECASE)


class Prompt(NamedTuple):
  """What a model is asked next."""

  write: Callable[..., str]  # makes the text of what the model wrote
  written: tuple[str, ...] = ()


class Reply(NamedTuple):
  """What a model wrote behind a prompt."""

  text: str
  is_finished: bool
  num_tokens: int = 1
  num_prompt: int = 1  # tokens of the prompt
  log_prob: float = 0.0  # of all tokens


class Result(NamedTuple):
  """A dialogue that is over; its last attempt counts."""

  replies: tuple[Reply, ...]  # in order
  attempt: Reply
  num_attempts: int
  is_confident: bool = False  # two checks found the attempt right


Dialogue = Generator[Prompt, Reply, Result]


def is_confident(check: Reply) -> bool:
  """Tells whether a check ends with the verdict that an attempt is right."""
  said = _VERDICT.findall(check.text)
  return check.is_finished and bool(said) and said[-1].lower() == 'confident'


def ask(write: Callable[[], str]) -> Dialogue:
  """Asks once."""
  reply = yield Prompt(write)
  return Result((reply,), reply, 1)


def verify(
    write: Callable[[], str], question: str, max_attempts: int) -> Dialogue:
  """Asks until the model is confident twice in a row, or out of attempts.

  An attempt that is cut off is not checked, nor is the last one: another
  attempt follows it, or nothing.
  """
  bound = lambda of: functools.partial(of, question)
  attempt = yield Prompt(write)
  replies = [attempt]
  for number in range(1, max_attempts):
    said = instructions.CUT_OFF
    if attempt.is_finished:
      check = yield Prompt(bound(instructions.verify), (attempt.text,))
      replies.append(check)
      if is_confident(check):
        check = yield Prompt(
            bound(instructions.confirm), (attempt.text, check.text))
        replies.append(check)
        if is_confident(check):
          return Result(tuple(replies), attempt, number, True)
      said = check.text
    attempt = yield Prompt(bound(instructions.retry), (attempt.text, said))
    replies.append(attempt)
  return Result(tuple(replies), attempt, max_attempts)


# (prompts by the number of their dialogue, round) -> replies, likewise.
Write = Callable[[Mapping[int, Prompt], int], Mapping[int, Reply]]


def play(dialogues: Sequence[Dialogue], write: Write) -> list[Result]:
  """Lets all dialogues come to their end, a round after the other."""
  results, number = {}, 0
  live = {i: next(dialogue) for i, dialogue in enumerate(dialogues)}
  while live:
    replies, following = write(live, number), {}
    for i in live:
      try:
        following[i] = dialogues[i].send(replies[i])
      except StopIteration as e:
        results[i] = e.value
    live, number = following, number + 1
  return [results[i] for i in range(len(dialogues))]
