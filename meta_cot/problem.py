# SPDX-License-Identifier: Apache-2.0
"""A question and the judgement of an answer to it.

Apart from `types`, which imports JAX: workers that make records start without.
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

KIND = 'problem'  # of a folder of records


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


def to_json(problem: Problem) -> str:
  """Writes one line of JSON; `from_json` gives the problem back."""
  return json.dumps(dataclasses.asdict(problem), separators=(',', ':'))


def from_json(text: str | bytes) -> Problem:
  """Reads one problem.

  Raises:
    ValueError: not a problem; one line.
  """
  try:
    return Problem(**json.loads(text))
  except (TypeError, json.JSONDecodeError) as e:
    raise ValueError(f'not a problem: {e!r}') from e


def counts(problem: Problem) -> dict[str, int]:
  """Returns what a manifest adds up over problems: nothing."""
  del problem
  return {}
