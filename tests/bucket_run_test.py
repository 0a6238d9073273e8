# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline with its workdir in a bucket, killed and rerun."""

import signal
import subprocess
import time

import pytest

from meta_cot.runtime import files
from meta_cot.training import metrics
from tests import cluster_kills
from tests import local_cluster as cluster
from tests import run_comparison
from tests import small_run


def _start(workdir):
  command = small_run.command(
      workdir, '--config.sft.arms=traces', '--config.compilation_cache=off')
  return subprocess.Popen(
      command, cwd=small_run.ROOT, text=True, stderr=subprocess.PIPE,
      env=small_run.environment())


def _run(workdir):
  process = _start(workdir)
  _, log = process.communicate(timeout=600)
  assert process.returncode == 0, log[-3000:]


def _download(remote, folder):
  for parent, _, names in remote.walk():
    for name in names:
      path = files.path(f'gs://{parent}') / name
      files.write_atomic(
          folder / path.relative_to(remote), path.read_bytes())


@pytest.mark.slow
def test_killed_in_a_bucket_ends_like_unbroken_in_a_folder(bucket, tmp_path):
  remote = files.path(f'{bucket}/killed/run')
  process = _start(remote)
  rows = remote / 'sft' / 'traces' / 'metrics.jsonl'
  while process.poll() is None and not metrics.read(rows):
    time.sleep(0.2)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  process.stderr.close()
  _run(remote)
  _run(tmp_path / 'folder')
  _download(remote, tmp_path / 'bucket')
  assert len(list((tmp_path / 'bucket').rglob('*'))) > 40
  assert run_comparison.differences(
      tmp_path / 'folder', tmp_path / 'bucket') == []
  assert run_comparison.litter(tmp_path / 'bucket') == []


# Ranks that are killed when something appears in the bucket: in two saves of
# training, in one of reinforcement learning.
_KILLS = (
    (1, 'sft/revisions/checkpoints', '10*'),
    (0, 'sft/revisions/checkpoints', '20*'),
    (1, 'rl/erl2/seed0/checkpoints', '2*'))


@pytest.mark.slow
def test_ranks_killed_in_a_bucket_end_like_unbroken_in_a_folder(
    bucket, tmp_path):
  remote, logs = files.path(f'{bucket}/ranks/run'), tmp_path / 'logs'
  command = lambda w: cluster_kills.command(w, '--config.compilation_cache=off')
  for rank, folder, pattern in _KILLS:
    process = cluster.start(2, command(remote), logs)
    while process.poll() is None and not files.matching(
        remote / folder, pattern):
      time.sleep(0.1)
    cluster_kills.signal_rank(logs, rank, signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 137, err[-3000:]
    assert f'rank {rank} of 2 failed (exit code 137, signal 9)' in err
  code, _, err = cluster.run(2, command(remote), logs)
  assert code == 0, err[-3000:]
  code, _, err = cluster.run(2, command(tmp_path / 'folder'), logs)
  assert code == 0, err[-3000:]
  _download(remote, tmp_path / 'bucket')
  assert run_comparison.differences(
      tmp_path / 'folder', tmp_path / 'bucket') == []
  assert run_comparison.litter(tmp_path / 'bucket') == []
