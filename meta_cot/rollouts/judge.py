# SPDX-License-Identifier: Apache-2.0
"""Verdicts on the episodes of rollouts, on the host.

Axes: N trajectories, E episodes.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from data_pipelines import tokenizers
from meta_cot.problem import Problem
from meta_cot.rollouts import episodes
from meta_cot.rollouts import verdicts
from meta_cot.tasks import base


@dataclasses.dataclass(frozen=True)
class Judged:
  """All NumPy."""

  rewards: np.ndarray  # [N, E] float32, 1 for a right answer, else 0
  is_taken: np.ndarray  # [N, E] bool
  is_finished: np.ndarray  # [N, E] bool, ended with an answer
  has_given_up: np.ndarray  # [N, E] bool
  is_undecided: np.ndarray  # [N, E] bool, the verifier ran out of its limits
  is_repeated: np.ndarray  # [N, E] bool, as an earlier one of the trajectory
  num_tokens: np.ndarray  # [N, E] int32, drawn
  answers: np.ndarray  # [N, E] object, texts that finished ones claim; or None
  num_explored: np.ndarray  # [N] int32, of a search before the first episode

  @property
  def tokens_before(self) -> np.ndarray:
    """Drawn in earlier episodes and by a search, [N, E] int32."""
    total = np.cumsum(self.tokens_spent, axis=1, dtype=np.int32)
    return total - self.num_tokens

  @property
  def tokens_spent(self) -> np.ndarray:
    """Drawn; a search counts in the first episode, [N, E] int32."""
    spent = self.num_tokens.copy()
    spent[:, 0] += self.num_explored
    return spent

  def after(self, num_explored_Q: np.ndarray | None) -> 'Judged':
    """The same behind searches of so many tokens, shared by the samples."""
    if num_explored_Q is None:
      return self
    num_samples = len(self.rewards) // len(num_explored_Q)
    return dataclasses.replace(
        self, num_explored=np.repeat(num_explored_Q, num_samples))


@dataclasses.dataclass(frozen=True)
class Judge:
  """Reads the episodes and asks the verifier."""

  task: base.Task
  tokenizer: tokenizers.Tokenizer
  style: str

  def __call__(
      self, problems: Sequence[Problem], rollouts: episodes.Rollouts
  ) -> Judged:
    """Judges all episodes.

    Args:
      problems: one per question.
      rollouts: of these questions, NumPy.
    """
    shape = rollouts.starts.shape
    num, num_episodes = shape
    per_row = rollouts.tokens.shape[0] // num
    rewards = np.zeros(shape, np.float32)
    is_undecided, is_repeated = np.zeros((2, *shape), bool)
    answers = np.full(shape, None, object)
    claims = {}  # the same answer to a question is common
    for n in range(num):
      question = n * len(problems) // num
      seen = set()
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
          claims[key] = verdicts.of_tokens(
              self.task, self.tokenizer, problems[question], tokens[:-1],
              self.style)
        answers[n, e], verdict = claims[key]
        rewards[n, e] = verdict.is_correct
        is_undecided[n, e] = not verdict.is_decided
    return Judged(
        rewards=rewards, is_taken=np.asarray(rollouts.is_taken),
        is_finished=rollouts.is_finished, has_given_up=rollouts.has_given_up,
        is_undecided=is_undecided, is_repeated=is_repeated, answers=answers,
        num_tokens=np.maximum(
            rollouts.ends - rollouts.starts, 0).astype(np.int32),
        num_explored=np.zeros(num, np.int32))
