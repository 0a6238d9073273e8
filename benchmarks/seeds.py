# SPDX-License-Identifier: Apache-2.0
"""What an experiment reaches with several seeds.

  source launch/environment.sh
  python -m benchmarks.seeds --config=configs/loops.py:star_tiny \
      --workdir=runs/star --output=docs/results/star

Runs the experiment in WORKDIR/SEED for every seed, which is that of problems,
parameters, data order and samples, and prints a table of what its reports
(stages of kind `evaluate`) say: means over seeds, their 95% intervals
(Student's t), and differences to the reference, seed by seed. OUTPUT.json has
the rows. Arguments that are not named here go to every run. What was run before
is not run again.
"""

import argparse
from collections.abc import Iterator, Sequence
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from meta_cot.evaluation import runs as runs_lib
from meta_cot.evaluation import tables
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

_KEY = ('stage', 'split', 'solver', 'policy')


def run(config: str, workdir: pathlib.Path, more: Sequence[str]) -> None:
  """Runs an experiment.

  Raises:
    UserError: it failed; its messages are above.
  """
  workdir.parent.mkdir(parents=True, exist_ok=True)
  command = [
      sys.executable, '-m', 'meta_cot.main', f'--config={config}',
      f'--workdir={workdir}', *more]
  if code := subprocess.run(command).returncode:
    raise config_lib.UserError(
        f'{" ".join(command[1:])}: exit code {code}; its messages are above.')


def rows(
    workdirs: Sequence[pathlib.Path], reference: str | None = None
) -> Iterator[dict[str, Any]]:
  """Yields a row for everything that the reports of all workdirs have.

  Args:
    workdirs: one a seed.
    reference: the policy that others are compared with; None: that of the
      report. Solver and split are the same.

  Returns:
    `stage`, `split`, `solver`, `policy`; `success`, its `ci95` and `by_seed`;
    `minus`, the same of the difference to the reference at the same problems,
    where there is one; `tokens`, and `means` of what else was counted of an
    answer.
  """
  found = [dict(_entries(workdir)) for workdir in workdirs]
  for key in found[0]:
    each = [entries[key] for entries in found if key in entries]
    if len(each) < len(found):
      continue
    beside = (*key[:-1], reference or (each[0]['reference'] or (None,))[0])
    success = [entry['success'] for entry in each]
    gap = None
    if beside != key and all(beside in entries for entries in found):
      gap = _mean([mine - entries[beside]['success'] for mine, entries in zip(
          success, found, strict=True)])
    yield dict(zip(_KEY, key)) | _mean(success) | dict(
        minus=gap, tokens=_mean([entry['mean_tokens'] for entry in each]),
        means={name: _mean([entry['means'].get(name) for entry in each])
               for name in each[0]['means']})


def _entries(
    workdir: pathlib.Path) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
  """By stage, split, solver and policy: what a report says."""
  folder = files.path(workdir)
  config = files.read_json(folder / 'config.json')
  for stage in config['stages']:
    if config[stage]['kind'] != 'evaluate':
      continue
    summary = files.read_json(folder / stage / 'summary.json')
    for entry in summary['success']:
      key = (stage, *(entry[name] for name in _KEY[1:]))
      yield key, entry | dict(reference=summary['reference'])


def _mean(values: Sequence[float | None]) -> dict[str, Any] | None:
  """A mean over seeds; None where one of them has no such number."""
  if None in values:
    return None
  return dict(
      success=float(np.mean(values)), by_seed=list(values),
      ci95=runs_lib.interval(values))


def table(found: Sequence[dict[str, Any]]) -> str:
  """Makes the Markdown table of rows; rates in percent."""
  counted = list(dict.fromkeys(name for row in found for name in row['means']))
  return tables.table(
      ' | '.join(('stage', 'split', 'solver', 'policy', 'solved %', 'by seed',
                  'minus the reference', 'tokens', *counted)),
      [[*(row[name] for name in _KEY), _rate(row),
        ', '.join(f'{100 * x:.1f}' for x in row['by_seed']),
        row['minus'] and _rate(row['minus']), *(
            mean and mean['success'] for mean in (
                row['tokens'], *map(row['means'].get, counted)))]
       for row in found])


def _rate(rate: dict[str, Any]) -> str:
  seen = f'{100 * rate["success"]:.1f}'
  return seen if rate['ci95'] is None else f'{seen} {tables.cell(rate["ci95"])}'


def main(argv: list[str] | None = None) -> None:
  """Runs what is missing, and writes rows and table."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--config', required=True)
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument(
      '--seeds', default='0,1,2', help='which, between commas')
  parser.add_argument(
      '--reference', help='the policy that others are compared with')
  arguments, more = parser.parse_known_args(argv)
  workdirs = []
  for seed in map(int, arguments.seeds.split(',')):
    workdirs.append(arguments.workdir / str(seed))
    run(arguments.config, workdirs[-1], (f'--config.seed={seed}', *more))
  found = list(rows(workdirs, arguments.reference))
  arguments.output.with_suffix('.json').write_text(
      json.dumps(found, indent=1) + '\n')
  print(table(found))


if __name__ == '__main__':
  main()
