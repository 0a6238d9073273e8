# SPDX-License-Identifier: Apache-2.0
"""GSM8K (arXiv 2110.14168): grade-school word problems, from files.

Rows have `question` and `answer`: a solution, a line a step, with marks of a
calculator (`<<48/2=24>>`, which are left out), and `#### 24` as the last line.
"""

from collections.abc import Mapping
import re
from typing import Any

from meta_cot.tasks.texts import task

NAME = 'gsm8k'
Settings = task.Settings

_MARKS = re.compile('<<[^<>]*>>')
_ANSWER = '####'


def make(settings: Settings | None, seed: int) -> task.Texts:
  """Makes the task, see `tasks.base`."""
  return task.Texts(NAME, settings, seed, read_row)


def read_row(values: Mapping[str, Any]) -> task.Solved:
  """Reads a row.

  Raises:
    ValueError: it has no question, or its answer no last line #### ANSWER.
  """
  question = ' '.join(task.text_of(values, 'question').split())
  solution, mark, answer = task.text_of(values, 'answer').rpartition(_ANSWER)
  answer = answer.strip()
  if not mark or not answer or '\n' in answer:
    raise ValueError("'answer' does not end with a line '#### ANSWER'")
  lines = (' '.join(line.split()) for line in
           _MARKS.sub('', solution).splitlines())
  return task.Solved(
      question, answer, (*filter(None, lines), f'The answer is {answer}.'), {})
