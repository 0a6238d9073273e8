# SPDX-License-Identifier: Apache-2.0
"""What a task is: problems, and the judgement of an answer."""

from collections.abc import Mapping
import dataclasses
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Problem:
  """A question with its ground truth; `data` is what judging needs."""

  id: str
  question: str
  answer: str
  data: Mapping[str, Any]  # JSON values only


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Whether an answer is right, and why not if it is not."""

  is_correct: bool
  reason: str
  # False: a limit of time or memory came first; nothing is known.
  is_decided: bool = True


class Task(Protocol):
  """A family of problems with an exact verifier."""

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges `answer`, any text; never raises on it, bounded in time."""
