# SPDX-License-Identifier: Apache-2.0
"""Ranks of a job under SIGKILL, SIGTERM and SIGSTOP: the same bits at the end.

  pytest -s -m slow tests/cluster_kills_test.py

prints what was hit; tests/cluster_test.py has a short one of them.
"""

import collections
import random
import signal

import pytest

from tests import cluster_kills
from tests import kills
from tests import run_comparison

NUM_KILLS = 24
KILLS_PER_POD = 3
NUM_RANKS = 2

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  folder = tmp_path_factory.mktemp('unbroken')
  cluster_kills.Job(folder / 'w', folder / 'logs').finish()
  assert not run_comparison.litter(folder / 'w')
  return folder / 'w'


def _kill_all(unbroken, folder, planned, **pods) -> list[kills.Hit]:
  """Kills, starts all ranks again, to the end; compares with the unbroken."""
  job = cluster_kills.Job(folder / 'w', folder / 'logs', NUM_RANKS, **pods)
  hits = []
  for kill in planned:
    hits += filter(None, [job.kill(kill)])
    print(kills.table(hits[-1:]).splitlines()[1], flush=True)
  job.finish()
  print('\n' + kills.table(hits))
  assert run_comparison.differences(unbroken, folder / 'w') == []
  assert run_comparison.litter(folder / 'w') == []
  assert len(run_comparison.quarantined(folder / 'w')) <= sum(
      hit.is_in_save for hit in hits)
  return hits


def _chosen(number: int, seed: int) -> list[kills.Moment]:
  moments = cluster_kills.moments()
  picked = sorted(random.Random(seed).sample(range(len(moments)), number))
  return [moments[i] for i in picked]


def test_the_same_bits_after_kills_of_ranks(unbroken, tmp_path):
  planned = cluster_kills.plan(_chosen(NUM_KILLS, seed=1), NUM_RANKS, seed=1)
  hits = _kill_all(unbroken, tmp_path, planned)
  assert len(hits) >= 20
  signals = collections.Counter(hit.kill.signals[0] for hit in hits)
  assert signals.keys() == {signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP}
  assert {'sft', 'evaluate', 'rl'} <= {hit.stage for hit in hits}
  assert {hit.kill.rank for hit in hits} == set(range(NUM_RANKS))


def test_the_same_bits_after_pods_were_killed_and_made_again(
    unbroken, tmp_path):
  planned = cluster_kills.plan(
      _chosen(KILLS_PER_POD * NUM_RANKS, seed=2), NUM_RANKS, seed=2)
  hits = _kill_all(unbroken, tmp_path, planned, hosts_per_slice=1)
  by_rank = collections.Counter(hit.kill.rank for hit in hits)
  assert set(by_rank.values()) == {KILLS_PER_POD}, by_rank
