# SPDX-License-Identifier: Apache-2.0
"""What values are worth (arXiv 2501.04682, Figures 3, 16, 17, 29 and 30)."""

from collections.abc import Iterator, Sequence

import numpy as np

from meta_cot.evaluation import budgets
from meta_cot.evaluation import choices
from meta_cot.evaluation import rivals
from meta_cot.evaluation.figures import base
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import choosing
from meta_cot.solvers import scoring
from meta_cot.solvers import strategies
from meta_cot.tasks import base as tasks

_SOLVED = 'problems solved'
_TOKENS = 'generated tokens per problem'


def verifiers(groups: Sequence[base.Group]) -> base.Figure:
  """Makes best of N over N by every judge, majority and oracle (Figure 3)."""
  lines = {}
  for group in groups:
    samples = [o for _, o in _samples(group)]
    for chooser, name in (('oracle', 'exact verifier'),
                          ('majority', 'majority')) if samples else ():
      lines.setdefault(name, _over_n([(o, chooser) for o in samples]))
    for judge, some in judged(group).items():
      lines.setdefault(judge, _over_n([
          (o, best(run, reference)) for run, o, reference in some]))
  return base.Figure('N', _SOLVED, lines)


def questions(groups: Sequence[base.Group]) -> base.Figure:
  """Makes the error of values over training questions (Figure 16).

  Stages are of kind `quality`, and their labels the numbers of questions.
  """
  lines = {}
  for group in groups:
    by_source = {}
    for run in group.runs:
      for source, measured in run.summary['sources'].items():
        by_source.setdefault(base.judge(source), []).append(measured['mae'])
    for source, errors in by_source.items():
      lines.setdefault(source, []).append(
          base.of_estimates(float(group.label), errors))
  return base.Figure(
      'training questions', 'mean absolute error', lines, is_rate=False)


def values(groups: Sequence[base.Group]) -> base.Figure:
  """Makes searches and best of N by values of every label (Figure 17)."""
  lines = {}
  for group in groups:
    for solver in strategies.STRATEGIES:
      found = [
          o for run in group.runs if (o := run.tested(solver)) is not None]
      if found:
        lines.setdefault(f'{solver}, {group.label}', []).extend(base.line([
            [(o.mean_tokens, choosing.first(o, 1))] for o in found]))
    chosen = [
        (o, best(run, reference)) for some in judged(group).values()
        for run, o, reference in some] or [
            (o, 'oracle') for _, o in _samples(group)]
    if chosen:
      lines.setdefault(
          f'best of N, {group.label}', _over_n(chosen, is_tokens=True))
  return base.Figure(_TOKENS, _SOLVED, lines)


def guides(groups: Sequence[base.Group]) -> base.Figure:
  """Makes searches by what guides them, beside samples (Figure 30).

  Labels are guides; a search ends at a right answer. Beside each point of one
  are the exact verifier's choice of as many tokens of samples, and samples that
  end with the first right one, as the search does.
  """
  lines = {}
  for group in groups:
    for solver in strategies.STRATEGIES:
      found = [
          (o, samples) for run, samples in _samples(group)
          if (o := run.tested(solver)) is not None]
      for name, success in (
          (f'{solver}, {group.label}', lambda o, _: choosing.first(o, 1)),
          ('best of N', lambda o, samples: budgets.success(
              samples, budgets.within(
                  samples, o.mean_tokens, is_whole=False), 'oracle')),
          ('samples up to a right one', lambda o, samples: _up_to_right(
              samples, o.mean_tokens))) if found else ():
        lines.setdefault(name, []).extend(base.line([
            [(o.mean_tokens, success(o, samples))] for o, samples in found]))
  return base.Figure(_TOKENS, _SOLVED, {
      name: sorted(points) for name, points in lines.items()})


def _up_to_right(
    samples: solvers_base.Outcomes, tokens: float) -> np.ndarray:
  """[B] success of samples one by one up to a right one, for so many tokens.

  Between N and N + 1 samples at most it is the mixture that costs as much; with
  more tokens than all samples cost it is that of all.
  """
  is_right_BxN = np.logical_or.accumulate(samples.is_correct, axis=1)
  is_drawn_BxN = np.pad(
      ~is_right_BxN[:, :-1], ((0, 0), (1, 0)), constant_values=True)
  cost_N = np.cumsum(samples.num_tokens * is_drawn_BxN, axis=1).mean(axis=0)
  return np.array([
      np.interp(tokens, np.append(0, cost_N), np.append(0, row_N))
      for row_N in is_right_BxN.astype(float)])


def votes(groups: Sequence[base.Group]) -> base.Figure:
  """Makes best of all samples over the verdicts averaged (Figure 29, left).

  The labels of stages are numbers of verdicts; a line is of a judge.
  """
  lines = {}
  for group in groups:
    for judge, some in judged(group).items():
      lines.setdefault(judge, []).extend(base.line([
          [(float(group.label), choosing.by_name(f'value by {reference}')(
              o, o.is_correct.shape[1]))] for _, o, reference in some]))
  return base.Figure('verdicts averaged', _SOLVED, lines)


def _samples(
    group: base.Group) -> Iterator[tuple[base.Run, solvers_base.Outcomes]]:
  """Runs with samples of test problems."""
  for run in group.runs:
    outcomes = run.tested('samples')
    if outcomes is not None:
      yield run, outcomes


def judged(
    group: base.Group
) -> dict[str, list[tuple[base.Run, solvers_base.Outcomes, str]]]:
  """Finds samples and who judged them, by the judge's name of any seed."""
  found = {}
  for run, outcomes in _samples(group):
    for reference in choosing.judges(outcomes):
      found.setdefault(base.judge(reference), []).append(
          (run, outcomes, reference))
  return found


def rivals_of(
    group: base.Group
) -> list[tuple[base.Run, solvers_base.Outcomes, str]]:
  """Finds samples and who judged the search beside them: whoever guided it.

  Where no model judged samples it is the likelihood, or the verifier.
  """
  found = [x for some in judged(group).values() for x in some]
  if found:
    return found
  for run, outcomes in _samples(group):
    judges = {entry['judge'] for entry in run.summary.get('rivals', ())}
    found.append((
        run, outcomes, scoring.LIKELIHOOD if scoring.LIKELIHOOD in judges
        else rivals.VERIFIER))
  return found


def best(run: base.Run, judge: str) -> str:
  """Names the chooser that goes best on validation; by value if none was."""
  if judge == rivals.VERIFIER:
    return 'oracle'
  for key, outcomes in run.outcomes.items():
    if (key.solver, key.split) == ('samples', tasks.VALIDATION) and (
        judge in (scoring.LIKELIHOOD, *choosing.judges(outcomes))):
      return choices.of_validation(outcomes)[judge]['best']
  return 'value' if judge == scoring.LIKELIHOOD else f'value by {judge}'


def _over_n(
    chosen: Sequence[tuple[solvers_base.Outcomes, str]], *,
    is_tokens: bool = False,
) -> list[base.Point]:
  """A line over N, or the tokens of N samples: attempts and their choosers."""
  return base.line([
      [(n * (o.mean_tokens if is_tokens else 1),
        choosing.by_name(name)(o, n)) for n in budgets.sizes(o)]
      for o, name in chosen])
