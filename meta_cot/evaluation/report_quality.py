# SPDX-License-Identifier: Apache-2.0
"""The table that says how good values are, and its plots."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from meta_cot.evaluation import plots
from meta_cot.evaluation import quality
from meta_cot.evaluation import tables
from meta_cot.runtime import files

_AUCS = {  # key of a source -> title, what is positive
    'reachable': ('Reachability', 'states from which the task says that a '
                  'solution goes on'),
    'target': ('Targets', 'every state, as much as its target says; the rest '
               'of it is negative')}
_FORMATS = ('png', 'svg')


def write(directory: epath.Path, title: str, summary: Mapping) -> None:
  """Writes summary.json, report.md and plots, both png and svg.

  Args:
    directory: made if missing.
    title: of the report.
    summary: of `quality.summarise`.
  """
  files.write_json(directory / 'summary.json', dict(summary))
  sources = summary['sources']
  for suffix in _FORMATS:
    plots.calibration(directory / f'calibration.{suffix}', {
        name: [(b['value'], b['target']) for b in source['calibration']]
        for name, source in sources.items() if name != quality.CONSTANT})
    for key in _AUCS:
      if curves := _curves(sources, key):
        plots.by_depth(
            directory / f'auc_{key}.{suffix}', curves, f'AUC, {key}')
  parts = [f'# {title}\n', _errors(summary), _aucs(summary),
           '## Calibration\n\nTen bins of equal count by value: the mean '
           'target beside the mean value.\n\n![calibration](calibration.png)\n',
           tables.PAGE]
  files.write_atomic(
      directory / 'report.md', '\n'.join(filter(None, parts)))


def _curves(sources, key: str) -> dict[str, list[plots.Point]]:
  curves = {
      name: [
          (int(depth), *_three(found))
          for depth, found in (source['auc'][key] or {}).items() if found]
      for name, source in sources.items() if name != quality.CONSTANT}
  return {name: points for name, points in curves.items() if points}


def _three(found: Mapping) -> tuple[float, float, float]:
  return found['estimate'], found['low'], found['high']


def _errors(summary) -> str:
  rows = [
      [name, *map(_number, (
          source['mae'], source['minus_constant']['mae'], source['brier'],
          source['minus_constant']['brier'], source['auc']['verdict']))]
      for name, source in summary['sources'].items()]
  return (
      f'{summary["num_states"]} states of {summary["num_problems"]} problems, '
      f'{summary["num_ends"]} of them finished attempts. Brackets are 95% '
      'intervals (bootstrap over problems). `constant` says the mean target '
      'of all these states.\n\n## Errors\n\nMean absolute error to the target; '
      'Brier score, to single completions that are right as often as the '
      'target says; AUC of the verdicts on finished attempts.\n\n'
      + tables.table(
          'source | error | minus constant | Brier | minus constant | '
          'AUC of verdicts', rows))


def _aucs(summary) -> str:
  parts = []
  for key, (title, words) in _AUCS.items():
    depths = [
        d for d in summary['by_depth'] if any(
            str(d['depth']) in (source['auc'][key] or {})
            for source in summary['sources'].values())]
    if not depths:
      continue
    rows = [
        [name, *(_number((source['auc'][key] or {}).get(str(d['depth'])))
                 for d in depths)]
        for name, source in summary['sources'].items()
        if name != quality.CONSTANT]
    parts.append(
        f'## {title}\n\nAUC by the number of steps, of unfinished states; '
        f'positive: {words}.\n\n' + tables.table(' | '.join(
            ['source', *(str(d['depth']) for d in depths)]), rows)
        + f'\n![AUC by depth](auc_{key}.png)\n' * bool(
            _curves(summary['sources'], key)))
  return '\n'.join(parts)


def _number(found: Mapping | None) -> Any:
  return found and '{:.3f} [{:.3f}, {:.3f}]'.format(*_three(found))
