# SPDX-License-Identifier: Apache-2.0
"""The table of `benchmarks/phase.py`, and that its experiment is one."""

import json

from benchmarks import phase
from configs import worlds
from meta_cot.stages import experiment as experiment_lib


def _write(workdir, reached):
  """A summary as stage `episodes` leaves it, of the numbers that are read."""
  folder = workdir / 'episodes'
  folder.mkdir(parents=True)
  (folder / 'summary.json').write_text(json.dumps(dict(episodes=dict(policies={
      policy: dict(episodes=[dict(this=dict(
          success=success / k, ci95=[0, 1], by_seed=[success],
          seeds_ci95=None)) for k in (3, 2, 1)])
      for policy, success in reached.items()}))))


def test_rows_have_what_is_seen_beside_what_is_best(tmp_path):
  policies = ('sft/episodes', *phase.WEIGHTS.values())
  reached = dict(zip(policies, (0.4, 0.95, 0.9, 0.8, 0.5)))
  _write(tmp_path, reached)
  start, *found = phase.rows(tmp_path, 0.45)
  assert (start['success'], start['best']) == (0.4, None)
  assert {row['policy']: row['success'] for row in found} == {
      k: v for k, v in reached.items() if k != 'sft/episodes'}
  assert [round(row['best'], 3) for row in found] == [1, 0.937, 0.937, 0.544]
  head, line, row = phase.table([start, *found]).splitlines()
  assert head.count('|') == line.count('|') == row.count('|') == 7
  assert row.startswith('| 0.45 | 0.40 [0.00, 1.00] | 0.95 [0.00, 1.00], 1.00')
  phase.draw(tmp_path / 'phase.svg', found)
  assert (tmp_path / 'phase.svg').stat().st_size > 5_000


def test_the_experiment_has_a_stage_for_every_weight():
  experiment = experiment_lib.parse(worlds.get_config('phase'))
  leaves = {}
  for name in ('rl', 'quarter', 'half'):
    settings = experiment.groups[name].settings
    for objective in settings.objectives:
      made = settings.objective(objective)
      leaves[f'{name}/{objective}'] = float(made.weights(3, 0.0)[0])
  assert leaves == {policy: weight for weight, policy in phase.WEIGHTS.items()}
