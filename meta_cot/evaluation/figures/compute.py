# SPDX-License-Identifier: Apache-2.0
"""Success over what it costs (arXiv 2501.04682, Figures 5, 6, 20 and 27)."""

from collections.abc import Sequence

import numpy as np

from meta_cot.evaluation import anytime
from meta_cot.evaluation import budgets
from meta_cot.evaluation.figures import base
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import choosing
from meta_cot.solvers import strategies

GAMMAS = (1.0, 0.995, 0.99)
_POINTS = 24  # of a line over single tokens, at most
_TOKENS = 'generated tokens per problem'
_SOLVED = 'problems solved'


def nodes(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success over the nodes visited: searches, and best of N (Figure 5).

  A node is a step, of a search or of a sample; best of N is by the exact
  verifier, as searches stop at a right answer.
  """
  lines = {}
  for group in groups:
    for solver in strategies.STRATEGIES:
      found = _tested(group, solver)
      if found:
        lines.setdefault(solver, []).extend(base.line([
            [(float(np.mean(o.details['nodes'].astype(float))),
              choosing.first(o, 1))] for o in found]))
  samples = _tested(groups[0], 'samples')
  if samples:
    lines['best of N'] = base.line([
        [(n * _steps(o), choosing.oracle(o, n)) for n in budgets.sizes(o)]
        for o in samples])
  return base.Figure('nodes visited per problem', _SOLVED, lines)


def compute(groups: Sequence[base.Group]) -> base.Figure:
  """Makes best of N over its tokens, a line for every label (Figure 6).

  The labels say how long the policies were trained.
  """
  lines = {}
  for group in groups:
    samples = _tested(group, 'samples')
    if samples and group.label not in lines:
      lines[group.label] = base.line([
          [(n * o.mean_tokens, choosing.oracle(o, n))
           for n in budgets.sizes(o)] for o in samples])
  return base.Figure(_TOKENS, _SOLVED, lines)


def discounted(groups: Sequence[base.Group]) -> base.Figure:
  """Makes the discounted reward of best of N over N (Figure 27, left)."""
  lines = {}
  for group in groups:
    samples = _tested(group, 'samples')
    for gamma in GAMMAS if samples else ():
      name = f'gamma {gamma:g}'
      name = f'{group.label}: {name}' if len(groups) > 1 else name
      lines[name] = base.line([
          [(n, choosing.discounted('oracle', o, n, gamma))
           for n in budgets.sizes(o)] for o in samples])
  return base.Figure(
      'N', 'reward: gamma^tokens if any is right', lines, is_rate=False)


def within(groups: Sequence[base.Group]) -> base.Figure:
  """Makes right answers that are whole by t tokens (Figures 20; 27, right).

  A line for every policy. Of sampled texts or trajectories, the newest answer
  of each; of greedy texts where a stage has no others.
  """
  lines = {}
  for group in groups:
    for policy, found in base.by_policy(
        group, ('revisions', 'samples', 'greedy')).items():
      longest = max(o.by_episode(o.num_tokens).sum(-1).max() for o in found)
      tokens_T = np.unique(np.rint(np.geomspace(8, longest, _POINTS)))
      name = f'{group.label}: {policy}' if len(groups) > 1 else policy
      lines[name] = base.line([
          [*zip(tokens_T, anytime.within(o, tokens_T).T)] for o in found])
  return base.Figure('tokens', 'solved within so many', lines)


def _tested(group: base.Group, solver: str) -> list[solvers_base.Outcomes]:
  return [o for run in group.runs if (o := run.tested(solver)) is not None]


def _steps(outcomes: solvers_base.Outcomes) -> float:
  """Steps of an attempt that claims an answer, on average."""
  return float(np.mean([
      answer.count('\n') + 1 for answer in outcomes.answers.flat if answer]))
