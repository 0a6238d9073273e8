# SPDX-License-Identifier: Apache-2.0
"""The symbolic searches themselves, on the same problems, as rows."""

from collections.abc import Mapping, Sequence

from absl import logging
from etils import epath
import numpy as np

from data_pipelines import tokenizers
from meta_cot import traces
from meta_cot.evaluation import rows as rows_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.tasks import base as base_task

POLICY, TEACHER = 'symbolic', 'teacher'
Records = Sequence[traces.TraceRecord]


def write(
    directory: epath.Path, teacher: base_task.Teacher,
    taught: Mapping[str, Records], tokenizer: tokenizers.Tokenizer,
    style: str, *, seed: int,
) -> list[rows_lib.Row]:
  """Writes the rows of the teacher and of every strategy, and returns them.

  `taught` is what it would be taught with, by split; it is kept as records. The
  strategies search the problems of the first split; one that some of these do
  not allow is left out, and the log says why.
  """
  split, first = next(iter(taught.items()))
  runs = [(TEACHER, split, some) for split, some in taught.items()]
  for strategy in teacher.strategies:
    try:
      runs.append((strategy, split, [
          teacher.search(record.problem, strategy, seed + index)
          for index, record in enumerate(first)]))
    except config_lib.UserError:  # a fault of the task, and no matter of choice
      raise
    except ValueError as e:
      logging.info('strategy %s: left out; %s', strategy, e)
  policy = base.Policy(POLICY, None, None, tokenizer, style)
  rows = [
      row for solver, split, some in runs
      for row in rows_lib.of(
          policy, solver, split, [r.problem for r in some],
          outcomes(some, tokenizer, style))]
  path = directory / POLICY / rows_lib.WHOLE
  rows_lib.write_records(
      path, (record for some in taught.values() for record in some))
  rows_lib.write(path, rows)
  return rows


def outcomes(
    records: Records, tokenizer: tokenizers.Tokenizer, style: str
) -> base.Outcomes:
  """Reads searches as attempts; tokens are NaN where the style has no words."""
  column = lambda of: base.objects([[of(record)] for record in records])
  return base.Outcomes(
      is_correct=column(lambda r: r.is_solved).astype(bool),
      is_finished=np.ones((len(records), 1), bool),
      num_tokens=column(
          lambda r: _num_tokens(r, tokenizer, style)).astype(float),
      answers=column(lambda r: '\n'.join(
          r.nodes[i].step for i in r.solution[1:]) if r.is_solved else None),
      details=dict(nodes=column(lambda r: len(r.nodes) - 1)))


def _num_tokens(record, tokenizer, style: str) -> float:
  """Tokens after the prompt, end of sequence included."""
  try:
    text = traces.render(traces.linearize(record), style=style)
  except ValueError:
    return float('nan')
  prompt = traces.prompt(record.problem, style=style)
  return len(tokenizer.encode(text)) - len(tokenizer.encode(prompt)) + 1
