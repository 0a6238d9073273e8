# SPDX-License-Identifier: Apache-2.0
"""Many verdicts in a few numbers, JSON-ready."""

import collections
from collections.abc import Sequence

from meta_cot.evaluation import statistics
from meta_cot.solvers import trees
from meta_cot.solvers import verdicts


def of_completions(results: list[verdicts.Result]) -> dict:
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


def of_searches(searches: Sequence[trees.Searched]) -> dict:
  """Success with its 95% interval, and costs; JSON-ready.

  `share_told` is the share of the nodes that the text of a search has; every
  text was read back (see `trees.told`).
  """
  total = len(searches)
  solved = sum(s.is_solved for s in searches)
  found = sum(s.is_found for s in searches)
  num_nodes = [len(s.record.nodes) - 1 for s in searches]
  left_out = sum(trees.told(s.record)[1] for s in searches)
  mean = lambda values: sum(values) / max(total, 1)
  return dict(
      success=solved / max(total, 1),
      ci95=list(statistics.wilson(solved, total)),
      found=found / max(total, 1), num_problems=total, num_solved=solved,
      mean_tokens=mean([s.num_tokens for s in searches]),
      mean_nodes=mean(num_nodes),
      mean_expansions=mean([s.num_expansions for s in searches]),
      share_told=1 - left_out / max(sum(num_nodes), 1))
