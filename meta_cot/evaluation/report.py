# SPDX-License-Identifier: Apache-2.0
"""The readable end of a bench: report.md and its plots, made of a summary."""

from collections.abc import Mapping, Sequence

from etils import epath

from meta_cot.evaluation import plots
from meta_cot.evaluation import reasoning
from meta_cot.evaluation import report_anytime
from meta_cot.evaluation import report_budget
from meta_cot.evaluation import report_samples
from meta_cot.evaluation import tables
from meta_cot.evaluation import trees
from meta_cot.runtime import files
from meta_cot.tasks import base as tasks

_SEEDS = (
    'Policies that differ in their seed alone are one; `over seeds`, the '
    'measures and the differences have intervals between the means of the '
    "seeds (Student's t). ")
_EPISODES = {  # key of a row -> figure, what it shows
    'this': ('episodes.png', 'success of every episode'),
    'any': ('any_episode.png', 'success of the best episode so far')}


def write(
    directory: epath.Path, title: str, summary: Mapping, *,
    training: Mapping[str, Mapping] | None = None,
    drawn: Sequence[trees.Tree] = (), texts: Mapping[str, str] | None = None,
    budget: Sequence[Mapping] = (),
) -> None:
  """Writes summary.json, `report.md` and its PNG plots.

  Args:
    directory: local or in a bucket; made if missing.
    summary: of `summary.of_rows`.
    training: what training left of every policy: summary.json, and `losses`,
      points (tokens, loss) on validation data.
    drawn: searches to draw as trees.
    texts: searches to show as text, by what made them.
    budget: what every solver drew of one, see `report_budget`.
  """
  training = training or {}
  files.write_json(directory / 'summary.json', dict(
      summary, training={k: dict(v) for k, v in training.items()},
      budget=list(budget)))
  parts = [
      f'# {title}\n', _headline(summary), _success(summary),
      report_budget.write(budget),
      _curve(directory, summary),
      report_anytime.write(directory, summary['anytime']),
      report_samples.write(directory, summary),
      _errors(summary), reasoning.write(directory, summary['reasoning']),
      episodes(directory, summary['episodes']), _drawn(directory, drawn),
      _texts(texts or {}), _training(directory, training), tables.PAGE]
  files.write_atomic(
      directory / 'report.md', '\n'.join(filter(None, parts)))


def _headline(summary) -> str:
  """The reference beside the other policies, with its solver, on all splits.

  Validation problems, on which choices were made, are left out.
  """
  if summary['reference'] is None:
    return ''
  policy, solver = summary['reference']
  entries = [
      e for e in summary['success']
      if e['solver'] == solver and e['split'] != tasks.VALIDATION]
  mine = {e['split']: e for e in entries if e['policy'] == policy}
  others = [e for e in entries if e['minus'] and e['split'] in mine]
  if not others:
    return ''
  solved = ', '.join(
      f'{tables.cell(e)}% of {e["num_problems"]} problems of {split}'
      for split, e in mine.items())
  lines = ''
  for e in others:
    gap = e['minus']
    turned = dict(  # seen from the other side, and never -0.0
        estimate=0.0 - gap['estimate'], low=0.0 - gap['high'],
        high=0.0 - gap['low'])
    lines += (
        f'- `{e["policy"]}` {tables.cell(e)}% of {e["split"]}: a difference of '
        f'{tables.cell(turned)} points.\n')
  return (
      f'`{policy}`, {solver}, solves {solved}. Beside it:\n\n'
      f'{lines}\nBrackets are 95% intervals.\n')


