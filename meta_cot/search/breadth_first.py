# SPDX-License-Identifier: Apache-2.0
"""Breadth-first search with pruning: the shallowest goal."""

from typing import Any

from meta_cot.search import base
from meta_cot.search import engine
from meta_cot.search.beam import Beam
from meta_cot.types import PRNGKey


def breadth_first(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn, *,
    breadth_limit: int, branching: int, max_depth: int,
    value_threshold: float = -float('inf'), max_tokens: int | None = None,
    merge_steps: bool = True, merge_states: bool = False,
) -> engine.SearchOutput:
  """Level by level, until one has a goal.

  The breadth-first Tree of Thoughts (Yao et al., 2023; arXiv 2501.04682,
  section 3.3): `search.beam` that drops nodes under a value threshold and ends
  with the first level that has a goal. A `breadth_limit` of
  `branching` ** (`max_depth` - 1) is no limit.

  Args:
    params: forwarded to `step_fn`.
    rng: consumed.
    root: [B, ...]; always expanded.
    step_fn: see `search.base`.
    breadth_limit: nodes kept per level, the highest values, equal ones by age.
    branching: children of an expansion.
    max_depth: levels; nodes there are not expanded.
    value_threshold: the lowest value that is expanded.
    max_tokens: no more levels once a problem has generated as many.
    merge_steps: merge equal steps of one node.
    merge_states: merge equal states of one tree.

  Returns:
    The trees and the goals; without a goal, the terminal node with the highest
    reward, then value, then age, if there is one.

  Raises:
    ValueError: settings that allow no search; wrong shapes.
  """
  if breadth_limit < 1:
    raise ValueError(
        f'breadth_limit: got {breadth_limit}; must be at least 1.')
  strategy = Beam(
      beam_width=breadth_limit, branching=branching, max_depth=max_depth,
      value_threshold=value_threshold, stops_at_goal=True,
      max_tokens=max_tokens, merge_steps=merge_steps,
      merge_states=merge_states)
  return engine.run(strategy, params, rng, root, step_fn)
