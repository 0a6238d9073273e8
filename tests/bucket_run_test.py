# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline with its workdir in a bucket, killed and rerun."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from meta_cot import files
from meta_cot.training import metrics
from tests import run_comparison

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
    '--config.arms=traces', '--config.compilation_cache=off',
    '--config.countdown.max_number=9', '--config.model.num_layers=1',
    '--config.model.embed_dim=32', '--config.model.mlp_dim=32',
    '--config.train.num_tokens=20000', '--config.train.log_every_steps=3',
    '--config.train.eval_every_steps=10', '--config.train.num_eval_batches=2',
    '--config.checkpoint.save_every_steps=10',
    '--config.evaluation.num_problems=16',
    '--config.evaluation.num_curve_problems=8',
    '--config.evaluation.batch_size=16', '--config.evaluation.num_samples=3',
    '--config.evaluation.num_trace_samples=2',
    '--config.evaluation.max_new_tokens=40')


def _start(workdir):
  command = [
      sys.executable, '-m', 'meta_cot.main',
      '--config=configs/countdown.py:tiny', f'--workdir={workdir}', *SMALL]
  return subprocess.Popen(
      command, cwd=ROOT, text=True, stderr=subprocess.PIPE,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '2'})


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