def _success(summary) -> str:
  entries = summary['success']
  names = list(dict.fromkeys(k for e in entries for k in e['means']))
  means = ''.join(f' | {name.replace("_", " ")}' for name in names)
  has_seeds = any(len(e['seeds']) > 1 for e in entries)
  return (
      '## Success and cost\n\nTokens are generated tokens of an attempt, end '
      'of sequence and all children of a search counted. Seconds are of all '
      'attempts. Occupancy is the share of rows and steps that worked on an '
      'unfinished attempt. Brackets are 95% intervals (Wilson; normal over '
      'problems with several attempts each; for the difference, paired). '
      + _SEEDS * has_seeds
      + '`symbolic` is the search that wrote the traces.\n\n'
      + tables.table(
          'policy | solver | split | problems | solved %'
          + ' | seeds | over seeds' * has_seeds + ' | minus reference | '
          f'tokens | occupancy %{means} | seconds', [
              [e['policy'], e['solver'], e['split'], e['num_problems'], e,
               *([len(e['seeds']), e.get('seeds_ci95')] * has_seeds),
               e['minus'], e['mean_tokens'], f'{100 * e["occupancy"]:.0f}',
               *(_mean(e, name) for name in names),
               f'{e["seconds"]:.2f}'] for e in entries]))


def _mean(entry, name: str) -> str:
  """The mean of a measure, with its interval over seeds if there are any."""
  if name not in entry['means']:
    return '-'
  words = f'{entry["means"][name]:.3g}'
  ci95 = entry['means_ci95'][name]
  return words if ci95 is None else (
      f'{words} [{ci95[0]:.3g}, {ci95[1]:.3g}]')


def _curve(directory, summary) -> str:
  lines = {}
  for e in summary['curve']:
    name = e['policy'] + f'/seed{e["seed"]}' * (e['seed'] > 0)
    lines.setdefault(name, []).append(tables.point(e['tokens'], e))
  if not lines:
    return ''
  plots.success_curves(directory / 'learning_curve.png', lines)
  width = max(map(len, lines.values()))
  rows = [
      [policy, *(f'{p[0] / 1e6:.2f}M: {100 * p[1]:.1f}' for p in points),
       *[''] * (width - len(points))]
      for policy, points in lines.items()]
  return (
      '## Learning curves\n\nSolved % of the first validation problems at '
      'every checkpoint, by tokens trained.\n\n'
      + tables.table(
          ' | '.join(['policy', *map(str, range(1, width + 1))]), rows)
      + '\n![learning curve](learning_curve.png)\n')


def _errors(summary) -> str:
  entries = [e for e in summary['success'] if e['errors']]
  kinds = sorted({kind for e in entries for kind in e['errors']})
  return '' if not kinds else (
      '## Why problems were not solved\n\nFirst thing that went wrong in each '
      'unsolved completion.\n\n' + tables.table(
          ' | '.join(['policy', 'solver', 'split', *kinds]),
          [[e['policy'], e['solver'], e['split'],
            *(e['errors'].get(kind, 0) for kind in kinds)]
           for e in entries]))


def episodes(directory: epath.Path, summary: Mapping | None) -> str:
  """Writes plots of `episodes.summarise`, and returns the text with them."""
  if summary is None:
    return ''
  labels = {
      policy: [str(row['episode']) for row in values['episodes']]
      for policy, values in summary['policies'].items()}
  for key, (name, title) in _EPISODES.items():
    plots.success_against_tokens(
        directory / name, episode_curves(summary, key), labels=labels,
        title=title)
  return (
      '## Episode after episode\n\n'
      f'{summary["num_problems"]} problems. A trajectory is several episodes, '
      'attempts at one question in one context. Brackets are 95% intervals: '
      'over problems, with all trajectories and seeds of a problem as one '
      "(normal); `over seeds` between the means of the seeds (Student's t). "
      f'`{summary["start"]}` is where training started.\n\n'
      + _final_episode(summary) + '\n' + _by_difficulty(summary)
      + _every_episode(summary))


def episode_curves(
    summary: Mapping, key: str) -> dict[str, list[plots.Point]]:
  """What a plot shows: every policy, and both rivals.

  Args:
    summary: of `episodes.summarise`.
    key: 'this' for every episode alone, 'any' for the best one so far.

  Returns:
    Name -> points (tokens, success, low, high). The interval is over seeds
    where there are several, else over problems.
  """
  lines = {
      policy: [
          tables.point(row['tokens'], row[key]) for row in values['episodes']]
      for policy, values in summary['policies'].items()}
  for name, chooser in (('best', 'oracle'), ('majority', 'majority')):
    lines[f'{summary["start"]}, {name} of N'] = [
        tables.point(p['tokens'], p[chooser])
        for p in summary['samples']['curve']]
  return lines


