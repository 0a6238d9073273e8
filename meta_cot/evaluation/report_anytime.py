# SPDX-License-Identifier: Apache-2.0
"""The part of a report about success within so many tokens, and its plots."""

from collections.abc import Mapping, Sequence

from etils import epath

from meta_cot.evaluation import plots
from meta_cot.evaluation import tables

_X = 'tokens'


def write(directory: epath.Path, entries: Sequence[Mapping]) -> str:
  """Writes the plots of `anytime.summarise`; returns the text with them."""
  if not entries:
    return ''
  grid = [point['t'] for point in entries[0]['points']]
  names = [f'{e["policy"]}, {e["solver"]}' for e in entries]
  is_first = [e['split'] == entries[0]['split'] for e in entries]
  shown = [pair for pair, is_in in zip(zip(names, entries), is_first) if is_in]
  plots.lines(
      directory / 'within.png', {
          name: [tables.point(p['t'], p['within']) for p in e['points']]
          for name, e in shown},
      x_label=_X, y_label='problems solved', is_rate=True)
  plots.lines(
      directory / 'regret.png', {
          name: [(p['t'], p['regret'], *(
              p['regret_ci95'] or [p['regret']] * 2)) for p in e['points']]
          for name, e in shown},
      x_label=_X, y_label='regret (tokens)')
  return (
      '## Success within so many tokens\n\nThe newest answer that was finished '
      'by then counts. `to the answer`: tokens before the mark of right '
      'answers. The regret is the sum, over the tokens up to the last column, '
      'of the best success that a policy of the table reaches with the same '
      'solver and split minus the success within as many. Brackets are 95% '
      'intervals, as above.\n\n'
      + tables.table(
          'policy | solver | split | tokens | to the answer'
          + ''.join(f' | within {t} %' for t in grid) + ' | regret', [
              [e['policy'], e['solver'], e['split'], e['tokens'],
               e['to_answer'], *(p['within'] for p in e['points']),
               _regret(e['points'][-1])] for e in entries])
      + _minus(entries, grid)
      + '\n![success within t](within.png)\n\n![regret](regret.png)\n')


def _minus(entries, grid) -> str:
  """Differences to the start, with intervals over seeds where there are any."""
  rows = []
  for e in entries:
    gaps = [point['minus_start'] for point in e['points']]
    if None not in gaps:
      rows.append([e['policy'], e['solver'], e['split'], *(
          _gap(gap) for gap in gaps)])
  return '' if not rows else (
      '\nMinus the start, paired by problem, in points:\n\n' + tables.table(
          'policy | solver | split' + ''.join(f' | {t}' for t in grid), rows))


def _regret(point: Mapping) -> str:
  seen = tables.cell(point['regret'])
  if point['regret_ci95'] is None:
    return seen
  low, high = point['regret_ci95']
  return f'{seen} [{low:.1f}, {high:.1f}]'


def _gap(gap: Mapping) -> dict:
  low, high = gap['seeds_ci95'] or gap['ci95']
  return dict(estimate=gap['success'], low=low, high=high)
