# SPDX-License-Identifier: Apache-2.0
"""The Markdown table of docs/benchmarks.md from printed lines.

  python -m benchmarks.table results.jsonl

Ratios are the rival's seconds over ours, median (least-greatest) of the rounds.
"""

from collections.abc import Iterable
import json
import pathlib
import sys

_HEADER = (
    '| workload | model | rival | ratio of seconds | ratio of CPU seconds '
    '| ours, tokens/s | rival, tokens/s | date |\n'
    '|---|---|---|---|---|---|---|---|')


def make(lines: Iterable[str]) -> str:
  """One row a ratio, in the order of the lines, which are JSON."""
  rows, rates = [_HEADER], {}
  for line in map(json.loads, lines):
    key = line['workload'], line['model'], line['dtype']
    if 'contestant' in line:
      rates[*key, line['contestant']] = line['tokens_per_second']
      continue
    model = line['model'] if line['dtype'] == 'float32' else (
        f'{line["model"]}, {line["dtype"]}')
    ours, rival = rates[*key, 'ours'], rates[*key, line['ratio_to']]
    rows.append(
        f'| {line["workload"]} | {model} | {line["ratio_to"]} '
        f'| {_words(line["ratio"])} | {_words(line["cpu_ratio"])} '
        f'| {ours:,.0f} | {rival:,.0f} | {line["date"]} |')
  return '\n'.join(rows)


def _words(ratio: dict[str, float]) -> str:
  return f'{ratio["median"]:.2f} ({ratio["min"]:.2f}-{ratio["max"]:.2f})'


if __name__ == '__main__':
  print(make(pathlib.Path(sys.argv[1]).read_text().splitlines()))
