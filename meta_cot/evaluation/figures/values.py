# SPDX-License-Identifier: Apache-2.0
"""What values are worth (arXiv 2501.04682, Figures 3, 16, 17 and 29)."""

from collections.abc import Iterator, Sequence

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
  return base.Figure('generated tokens per problem', _SOLVED, lines)


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
    if (key.solver, key.split) == ('samples', tasks.VALIDATION):
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