def _final_episode(summary: Mapping) -> str:
  rows = []
  for policy, values in summary['policies'].items():
    last, gap = values['episodes'][-1], values['minus_start']
    rows.append([
        policy, ', '.join(map(str, values['seeds'])), last['episode'],
        last['tokens'], last['this'], last['this']['seeds_ci95'], gap,
        gap and gap['seeds_ci95']])
  return (
      '### The final episode\n\nTokens are those of the whole trajectory; the '
      'difference is of final episodes, paired by problem.\n\n'
      + tables.table(
          'policy | seeds | episodes | tokens | solved % | over seeds | '
          f'minus {summary["start"]} | over seeds', rows))


def _by_difficulty(summary: Mapping) -> str:
  rows = [
      [policy, f'{part["difficulty"]:g}', part['num_problems'],
       part['episodes'][-1], part['episodes'][-1]['seeds_ci95']]
      for policy, values in summary['policies'].items()
      for part in values['by_difficulty']]
  return '' if not rows else (
      '### The final episode by difficulty\n\nDifficulty is what the task says '
      'of a problem.\n\n' + tables.table(
          'policy | difficulty | problems | solved % | over seeds', rows)
      + '\n')


def _every_episode(summary: Mapping) -> str:
  rows = [
      [policy, row['episode'], row['tokens'], row['this'],
       row['this']['seeds_ci95'], row['any'], 100 * row['finished'],
       f'{row["equal_tokens"]["n"]:.2f}', row['equal_tokens']['oracle'],
       row['equal_tokens']['majority']]
      for policy, values in summary['policies'].items()
      for row in values['episodes']]
  images = ''.join(
      f'\n![{title}]({name})\n' for name, title in _EPISODES.values())
  return (
      '### Every episode\n\nTokens are drawn up to the end of the episode, a '
      'search before it included. `any so far`: one of the episodes up to here '
      'is right. `finished`: of the episodes that took place, those that ended '
      'by themselves. `N`: '
      f'samples of `{summary["start"]}` that cost as many tokens, at least 1 '
      f'and at most the {summary["samples"]["num_samples"]} drawn; a part '
      'of N means that some problems get one sample more. Best of N is by the '
      'exact verifier (unbiased pass@N). In the plots, bars are over seeds '
      'where there are several.\n\n'
      + tables.table(
          'policy | episode | tokens | solved % | over seeds | any so far % | '
          'finished % | N | best of N % | majority of N %', rows) + images)


def _drawn(directory, drawn: Sequence[trees.Tree]) -> str:
  images = []
  for i, tree in enumerate(drawn, 1):
    trees.draw(directory / f'search_{i}.png', tree)
    images.append(f'![search {i}](search_{i}.png)\n')
  return drawn and '## Searches as trees\n\n' + '\n'.join(images)


def _texts(texts: Mapping[str, str]) -> str:
  shown = (f'`{name}`:\n\n    {text}\n' for name, text in texts.items())
  return texts and '## Searches as text\n\n' + '\n'.join(shown)


def _training(directory, training) -> str:
  if not training:
    return ''
  plots.loss_curves(directory / 'loss.png', {
      policy: values['losses'] for policy, values in training.items()})
  rows = [
      [policy, f'{t["num_parameters"]:,}', t['num_steps'],
       f'{t["tokens"] / 1e6:.2f}M', f'{t["loss"]:.4f}',
       f'{t["eval_loss"]:.4f}', f'{t["seconds"]["total"]:.0f}',
       f'{100 * t["seconds"]["goodput"]:.0f}']
      for policy, t in training.items()]
  return (
      '## Training\n\n' + tables.table(
          'policy | parameters | steps | tokens | loss | validation loss | '
          'seconds | goodput %', rows) + '\n![loss](loss.png)\n')
