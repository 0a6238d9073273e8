# SPDX-License-Identifier: Apache-2.0
"""Runs that differ in their seed: one policy in a report, with its spread."""

import math
import statistics

import pytest

from meta_cot.evaluation import report
from meta_cot.evaluation import runs
from meta_cot.evaluation import summary as summary_lib

# policy -> seed -> which of four problems are solved
SOLVED = {
    'sft/traces': {0: (1, 1, 1, 0), 1: (1, 1, 0, 0), 2: (1, 1, 1, 1)},
    'sft/plain': {0: (1, 0, 0, 0), 1: (0, 0, 0, 0), 2: (1, 0, 0, 1)},
    'old': {0: (1, 0, 1, 0)}}


def _rows():
  for policy, seeds in SOLVED.items():
    for seed, solved in seeds.items():
      for place, is_correct in enumerate(solved):
        ilr = None if policy == 'sft/plain' else 0.5 * is_correct + seed
        yield dict(
            version=1, policy=policy, seed=seed, step=7, trained_tokens=10.0,
            solver='greedy', split='test', problem=str(place), place=place,
            attempt=0, episode=1, is_correct=bool(is_correct),
            is_finished=True, num_tokens=10.0 + seed, answer=None, value=None,
            seconds=1.0, occupancy=1.0, cost=None, details=dict(
                text='', error='none' if is_correct else 'format', ilr=ilr,
                nodes=place if place else None))


def _summary():
  return summary_lib.of_rows(list(_rows()), reference=('sft/traces', 'greedy'))


def test_runs_are_one_policy():
  first, plain, old = _summary()['success']
  assert (first['policy'], first['seeds']) == ('sft/traces', [0, 1, 2])
  assert first['by_seed'] == [0.75, 0.5, 1.0] and first['success'] == 0.75
  half = 4.303 * statistics.stdev([0.75, 0.5, 1.0]) / math.sqrt(3)
  assert first['seeds_ci95'] == pytest.approx([0.75 - half, 1.0])
  assert first['mean_tokens'] == 11.0 and first['errors'] == dict(format=3)
  assert first['minus'] is None
  # Paired by seed: -0.5, -0.5, -0.5.
  gap = plain['minus']
  assert [gap[k] for k in ('estimate', 'low', 'high')] == [-0.5] * 3
  # One run beside three: over problems.
  assert old['minus']['estimate'] == -0.25 and 'seeds_ci95' not in old
  assert old['seeds'] == [0] and old['means_ci95']['ilr'] is None


def test_measures_that_are_not_there_are_left_out():
  first, plain, _ = _summary()['success']
  assert first['means']['ilr'] == pytest.approx(0.375 + 1)
  low, high = first['means_ci95']['ilr']
  assert low < 0 and high > 2  # not cut: it is no rate
  assert 'ilr' not in plain['means'] and 'text' not in plain['means']
  assert plain['means']['nodes'] == 2.0


def test_a_report_shows_both_intervals(tmp_path):
  report.write(tmp_path, 'Seeds', _summary())
  text = (tmp_path / 'report.md').read_text()
  assert '| seeds | over seeds |' in text and 'over seeds`' in text
  row, *_ = (x for x in text.splitlines() if x.startswith('| sft/plain'))
  assert '| 3 | [0.0, 87.1] | -50.0 [-50.0, -50.0] |' in row
  assert '| - |' in row  # no ilr
  row, *_ = (x for x in text.splitlines() if x.startswith('| sft/traces'))
  assert '| 1.38 [' in row


def test_one_run_has_no_interval():
  assert runs.interval([0.5]) is None
  assert runs.interval([0.0, 1.0]) == pytest.approx([0.5 - 6.353, 6.853])
