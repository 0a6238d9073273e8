# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline with its workdir in a bucket, killed and rerun."""

import signal
import subprocess
import time

import pytest

from meta_cot.runtime import files
from meta_cot.training import metrics
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
