# SPDX-License-Identifier: Apache-2.0
"""What a task is: problems, and the judgement of an answer."""

from typing import Protocol

from meta_cot.problem import Problem, Verdict


class Task(Protocol):
  """A family of problems with an exact verifier."""

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges `answer`, any text; never raises on it, bounded in time."""
