# SPDX-License-Identifier: Apache-2.0
"""The part of a report about one budget for every strategy."""

from collections.abc import Mapping, Sequence
from typing import Any

from meta_cot.evaluation import tables


def write(entries: Sequence[Mapping]) -> str:
  """Returns the table of what was asked and drawn; '' without entries.

  An entry has policy, seed, solver, split and num_problems; asked and drawn,
  tokens of a problem, with drawn_ci95 and error; sizes, one or two groups of
  settings, and the share of the second; success and ci95.
  """
  if not entries:
    return ''
  return (
      '## One budget\n\nTokens of a problem, asked and drawn on average, with '
      'the 95% interval over problems. The two sizes were found on validation '
      'problems; the second one is that of the named share of the problems. '
      'Solved is a search whose answer is right, or a problem '
      'that any of the attempts solves.\n\n'
      + tables.table(
          'policy | seed | solver | split | problems | asked | drawn | '
          'difference % | sizes | solved %', [
              [e['policy'], e['seed'], e['solver'], e['split'],
               e['num_problems'], e['asked'], _drawn(e),
               f'{100 * e["error"]:+.1f}', _sizes(e), e] for e in entries]))


def _drawn(entry: Mapping[str, Any]) -> str:
  low, high = entry['drawn_ci95']
  return f'{entry["drawn"]:.1f} [{low:.1f}, {high:.1f}]'


def _sizes(entry: Mapping[str, Any]) -> str:
  """Both sizes, with the share of the second."""
  low, high = (
      ', '.join(f'{name} {value}' for name, value in sizes.items())
      for sizes in entry['sizes'])
  return f'{low}; {100 * entry["share"]:.0f}%: {high}'
