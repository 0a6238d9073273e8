# SPDX-License-Identifier: Apache-2.0
"""The symbolic searches themselves, on the same problems, as rows."""

from collections.abc import Mapping, Sequence

from etils import epath
import numpy as np

from data_pipelines import tokenizers
from meta_cot import traces
from meta_cot.evaluation import rows as rows_lib
from meta_cot.problem import Problem
from meta_cot.solvers import base
from meta_cot.tasks import base as base_task
from meta_cot.traces import record as record_lib

POLICY, TEACHER = 'symbolic', 'teacher'
Records = Sequence[record_lib.TraceRecord]


def write(
    directory: epath.Path, teacher: base_task.Teacher,
    taught: Mapping[str, Records], tokenizer: tokenizers.Tokenizer,
    style: str, *, seed: int,
) -> list[rows_lib.Row]:
  """Writes the rows of the teacher and of every strategy, and returns them.

  Args:
    directory: of rows.
    teacher: searches.
    taught: by split, what it would be taught with; the strategies search the
      problems of the first split.
    tokenizer: counts.
    style: of the texts that are counted.
    seed: of the strategies.
  """
  split, first = next(iter(taught.items()))
  runs = [(TEACHER, split, some) for split, some in taught.items()] + [
      (name, split, run_all(teacher, name, [r.problem for r in first], seed))
      for name in teacher.strategies]
  policy = base.Policy(POLICY, None, None, tokenizer, style)
  rows = [
      row for solver, split, some in runs
      for row in rows_lib.of(
          policy, solver, split, [r.problem for r in some],
          outcomes(some, tokenizer, style), place=0, attempt=0)]
  rows_lib.write(directory / POLICY / 'all.jsonl', rows)
  return rows


def outcomes(
    records: Records, tokenizer: tokenizers.Tokenizer, style: str
) -> base.Outcomes:
  """Reads searches as attempts; tokens are NaN where the style has no words.
  """
  column = lambda values: base.objects([[value] for value in values])
  return base.Outcomes(
      is_correct=column(r.is_solved for r in records).astype(bool),
      is_finished=np.ones((len(records), 1), bool),
      num_tokens=column(
          _num_tokens(r, tokenizer, style) for r in records).astype(float),
      answers=column(_answer(r) for r in records),
      details=dict(nodes=column(len(r.nodes) - 1 for r in records)))


def run_all(
    teacher: base_task.Teacher, strategy: str, problems: Sequence[Problem],
    seed: int,
) -> list[record_lib.TraceRecord]:
  """Searches problems with one strategy of a teacher."""
  return [
      teacher.search(problem, strategy, seed + index)
      for index, problem in enumerate(problems)]


def _answer(record: record_lib.TraceRecord) -> str | None:
  steps = (record.nodes[i].step for i in record.solution[1:])
  return '\n'.join(steps) if record.is_solved else None


def _num_tokens(record, tokenizer, style: str) -> float:
  """Tokens after the prompt, end of sequence included."""
  try:
    text = traces.render(traces.linearize(record), style=style)
  except ValueError:
    return float('nan')
  prompt = traces.prompt(record.problem, style=style)
  return len(tokenizer.encode(text)) - len(tokenizer.encode(prompt)) + 1
