# SPDX-License-Identifier: Apache-2.0
"""Pods of a JobSet that are killed, told to end, stopped: the same bits.

  pytest -s tests/cluster_kills_test.py -m slow

prints what was hit; tests/cluster_test.py has a short one.
"""

import collections
import signal

import pytest

from tests import cluster_kills
from tests import kills
from tests import run_comparison

# Kills in each stage.
COUNTS = dict(problems=3, traces=3, tokenizer=2, sft=8, evaluate=2, rl=4)
NUM_RANKS = 2


def _job(folder, **pods) -> cluster_kills.Job:
  return cluster_kills.Job(folder / 'w', folder / 'logs', NUM_RANKS, **pods)


@pytest.mark.slow
def test_the_same_bits_after_kills_of_ranks(tmp_path):
  _job(tmp_path / 'unbroken').finish()
  job, hits = _job(tmp_path / 'killed', hosts_per_slice=1), []
  for kill in cluster_kills.plan(
      cluster_kills.moments(COUNTS, seed=11), NUM_RANKS, seed=11):
    hits += filter(None, [job.kill(kill)])
    print(kills.table(hits[-1:]).splitlines()[1], flush=True)
  job.finish()
  unbroken, killed = tmp_path / 'unbroken' / 'w', tmp_path / 'killed' / 'w'
  assert run_comparison.differences(unbroken, killed) == []
  assert run_comparison.litter(killed) == []
  assert len(run_comparison.quarantined(killed)) <= sum(
      hit.is_in_save for hit in hits)
  assert len(hits) >= 20
  signals = {hit.kill.signals[0] for hit in hits}
  assert signals == {signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP}
  by_rank = collections.Counter(hit.kill.rank for hit in hits)
  assert min(by_rank[rank] for rank in range(NUM_RANKS)) > 5, by_rank
