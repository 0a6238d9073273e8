# SPDX-License-Identifier: Apache-2.0
"""Success against what it cost, of every procedure of a report."""

from typing import Any

from etils import epath

from meta_cot.runtime import files

BUDGETS = (
    'tokens', 'forwarded_tokens', 'flops', 'seconds', 'sequential_tokens')
_SAMPLES = 'samples'


def read(directory: epath.Path) -> list[dict[str, Any]]:
  """Reads the table behind the plots of a report; empty before there is one.

  A row is a procedure (`policy`, `solver`), the `chooser` among its `n`
  attempts, the `split`, `success` with `low` and `high` of its 95% interval,
  and what a problem cost on average, of `BUDGETS`: None where it is unknown.

  Raises:
    UserError: the summary is damaged.
  """
  path = directory / 'summary.json'
  if not path.exists():
    return []
  summary = files.read_json(path, success=list, samples=list, costs=list)
  costs = {
      (c['policy'], c['solver'], c['split'], c['n']): c
      for c in summary['costs'] if c['judge'] is None}
  rows = []
  for row in summary['success']:
    if row['solver'] != _SAMPLES:
      rows.append(_row(row, row['solver'], '', 1, row, costs, 'mean_tokens'))
  for row in summary['samples']:
    rows += [
        _row(row, _SAMPLES, chooser, row['n'], result, costs, 'tokens')
        for chooser, result in row.items()
        if isinstance(result, dict) and 'success' in result]
  return rows


def _row(row, solver, chooser, n, result, costs, tokens) -> dict[str, Any]:
  cost = costs.get((row['policy'], solver, row['split'], n), {})
  low, high = result.get('ci95') or (None, None)
  return dict(
      policy=row['policy'], solver=solver, chooser=chooser, n=n,
      split=row['split'], num_problems=row['num_problems'],
      success=result['success'], low=low, high=high) | {
          name: cost.get(name) for name in BUDGETS} | (
              {} if 'tokens' in cost else dict(tokens=row[tokens]))
