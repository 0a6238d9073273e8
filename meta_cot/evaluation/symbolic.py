# SPDX-License-Identifier: Apache-2.0
"""The symbolic searches themselves, on the same problems."""

from collections.abc import Callable
import dataclasses

from meta_cot import traces
from meta_cot.evaluation import statistics
from meta_cot.problem import Problem
from meta_cot.tasks.countdown import teacher
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
    problems: list[Problem], max_value: int | None, style: str, seed: int
) -> dict[str, list[record_lib.TraceRecord]]:
  """The 12 strategies of Stream of Search over `problems`.

  Results above `max_value` are out of bounds for them as for the teacher. The
  compact style writes the larger operand first, so they do too.
  """
  operands = 'descending' if style == 'compact' else 'listed'
  return {
      name: [
          teacher.search(
              problem,
              dataclasses.replace(
                  strategy, operands=operands, max_value=max_value),
              seed + index)
          for index, problem in enumerate(problems)]
      for name, (strategy, _) in teacher.STREAM_OF_SEARCH.items()}


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
