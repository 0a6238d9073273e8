# SPDX-License-Identifier: Apache-2.0
"""From what a model wrote to a verdict: the one way from tokens to right.

Axes: N trajectories, E episodes.
"""

import bisect
from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from data_pipelines import tokenizers
from meta_cot import traces
from meta_cot.problem import Problem, Verdict
from meta_cot.rollouts import episodes
from meta_cot.tasks import base
from meta_cot.traces import format as format_lib


class Claim(NamedTuple):
  """The answer that a text claims, None for none, and what it is worth."""

  answer: str | None
  verdict: Verdict


def of_text(
    task: base.Task, problem: Problem, text: str, style: str, *,
    is_finished: bool = True,
) -> Claim:
  """Judges prompt and continuation; an unfinished one is never right."""
  if not is_finished:
    return Claim(None, Verdict(False, 'unfinished: no end of sequence'))
  answer = traces.extract_answer(text, style)
  if answer is None:
    return Claim(None, Verdict(False, 'no answer in the text'))
  return Claim(answer, task.verify(problem, answer))


def last_text(tokens: Sequence[int], eos_ids: Sequence[int]) -> Sequence[int]:
  """Cuts out the last attempt of several, with its end."""
  ends = [i for i, token in enumerate(tokens[:-1]) if token in eos_ids]
  return tokens[ends[-1] + 1:] if ends else tokens


@dataclasses.dataclass(frozen=True)
class Judged:
  """Verdicts on episodes, all NumPy."""

  rewards: np.ndarray  # [N, E] float32, 1 for a right answer, else 0
  is_taken: np.ndarray  # [N, E] bool
  is_finished: np.ndarray  # [N, E] bool, ended with an answer
  has_given_up: np.ndarray  # [N, E] bool
  is_undecided: np.ndarray  # [N, E] bool, the verifier ran out of its limits
  is_repeated: np.ndarray  # [N, E] bool, as an earlier one of the trajectory
  num_tokens: np.ndarray  # [N, E] int32, drawn
  answers: np.ndarray  # [N, E] object, texts that finished ones claim; or None
  # [N, E] int32, drawn in the episode before the mark of its answer; 0 where
  # it claims none.
  num_searched: np.ndarray
  num_explored: np.ndarray  # [N] int32, of a search before the first episode

  @property
  def tokens_before(self) -> np.ndarray:
    """Drawn in earlier episodes and by a search, [N, E] int32."""
    total = np.cumsum(self.tokens_spent, axis=1, dtype=np.int32)
    return total - self.num_tokens

  @property
  def tokens_thought(self) -> np.ndarray:
    """|Z| of Eq. 21: all that was drawn before the answer, [N, E] int32."""
    return self.tokens_before + self.num_searched

  @property
  def tokens_spent(self) -> np.ndarray:
    """Drawn; a search counts in the first episode, [N, E] int32."""
    spent = self.num_tokens.copy()
    spent[:, 0] += self.num_explored
    return spent

  def after(self, num_explored_Q: np.ndarray | None) -> 'Judged':
    """Adds what searches cost, each shared by the samples of a question."""
    if num_explored_Q is None:
      return self
    num_samples = len(self.rewards) // len(num_explored_Q)
    return dataclasses.replace(
        self, num_explored=np.repeat(num_explored_Q, num_samples))


@dataclasses.dataclass(frozen=True)
class Judge:
  """Reads what a model wrote and asks the verifier, on the host."""

  task: base.Task
  tokenizer: tokenizers.Tokenizer
  style: str

  def claim(self, problem: Problem, tokens: Sequence[int]) -> Claim:
    """Judges tokens behind a prompt, the end of sequence left out or not."""
    prompt = traces.prompt(problem, style=self.style)
    return of_text(
        self.task, problem, prompt + self.tokenizer.decode(tokens), self.style)

  def searched(self, tokens: Sequence[int]) -> int:
    """Counts the tokens of a text in front of the mark of its answer."""
    decode = self.tokenizer.decode
    place = format_lib.find_answer(decode(tokens), self.style)
    if not place:
      return 0
    return bisect.bisect_right(
        range(len(tokens)), place, key=lambda k: len(decode(tokens[:k]))) - 1

  def __call__(
      self, problems: Sequence[Problem], rollouts: episodes.Rollouts
  ) -> Judged:
    """Judges all episodes of the problems' rollouts, which are NumPy."""
    shape = num, num_episodes = rollouts.starts.shape
    per_row = len(rollouts.tokens) // num
    rewards, num_searched = np.zeros(shape, np.float32), np.zeros(
        shape, np.int32)
    is_undecided, is_repeated = np.zeros((2, *shape), bool)
    answers = np.full(shape, None, object)
    claims = {}  # the same answer to a question is common
    for n in range(num):
      question, seen = n * len(problems) // num, set()
      for e in range(num_episodes):
        start, end = int(rollouts.starts[n, e]), int(rollouts.ends[n, e])
        if end <= start:
          continue
        row = rollouts.tokens[n * per_row + (e if per_row > 1 else 0)]
        tokens = tuple(row[start:end].tolist())
        is_repeated[n, e] = tokens in seen
        seen.add(tokens)
        if not rollouts.is_finished[n, e]:
          continue
        key = question, tokens
        if key not in claims:
          claim = self.claim(problems[question], tokens[:-1])
          claims[key] = *claim, 0 if claim.answer is None else (
              self.searched(tokens[:-1]))
        answers[n, e], verdict, num_searched[n, e] = claims[key]
        rewards[n, e] = verdict.is_correct
        is_undecided[n, e] = not verdict.is_decided
    return Judged(
        rewards=rewards, is_taken=np.asarray(rollouts.is_taken),
        is_finished=rollouts.is_finished, has_given_up=rollouts.has_given_up,
        is_undecided=is_undecided, is_repeated=is_repeated, answers=answers,
        num_tokens=np.maximum(
            rollouts.ends - rollouts.starts, 0).astype(np.int32),
        num_searched=num_searched, num_explored=np.zeros(num, np.int32))


class OfLast(Judge):
  """Judges the last of several attempts, each but it with its end."""

  def claim(self, problem: Problem, tokens: Sequence[int]) -> Claim:
    """Judges tokens behind a prompt, the end of the last attempt left out."""
    ids = self.tokenizer.eos_ids
    *last, _ = last_text([*tokens, ids[0]], ids)
    return super().claim(problem, last)
