# SPDX-License-Identifier: Apache-2.0
"""A question and the judgement of an answer to it.

Apart from `types`, which imports JAX: workers that make records start without.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any


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
