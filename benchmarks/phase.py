# SPDX-License-Identifier: Apache-2.0
"""What the weight of earlier attempts does to the last one, world by world.

  source launch/environment.sh
  python -m benchmarks.phase --workdir=runs/phase --output=docs/results/phase

Runs `configs/worlds.py:phase` once for every probability that the default code
is right, and prints a table: the rate at which the last attempt is right, by
the weight, beside that of the best policy for this weight. OUTPUT.json has the
rows, OUTPUT.svg the picture. Intervals (95%) are over seeds, with one seed over
problems. What was run before is not run again.
"""

import argparse
from collections.abc import Iterator, Sequence
import json
import pathlib
from typing import Any

from benchmarks import seeds
from benchmarks import worlds
from configs import tasks
from meta_cot.evaluation import plots
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.tasks.worlds import optimum
from meta_cot.tasks.worlds import safe

# Weight of earlier attempts: policy of the report.
WEIGHTS = {0.0: 'rl/erl2', 0.25: 'quarter/weighted', 0.5: 'half/weighted',
           1.0: 'rl/rl2'}
_START = 'sft/episodes'


def rows(workdir: pathlib.Path, probability: float) -> Iterator[dict[str, Any]]:
  """Reads what the policies of a world reach, the start first."""
  found = worlds.reached(workdir)['policies']
  world = _world(probability)
  number = world.settings.num_attempts
  question = next(world.problems('test', 0, 1)).question
  for weight, policy in ((None, _START), *WEIGHTS.items()):
    last = found[policy]['episodes'][number - 1]['this']
    yield dict(
        probability=probability, weight=weight, policy=policy,
        success=last['success'], ci95=last['ci95'], by_seed=last['by_seed'],
        seeds_ci95=last['seeds_ci95'],
        best=None if weight is None else optimum.best(
            world, question, number, weight).final)


def _world(probability: float) -> safe.Safe:
  group = tasks.safe()
  group.default_probability = probability
  settings = {key: value for key, value in group.items() if key != 'kind'}
  return safe.make(config_lib.parse(safe.Settings, settings), 0)


def table(found: Sequence[dict[str, Any]]) -> str:
  """Makes the Markdown table of rows."""
  lines = [
      '| default right | ' + ' | '.join(
          ['start', *(f'weight {w:g}: seen, best' for w in WEIGHTS)]) + ' |',
      '|---' * (2 + len(WEIGHTS)) + '|']
  for probability in sorted({row['probability'] for row in found}):
    cells = [row for row in found if row['probability'] == probability]
    lines.append(f'| {probability:.2f} | ' + ' | '.join(
        _cell(row) for row in cells) + ' |')
  return '\n'.join(lines)


def _cell(row: dict[str, Any]) -> str:
  low, high = row['seeds_ci95'] or row['ci95']
  seen = f'{row["success"]:.2f} [{low:.2f}, {high:.2f}]'
  return seen if row['best'] is None else f'{seen}, {row["best"]:.2f}'


def draw(path: pathlib.Path, found: Sequence[dict[str, Any]]) -> None:
  """Draws success against the probability, a line a weight."""
  lines = {
      f'weight {weight:g}': [
          (100 * row['probability'], row['success'],
           *(row['seeds_ci95'] or row['ci95']))
          for row in found if row['weight'] == weight] for weight in WEIGHTS}
  plots.lines(
      files.path(path), lines, x_label='the default code is right, %',
      y_label='last attempt right', title='Weight of earlier attempts',
      is_log=False, is_rate=True)


def main(argv: list[str] | None = None) -> None:
  """Runs what is missing, and writes rows, table and picture."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument(
      '--probabilities', default='0.15,0.3,0.45,0.6',
      help='that the default is right, between commas')
  arguments, more = parser.parse_known_args(argv)
  found = []
  for probability in map(float, arguments.probabilities.split(',')):
    workdir = arguments.workdir / f'{probability:g}'
    seeds.run('configs/worlds.py:phase', workdir, (
        f'--config.task.default_probability={probability}', *more))
    found += rows(workdir, probability)
  arguments.output.with_suffix('.json').write_text(
      json.dumps(found, indent=1) + '\n')
  draw(arguments.output.with_suffix('.svg'), found)
  print(table(found))


if __name__ == '__main__':
  main()
