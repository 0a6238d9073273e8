# SPDX-License-Identifier: Apache-2.0
"""The image, its first process, and Slurm, without any of them."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def _steps() -> list[tuple[str, str]]:
  text = re.sub(r'^#.*\n', '', (ROOT / 'launch/Dockerfile').read_text(),
                flags=re.MULTILINE).replace('\\\n', '')
  return [tuple(line.split(None, 1)) for line in text.splitlines() if line]


def test_image_is_pinned_small_and_not_root():
  steps = _steps()
  names = [name for name, _ in steps]
  assert names[0] == 'FROM' and ':latest' not in steps[0][1]
  assert re.fullmatch(r'python:3\.11-slim-\w+', steps[0][1])
  user, = [words for name, words in steps if name == 'USER']
  assert user == '1000' and names.index('USER') > names.index('COPY')
  entry = json.loads(steps[-1][1])  # no shell in between
  assert names[-1] == 'ENTRYPOINT' and (ROOT / entry[1]).exists()
  for name, words in steps:
    if name == 'COPY' and words != '. .':
      for source in words.split()[:-1]:
        assert (ROOT / source).exists(), source
  ignored = (ROOT / '.dockerignore').read_text().split()
  assert {'.git', '.venv', 'runs', 'launch/*.env'} <= set(ignored)


@pytest.mark.parametrize('extras,wanted', [
    ('tpu', '.[tpu]'), ('gpu', '.[gpu,gcs]'), ('cpu', '.[gcs]'), ('x', '')])
def test_image_installs_its_extras_by_the_constraints(tmp_path, extras, wanted):
  command, = [words for name, words in _steps() if 'pip install' in words]
  (tmp_path / 'pip').write_text('#!/bin/sh\necho "$@"\n')
  (tmp_path / 'pip').chmod(0o755)
  done = subprocess.run(
      ['sh', '-c', command], text=True, capture_output=True, check=False,
      env={'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'EXTRAS': extras})
  if not wanted:
    assert done.returncode == 2 and 'must be cpu, tpu or gpu' in done.stderr
    return
  assert done.stdout == (
      f'install --constraint constraints.txt --editable {wanted}\n')


def test_first_process_passes_sigterm_on_and_keeps_the_code(tmp_path):
  program = tmp_path / 'python'
  program.write_text(
      '#!/usr/bin/env bash\ntrap "echo saved; exit 75" TERM\n'
      'echo "rank $META_COT_PROCESS_ID: $*"\n'
      'while true; do sleep 0.05; done\n')
  program.chmod(0o755)
  process = subprocess.Popen(
      ['bash', 'launch/tpu/pod.sh', '--config=a'], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, env=os.environ | {
          'META_COT_PYTHON': str(program), 'JOB_COMPLETION_INDEX': '1',
          'META_COT_SLICE': '2', 'META_COT_HOSTS_PER_SLICE': '4'})
  assert process.stdout.readline() == 'rank 9: -m meta_cot.main --config=a\n'
  process.send_signal(signal.SIGTERM)
  started = time.monotonic()
  out, _ = process.communicate(timeout=30)
  assert process.returncode == 75 and time.monotonic() - started < 20
  assert out.startswith('saved\n[pod] ended with code 75 at ')


@pytest.mark.parametrize('code', [0, 75, 7])
def test_slurm_numbers_its_tasks_and_queues_a_saved_run_again(tmp_path, code):
  programs = {
      'scontrol': 'if [ "$1" = show ]; then echo node3; echo node4; '
                  'else echo "$@" >"$LOG"; fi',
      'srun': 'shift 2; for i in 0 1; do SLURM_PROCID=$i "$@" || exit; done',
      'python': 'echo "$META_COT_PROCESS_ID of $META_COT_NUM_PROCESSES at '
                '$META_COT_COORDINATOR: $*"; exit $CODE'}
  for name, text in programs.items():
    (tmp_path / name).write_text(f'#!/bin/sh\n{text}\n')
    (tmp_path / name).chmod(0o755)
  done = subprocess.run(
      ['bash', 'launch/slurm.sbatch', '--config=a b'], cwd=ROOT, text=True,
      capture_output=True, check=False, env={
          'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CODE': str(code),
          'LOG': str(tmp_path / 'log'), 'META_COT_PYTHON': 'python',
          'SLURM_JOB_ID': '12', 'SLURM_NNODES': '2',
          'SLURM_JOB_NODELIST': 'node[3-4]'})
  assert done.returncode == code, done.stderr
  lines = done.stdout.splitlines()
  assert lines == [f'{i} of 2 at node3:8482: -m meta_cot.main --config=a b'
                   for i in range(2 if code == 0 else 1)]
  assert (tmp_path / 'log').exists() == (code == 75)
