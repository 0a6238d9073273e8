# SPDX-License-Identifier: Apache-2.0
"""What is reached in worlds that hide something, beside the best policies.

  source launch/environment.sh
  python -m benchmarks.worlds --workdir=runs/worlds --output=docs/results/worlds

Runs the experiments of `configs/worlds.py`, and prints a table: how often the
last attempt is right, by objective and in the controls, beside that of the best
policy for the objective, which is exact (of `expressions` it is not known).
OUTPUT.json has the rows. Arguments
that are not named here go to every experiment. What was run before is not run
again.
"""

import argparse
from collections.abc import Iterator, Sequence
import json
import pathlib
from typing import Any

from benchmarks import seeds
from configs import worlds as worlds_config
from meta_cot import tasks
from meta_cot.evaluation import runs as runs_lib
from meta_cot.evaluation import tables
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.tasks.worlds import expressions
from meta_cot.tasks.worlds import optimum
from meta_cot.tasks.worlds import world as world_lib

# By name: the variant of the experiment, and what it changes.
WORLDS = {
    'safe .30': ('safe', ()),
    'safe .60': ('safe', (
        '--config.task.default_probability=0.6', '--config.stages=' + str((
            'problems', 'traces', 'tokenizer', 'sft', 'rl', 'episodes')))),
    'harbour': ('harbour', ()), 'hilo': ('hilo', ()),
    'mastermind': ('mastermind', ()), 'expressions': ('expressions', ())}
_PARTS = {'harbour': {0: 'on the way', 1: 'detours'}}  # by difficulty
_START, _ORACLE, _BEST = 'sft/episodes', 'best of K, oracle', 'rl/erl2'
# Weights of earlier attempts.
_WEIGHTS = {_BEST: 0.0, 'rl/rl2': 1.0}


def reached(workdir: pathlib.Path, stage: str = 'episodes') -> dict[str, Any]:
  """Reads what a report says of episodes, see `evaluation.episodes`."""
  path = files.path(workdir) / stage / 'summary.json'
  return files.read_json(path)['episodes']


def rows(name: str, workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Reads what the policies of a world reach, the best one first.

  The last attempt is meant, on all problems or on those of a part.
  """
  config = files.read_json(files.path(workdir) / 'config.json')
  world = _world(config)
  controls = [
      c for c in (*worlds_config.TURNS, *worlds_config.CONTROLS)
      if f'{c}_episodes' in config['stages']]
  found = reached(workdir)
  policies = {_BEST: None} | found['policies']
  for control in dict.fromkeys(controls):
    label = f'{control}/erl2'
    policies[label] = reached(workdir, f'{control}_episodes')['policies'][label]
  for part, question in _questions(name, world).items():
    best, mine = _optima(world, question), _rates(policies, part)
    if part is None:
      equal = policies[_START]['episodes'][-1]['equal_tokens']['oracle']
      mine[_ORACLE] = equal | dict(by_seed=[equal['success']], seeds_ci95=None)
    for policy, rate in mine.items():
      yield dict(
          world=name, part=_PARTS.get(name, {}).get(part), policy=policy,
          best=best.get(policy, best[None]) if policy != _START else None,
          gap=None if policy == _BEST else _gap(mine[_BEST], rate),
          **{key: rate[key] for key in (
              'success', 'ci95', 'by_seed', 'seeds_ci95')})


def _world(config: dict[str, Any]) -> world_lib.World:
  settings = dict(config['task'])
  kind = settings.pop('kind')
  return tasks.make(
      kind, config_lib.parse(tasks.settings_of(kind), settings), config['seed'])


def _questions(
    name: str, world: world_lib.World) -> dict[int | None, str]:
  """A question of every part; those of one have the same optima."""
  found = {}
  for problem in world.problems('test', 0, world.size('test')):
    part = world.difficulty(problem.question)
    found.setdefault(part if name in _PARTS else None, problem.question)
  return dict(sorted(found.items())) if name in _PARTS else found


def _optima(
    world: world_lib.World, question: str) -> dict[str | None, float | None]:
  """By policy; None: of those to which earlier attempts say nothing."""
  number = world.settings.num_attempts
  if isinstance(world, expressions.Expressions):
    return {None: None}
  return {
      policy: optimum.best(world, question, number, weight).final
      for policy, weight in _WEIGHTS.items()} | {
          _ORACLE: optimum.unheard(world, question, number),
          None: optimum.unheard(world, question, 1)}


def _rates(
    policies: dict[str, Any], part: int | None) -> dict[str, dict[str, Any]]:
  """By policy: success of the last attempt on a part of the problems."""
  if part is None:
    return {
        policy: values['episodes'][-1]['this']
        for policy, values in policies.items()}
  return {
      policy: next(
          some['episodes'][-1] for some in values['by_difficulty']
          if some['difficulty'] == part)
      for policy, values in policies.items()}


def _gap(mine: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
  """How much more that is; seed by seed where there are as many."""
  theirs = other['by_seed']
  if len(theirs) != len(mine['by_seed']):
    theirs = [other['success']] * len(mine['by_seed'])
  by_seed = [a - b for a, b in zip(mine['by_seed'], theirs)]
  return dict(
      success=mine['success'] - other['success'], by_seed=by_seed,
      seeds_ci95=runs_lib.interval(by_seed))


def table(found: Sequence[dict[str, Any]]) -> str:
  """Makes the Markdown table of rows, in percent."""
  return tables.table(
      'world | policy | last attempt right | by seed | best | E-RL² minus it',
      [[' '.join(filter(None, (row['world'], row['part']))), row['policy'],
        _cell(row, row['seeds_ci95'] or row['ci95']),
        ', '.join(f'{100 * x:.1f}' for x in row['by_seed']),
        row['best'] and 100 * row['best'],
        row['gap'] and _cell(row['gap'], row['gap']['seeds_ci95'])]
       for row in found])


def _cell(rate: dict[str, Any], interval: Sequence[float] | None) -> str:
  seen = f'{100 * rate["success"]:.1f}'
  return f'{seen} {tables.cell(interval)}' if interval else seen


def main(argv: list[str] | None = None) -> None:
  """Runs what is missing, and writes rows and table."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument(
      '--worlds', default=','.join(WORLDS), help='which, between commas')
  arguments, more = parser.parse_known_args(argv)
  found, names = [], arguments.worlds.split(',')
  if unknown := [name for name in names if name not in WORLDS]:
    parser.error(f'--worlds: got {unknown[0]!r}; '
                 f'{config_lib.nearest(unknown[0], tuple(WORLDS))}.')
  for name in names:
    variant, changes = WORLDS[name]
    workdir = arguments.workdir / name.replace(' ', '')
    seeds.run(f'configs/worlds.py:{variant}', workdir, (*changes, *more))
    found += rows(name, workdir)
  arguments.output.with_suffix('.json').write_text(
      json.dumps(found, indent=1) + '\n')
  print(table(found))


if __name__ == '__main__':
  main()
