# SPDX-License-Identifier: Apache-2.0
"""Judges completions: the exact verdict, and how the search went."""

import dataclasses

from meta_cot import traces
from meta_cot.problem import Problem, Verdict
from meta_cot.solvers import sampling as sampling_lib
from meta_cot.tasks import base
from meta_cot.traces.arithmetic import analysis


@dataclasses.dataclass(frozen=True)
class Result:
  """One problem, one completion, one verdict."""

  problem: Problem
  completion: sampling_lib.Completion
  verdict: Verdict
  analysis: analysis.TraceAnalysis


def verify(
    task: base.Task, problem: Problem, completion: sampling_lib.Completion,
    style: str,
) -> Verdict:
  """Verifies the answer of a completion; an unfinished one is never right."""
  if not completion.is_finished:
    return Verdict(False, 'unfinished: no end of sequence')
  answer = traces.extract_answer(completion.text, style)
  if answer is None:
    return Verdict(False, 'no answer in the text')
  return task.verify(problem, answer)


def judge(
    task: base.Task, problem: Problem, completion: sampling_lib.Completion,
    style: str,
) -> Result:
  """Verifies a completion and replays its search."""
  return Result(
      problem, completion, verify(task, problem, completion, style),
      analysis.analyze(
          problem, completion.text, style, completion.is_finished))
