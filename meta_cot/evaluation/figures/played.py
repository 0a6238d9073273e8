# SPDX-License-Identifier: Apache-2.0
"""What episodes and searches in context reach (Figures 10, 19, 21 to 23)."""

from collections.abc import Sequence

import numpy as np

from meta_cot.evaluation import anytime
from meta_cot.evaluation import symbolic
from meta_cot.evaluation.figures import base
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import choosing
from meta_cot.tasks import base as tasks

_POINTS = 24  # of a line over tokens, at most


def corrections(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success of a second attempt over training tokens (Figure 19).

  Stages are of kind `label`, their steps attempts; a label is the number of
  tokens and, behind a blank, whose first attempts they are.
  """
  lines = {}
  for group in groups:
    tokens, _, whose = group.label.partition(' ')
    behind = [
        entry for run in group.runs
        for entry in run.summary['splits'][tasks.VALIDATION]['behind']
        if entry['num_steps'] == 1]
    if behind:
      lines.setdefault(whose, []).append(base.of_estimates(float(tokens), [
          dict(estimate=entry['mean'], low=entry['ci95'][0],
               high=entry['ci95'][1]) for entry in behind]))
  return base.Figure(
      'training tokens', 'the second attempt is right', lines, is_log=False)


def turns(groups: Sequence[base.Group]) -> base.Figure:
  """Makes success over attempts, by policy and label (Figures 21 and 22).

  N trajectories of K episodes cost N K attempts; a problem is solved if the
  last episode of any of them is right.
  """
  lines = {}
  for group in groups:
    for policy, found in base.by_policy(group, ('revisions',)).items():
      found = [_last(o) for o in found]
      lines[f'{group.label}: {policy}'] = base.line([
          [(n * number, choosing.oracle(o, n))
           for n in range(1, o.is_correct.shape[1] + 1)]
          for number, o in found])
  return base.Figure('attempts', 'a last attempt is right', lines)


def revised(groups: Sequence[base.Group]) -> base.Figure:
  """Makes how often the k-th attempt of a trajectory is right (Figure 10)."""
  lines = {}
  for group in groups:
    for policy, found in base.by_policy(group, ('revisions',)).items():
      name = f'{group.label}: {policy}' if len(groups) > 1 else policy
      lines[name] = base.line([
          [(k + 1, right_BxK[:, k]) for k in range(right_BxK.shape[1])]
          for o in found
          for right_BxK in [o.by_episode(o.is_correct).mean(axis=1)]])
  return base.Figure('attempt', 'right', lines, is_log=False)


def unsolved(groups: Sequence[base.Group]) -> base.Figure:
  """Makes what no symbolic strategy solves in as many tokens (Figure 23).

  Of all problems, those that a text of the policy solves within t tokens and no
  strategy of the teacher does. A strategy whose tokens are not known solves its
  problems at once. Stages without strategies are searches as well: what any
  sample in them solves within t tokens is solved, at the same problems.
  """
  lines = {}
  is_taught = lambda group: any(
      run.policy == symbolic.POLICY for run in group.runs)
  taught = [group for group in groups if is_taught(group)]
  drawn = [
      o for group in groups if not is_taught(group)
      for found in base.by_policy(group, ('samples',)).values() for o in found]
  for group in taught:
    theirs = drawn + [
        o for run in group.runs if run.policy == symbolic.POLICY
        for key, o in run.outcomes.items() if key.solver != symbolic.TEACHER]
    for policy, found in base.by_policy(group, ('samples', 'greedy')).items():
      if not theirs or policy == symbolic.POLICY:
        continue
      longest = max(o.num_tokens.max() for o in found)
      tokens_T = np.unique(np.rint(np.geomspace(8, longest, _POINTS)))
      is_left_BxT = ~np.any([_solved(o, tokens_T) for o in theirs], axis=0)
      name = f'{group.label}: {policy}' if len(taught) > 1 else policy
      lines[name] = base.line([
          [*zip(tokens_T, (anytime.within(o, tokens_T) * is_left_BxT).T)]
          for o in found])
  return base.Figure('tokens', 'solved where no strategy does', lines)


def _solved(
    outcomes: solvers_base.Outcomes, tokens_T: np.ndarray) -> np.ndarray:
  """Whether any attempt at a problem is right within t tokens, [B, T]."""
  taken_BxGx1 = np.nan_to_num(outcomes.num_tokens)[..., None]
  return np.any(
      outcomes.is_correct[..., None] & (taken_BxGx1 <= tokens_T), axis=1)


def _last(
    outcomes: solvers_base.Outcomes) -> tuple[int, solvers_base.Outcomes]:
  """How many episodes trajectories have, and the last one of each."""
  last = lambda values: outcomes.by_episode(values)[..., -1]
  taken_BxG = np.maximum(last(outcomes.num_tokens), 1)
  return outcomes.num_episodes, solvers_base.Outcomes(
      last(outcomes.is_correct), last(outcomes.is_finished), taken_BxG,
      last(outcomes.answers))
