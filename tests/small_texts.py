# SPDX-License-Identifier: Apache-2.0
"""Files of problems in words, as GSM8K and MATH have them, made here."""

import functools
import json
import pathlib
import tempfile

from configs import tasks as tasks_config
from meta_cot.tasks import word_problems

NUM_ROWS = 2_000


def gsm8k(problem, steps) -> dict[str, str]:
  """A row with marks of a calculator."""
  lines = [step.replace('= ', f'= <<{i}>>') for i, step in enumerate(steps)]
  return dict(question=problem.question,
              answer='\n'.join((*lines, f'#### {problem.answer}')))


def math(problem, steps) -> dict[str, str]:
  """A row whose solution is one paragraph."""
  return dict(problem=problem.question, level='Level 1', type='Algebra',
              solution=f'{" ".join(steps)} So $\\boxed{{{problem.answer}}}$.')


ROWS = dict(gsm8k=gsm8k, math=math)


@functools.cache
def rows(kind: str) -> tuple[dict[str, str], ...]:
  """The rows of a kind."""
  values = {**tasks_config.word_problems(), 'num_train': NUM_ROWS}
  values.pop('kind')
  task = word_problems.make(word_problems.Settings(**values), 0)
  found = []
  for problem in task.problems('train', 0, NUM_ROWS):
    record = task.teacher.search(problem, 'solution', 0)
    found.append(ROWS[kind](problem, [n.step for n in record.nodes[1:]]))
  return tuple(found)


@functools.cache
def config(kind: str) -> dict:
  """The group `task` of a kind, with a file in a temporary folder."""
  path = pathlib.Path(tempfile.mkdtemp()) / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows(kind)))
  return {**getattr(tasks_config, kind)(), 'train': (str(path),)}
