# SPDX-License-Identifier: Apache-2.0
"""How numbers look in a report: tables, cells, points of plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from meta_cot.evaluation import plots

# The end of every report.
PAGE = ('## The run as one page\n\n`python -m meta_cot.view --workdir=WORKDIR` '
        'makes [run.html](../run.html).\n')


def point(tokens: float, rate: Mapping) -> plots.Point:
  """Places a rate in a plot, with its interval over seeds if it has one."""
  return tokens, rate['success'], *(rate.get('seeds_ci95') or rate['ci95'])


def table(header: str, rows: Sequence[Sequence[Any]]) -> str:
  """Writes Markdown; the names of columns are joined by ' | '."""
  lines = [header, ' | '.join(['---'] * len(header.split(' | ')))]
  lines += [' | '.join(map(cell, row)) for row in rows]
  return ''.join(f'| {line} |\n' for line in lines)


def cell(value: Any) -> str:
  """Writes a value: rates, differences and intervals in percent."""
  match value:
    case None:
      return '-'
    case float():
      return f'{value:.1f}'
    case [low, high]:
      return f'[{100 * low:.1f}, {100 * high:.1f}]'
    case {'success': success, 'ci95': ci95}:
      return f'{100 * success:.1f} {cell(ci95)}'
    case {'estimate': estimate, 'low': low, 'high': high}:
      return f'{100 * estimate:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]'
    case _:
      return str(value)
