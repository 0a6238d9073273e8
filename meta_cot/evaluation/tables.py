# SPDX-License-Identifier: Apache-2.0
"""Tables of Markdown, and how numbers look in them."""

from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Lays out a table."""
  lines = [header, ['---'] * len(header), *rows]
  return ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)


def percent(rate: Mapping) -> str:
  """Writes a success rate with its interval."""
  return f'{100 * rate["success"]:.1f} {interval(rate["ci95"])}'


def interval(bounds: Sequence[float] | None) -> str:
  """Writes an interval of rates; '-' for none."""
  if bounds is None:
    return '-'
  low, high = bounds
  return f'[{100 * low:.1f}, {100 * high:.1f}]'


def difference(gap: Mapping) -> str:
  """Writes a difference of success rates with its interval."""
  return (
      f'{100 * gap["estimate"]:+.1f} '
      f'[{100 * gap["low"]:+.1f}, {100 * gap["high"]:+.1f}]')


def number(value: float | None) -> str:
  """Writes a mean; '-' for none."""
  return '-' if value is None else f'{value:.1f}'
