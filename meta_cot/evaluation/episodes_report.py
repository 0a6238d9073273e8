# SPDX-License-Identifier: Apache-2.0
"""Episodes against samples of as many tokens, to be read: tables and plots."""

from etils import epath

from meta_cot.evaluation import plots
from meta_cot.evaluation import tables

_FIGURES = {  # key of a row -> file, what it shows
    'this': ('episodes.png', 'success of every episode'),
    'any': ('any_episode.png', 'success of the best episode so far')}


def write(directory: epath.Path, summary: dict) -> str:
  """Writes the PNG plots, and returns the text that shows them.

  Args:
    directory: local or in a bucket; made if missing.
    summary: of `episodes.summarise`.
  """
  for key, (name, title) in _FIGURES.items():
    _plot(directory / name, summary, key, title)
  return '\n'.join([_headline(summary), _final(summary), _episodes(summary)])


def curves(summary: dict, key: str) -> dict[str, list[plots.Point]]:
  """What a plot shows: every policy, and both rivals.

  Args:
    summary: of `episodes.summarise`.
    key: 'this' for every episode alone, 'any' for the best one so far.

  Returns:
    Name -> points (tokens, success, low, high). The interval is over seeds
    where there are several, else over problems.
  """
  lines = {
      policy: [_point(row['tokens'], row[key]) for row in values['episodes']]
      for policy, values in summary['policies'].items()}
  start, points = summary['start'], summary['samples']['curve']
  for name, chooser in (('best', 'oracle'), ('majority', 'majority')):
    lines[f'{start}, {name} of N'] = [
        (p['tokens'], p[chooser]['success'], *p[chooser]['ci95'])
        for p in points]
  return lines


def _plot(path: epath.Path, summary: dict, key: str, title: str) -> None:
  labels = {
      policy: [str(row['episode']) for row in values['episodes']]
      for policy, values in summary['policies'].items()}
  plots.success_against_tokens(
      path, curves(summary, key), labels=labels, title=title)


def _point(tokens: float, rate: dict) -> plots.Point:
  return tokens, rate['success'], *(rate['seeds_ci95'] or rate['ci95'])


def _headline(summary: dict) -> str:
  return (
      '## Episode after episode\n\n'
      f'{summary["num_problems"]} problems. A trajectory is several episodes, '
      'attempts at one question in one context. Brackets are 95% intervals: '
      'over problems, with all trajectories and seeds of a problem as one '
      "(normal); `over seeds` between the means of the seeds (Student's t). "
      f'`{summary["start"]}` is where training started.\n')


def _final(summary: dict) -> str:
  rows = []
  for policy, values in summary['policies'].items():
    last, gap = values['episodes'][-1], values['minus_start']
    rows.append([
        policy, ', '.join(map(str, values['seeds'])), str(last['episode']),
        f'{last["tokens"]:.1f}', tables.percent(last['this']),
        tables.interval(last['this']['seeds_ci95']),
        '-' if gap is None else tables.percent(gap),
        '-' if gap is None else tables.interval(gap['seeds_ci95'])])
  header = [
      'policy', 'seeds', 'episodes', 'tokens', 'solved %', 'over seeds',
      f'minus {summary["start"]}', 'over seeds']
  return (
      '### The final episode\n\nTokens are those of the whole trajectory; the '
      'difference is of final episodes, paired by problem.\n\n'
      + tables.table(header, rows))


def _episodes(summary: dict) -> str:
  rows = []
  for policy, values in summary['policies'].items():
    for row in values['episodes']:
      equal = row['equal_tokens']
      rows.append([
          policy, str(row['episode']), f'{row["tokens"]:.1f}',
          tables.percent(row['this']),
          tables.interval(row['this']['seeds_ci95']),
          tables.percent(row['any']),
          f'{100 * row["finished"]:.1f}', f'{equal["n"]:.2f}',
          tables.percent(equal['oracle']), tables.percent(equal['majority'])])
  header = [
      'policy', 'episode', 'tokens', 'solved %', 'over seeds', 'any so far %',
      'finished %', 'N', 'best of N %', 'majority of N %']
  images = ''.join(
      f'\n![{title}]({name})\n' for name, title in _FIGURES.values())
  return (
      '### Every episode\n\nTokens are drawn up to the end of the episode, a '
      'search before it included. `any so far`: one of the episodes up to here '
      'is right. `finished`: of the episodes that took place, those that ended '
      'by themselves. `N`: '
      f'samples of `{summary["start"]}` that cost as many tokens, at least 1 '
      f'and at most the {summary["samples"]["num_samples"]} drawn; a part '
      'of N means that some problems get one sample more. Best of N is by the '
      'exact verifier (unbiased pass@N). In the plots, bars are over seeds '
      'where there are several.\n\n' + tables.table(header, rows) + images)
