# SPDX-License-Identifier: Apache-2.0
"""The symbolic searches themselves, on the same problems."""

from collections.abc import Callable, Sequence

from meta_cot import traces
from meta_cot.evaluation import statistics
from meta_cot.problem import Problem
from meta_cot.tasks import base
from meta_cot.traces import record as record_lib


def summarise(
    records: list[record_lib.TraceRecord],
    count_tokens: Callable[[record_lib.TraceRecord], int | None],
) -> dict:
  """Success, nodes and tokens of a set of searches, JSON-ready.

  Args:
    records: one search per problem.
    count_tokens: length of a search written out; None if the style cannot.
  """
  solved = sum(r.is_solved for r in records)
  tokens = [count_tokens(record) for record in records]
  known = [t for t in tokens if t is not None]
  return dict(
      success=solved / max(len(records), 1),
      ci95=list(statistics.wilson(solved, len(records))),
      num_problems=len(records),
      num_solved=solved,
      mean_tokens=sum(known) / len(known) if known else None,
      mean_nodes=sum(len(r.nodes) - 1 for r in records) / max(len(records), 1))


def run_all(
    teacher: base.Teacher, problems: Sequence[Problem], seed: int
) -> dict[str, list[record_lib.TraceRecord]]:
  """All strategies of a teacher over `problems`."""
  return {
      name: [
          teacher.search(problem, name, seed + index)
          for index, problem in enumerate(problems)]
      for name in teacher.strategies}


def token_counter(
    encode: Callable[[str], list[int]], style: str
) -> Callable[[record_lib.TraceRecord], int | None]:
  """Counts the tokens after the prompt, end of sequence included."""
  def count(record):
    events = traces.linearize(record)
    try:
      text = traces.render(events, style=style)
    except ValueError:
      return None
    prompt = traces.prompt(record.problem, style=style)
    return len(encode(text)) - len(encode(prompt)) + 1
  return count
