# SPDX-License-Identifier: Apache-2.0
"""Judges completions: the exact verdict, and how the search went."""

import collections
import dataclasses

from meta_cot import traces
from meta_cot.evaluation import decoding
from meta_cot.evaluation import statistics
from meta_cot.tasks import base
from meta_cot.traces import analysis


@dataclasses.dataclass(frozen=True)
class Result:
  """One problem, one completion, one verdict."""

  problem: base.Problem
  completion: decoding.Completion
  verdict: base.Verdict
  analysis: analysis.TraceAnalysis


def verify(
    task: base.Task, problem: base.Problem, completion: decoding.Completion,
    style: str,
) -> base.Verdict:
  """Verifies the answer of a completion; an unfinished one is never right."""
  if not completion.is_finished:
    return base.Verdict(False, 'unfinished: no end of sequence')
  answer = traces.extract_answer(completion.text, style)
  if answer is None:
    return base.Verdict(False, 'no answer in the text')
  return task.verify(problem, answer)


def judge(
    task: base.Task, problem: base.Problem, completion: decoding.Completion,
    style: str,
) -> Result:
  """Verifies a completion and replays its search."""
  return Result(
      problem, completion, verify(task, problem, completion, style),
      analysis.analyze(
          problem, completion.text, style, completion.is_finished))


def summarise(results: list[Result]) -> dict:
  """Success with its 95% interval, costs and kinds of error, JSON-ready."""
  solved = sum(r.verdict.is_correct for r in results)
  errors = collections.Counter(
      r.analysis.primary_error for r in results if not r.verdict.is_correct)
  mean = lambda values: sum(values) / max(len(results), 1)
  return dict(
      success=solved / max(len(results), 1),
      ci95=list(statistics.wilson(solved, len(results))),
      num_problems=len(results),
      num_solved=solved,
      mean_tokens=mean([r.completion.num_tokens for r in results]),
      mean_nodes=mean([r.analysis.nodes for r in results]),
      mean_backtracks=mean([r.analysis.backtracks for r in results]),
      unfinished=sum(not r.completion.is_finished for r in results),
      errors=dict(sorted(errors.items())))
