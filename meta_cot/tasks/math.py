# SPDX-License-Identifier: Apache-2.0
r"""MATH (arXiv 2103.03874) and its like: competition problems, from files.

Rows have `problem` (or `question`) and `solution`, whose last `\boxed{...}` is
the answer; `answer`, where a row has it, comes first. `level` and `type` are
kept; the number in a level is the `difficulty`. A step is a line of the
solution, or a sentence of it where it is one line.
"""

from collections.abc import Mapping
import re
from typing import Any

from meta_cot.tasks.texts import task
from meta_cot.verifiers import math

NAME = 'math'
Settings = task.Settings

_LEVEL = re.compile('[0-9]{1,4}')
_SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=[A-Z$\\])')


def make(settings: Settings | None, seed: int) -> task.Texts:
  """Makes the task, see `tasks.base`."""
  return task.Texts(NAME, settings, seed, read_row)


def read_row(values: Mapping[str, Any]) -> task.Solved:
  r"""Reads a row.

  Raises:
    ValueError: it has no problem, no solution, or its solution no answer.
  """
  key = 'question' if 'problem' not in values else 'problem'
  question = ' '.join(task.text_of(values, key).split())
  solution = task.text_of(values, 'solution')
  answer = values.get('answer')
  if answer is None:
    answer = math.final_answer(solution)
  if not isinstance(answer, str) or not answer.strip():
    raise ValueError(r"'solution' has no \boxed{ANSWER}")
  steps = [' '.join(line.split()) for line in solution.splitlines()]
  steps = [step for step in steps if step]
  if len(steps) == 1:
    steps = _SENTENCE_END.split(steps[0])
  if math.final_answer(solution) is None:
    steps.append(rf'The answer is \boxed{{{answer.strip()}}}.')
  details = {key: values[key] for key in ('level', 'type') if key in values}
  if level := _LEVEL.search(str(values.get('level'))):
    details['difficulty'] = int(level[0])
  return task.Solved(question, answer.strip(), tuple(steps), details)
