# SPDX-License-Identifier: Apache-2.0
"""The table of `benchmarks/seeds.py`, of reports as stages leave them."""

import json
import sys

import pytest

from benchmarks import seeds
from configs import arms
from meta_cot.evaluation import runs
from meta_cot.settings import config as config_lib

_REFERENCE = 'sft/solution_only'


def _write(workdir, reached, tokens=(9.0, 8.0)):
  """A workdir as a seed leaves it, of the numbers that are read."""
  (workdir / 'table').mkdir(parents=True)
  (workdir / 'config.json').write_text(
      arms.get_config('backtracks_tiny').to_json_best_effort())
  (workdir / 'table' / 'summary.json').write_text(json.dumps(dict(
      reference=[_REFERENCE, 'greedy'], success=[
          dict(policy=policy, solver=solver, split='test', success=success,
               mean_tokens=number, means=dict(backtracks=2 * number))
          for (policy, solver, success), number in zip(reached, tokens)])))


def _three(tmp_path, reached):
  workdirs = [tmp_path / str(seed) for seed in range(len(reached))]
  for workdir, rates in zip(workdirs, reached):
    _write(workdir, [
        (policy, 'greedy', rate) for policy, rate in zip(
            (_REFERENCE, 'more/backtracks'), rates)])
  return workdirs


def test_rows_are_means_over_seeds_and_differences_seed_by_seed(tmp_path):
  workdirs = _three(tmp_path, ((0.1, 0.4), (0.2, 0.6), (0.3, 0.5)))
  start, more = seeds.rows(workdirs)
  assert (more['stage'], more['split'], more['solver'], more['policy']) == (
      'table', 'test', 'greedy', 'more/backtracks')
  assert start['minus'] is None
  assert more['success'] == pytest.approx(0.5)
  assert more['by_seed'] == [0.4, 0.6, 0.5]
  assert more['ci95'] == pytest.approx(runs.interval([0.4, 0.6, 0.5]))
  assert more['minus']['by_seed'] == pytest.approx([0.3, 0.4, 0.2])
  assert more['tokens']['success'] == 8.0
  assert more['means']['backtracks']['by_seed'] == [16.0] * 3
  # Another reference, and the table.
  start, more = seeds.rows(workdirs, reference='more/backtracks')
  assert more['minus'] is None
  assert start['minus']['success'] == pytest.approx(-0.3)
  head, _, first, second = seeds.table([start, more]).splitlines()
  assert head.endswith(
      '| by seed | minus the reference | tokens | backtracks |')
  assert '| 10.0, 20.0, 30.0 | -30.0 [' in first
  assert second.endswith('| - | 8.0 | 16.0 |')


def test_what_a_seed_lacks_has_no_row(tmp_path):
  workdirs = _three(tmp_path, ((0.1, 0.4), (0.2,)))
  (row,) = seeds.rows(workdirs)
  assert row['policy'] == _REFERENCE


def test_every_seed_is_a_run_with_a_workdir_of_its_own(tmp_path, monkeypatch):
  commands = []

  def run(command):
    commands.append(command)
    _write(tmp_path / 'runs' / command[-2].rpartition('=')[2], [
        (_REFERENCE, 'greedy', 0.1)])
    return seeds.subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(seeds.subprocess, 'run', run)
  seeds.main([
      '--config=configs/arms.py:backtracks_tiny', '--seeds=0,2',
      f'--workdir={tmp_path / "runs"}', f'--output={tmp_path / "out"}',
      '--config.sft.num_tokens=9'])
  assert commands == [[
      sys.executable, '-m', 'meta_cot.main',
      '--config=configs/arms.py:backtracks_tiny',
      f'--workdir={tmp_path / "runs" / str(seed)}', f'--config.seed={seed}',
      '--config.sft.num_tokens=9'] for seed in (0, 2)]
  (row,) = json.loads((tmp_path / 'out.json').read_text())
  assert row['by_seed'] == [0.1, 0.1]


def test_a_run_that_failed_ends_it(tmp_path):
  with pytest.raises(config_lib.UserError, match='exit code 2'):
    seeds.run('configs/arms.py:none', tmp_path / 'new' / '0', ())
