# SPDX-License-Identifier: Apache-2.0
"""A clone of the launcher that talks to the cloud of tests/fake_gcloud.

Its ssh runs the commands here, each worker in a home folder of its own, so that
setting up, starting, watching and stopping are the real thing; only the Python
of a worker is a stand-in that plays a test's program.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = {
    'PROJECT': 'my-project', 'ZONE': 'us-east5-a', 'NAME': 'pod',
    'ACCELERATOR_TYPE': 'v5p-16', 'WORKDIR': 'gs://bucket/runs/a',
    'CONFIG': 'configs/countdown.py:pod', 'SSH_RETRIES': '3',
    'MAX_RESTARTS': '2', 'WAIT_SECONDS': '20', 'POLL_SECONDS': '0.2',
    'WATCH_SECONDS': '0.05', 'RETRY_SECONDS': '0.05', 'STOP_SECONDS': '10',
    'FAIL_SECONDS': '1', 'SETTLE_SECONDS': '0.5'}
# The stand-in for a worker's Python: makes environments, "installs", and plays
# the test's program in place of meta_cot.main.
PYTHON = r'''#!/usr/bin/env bash
set -eu
case "$1 ${2:-}" in
  '-c '*) ;;
  '-m venv') mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  '-m pip')
    echo "$FAKE_WORKER" >>"$FAKE_CLOUD/pip"
    if [[ -f $FAKE_CLOUD/no_pip && $FAKE_WORKER == "$(<"$FAKE_CLOUD/no_pip")" ]]
    then
      echo 'ERROR: No matching distribution found for jax[tpu]'
      exit 1
    fi ;;
  '-m meta_cot.main') shift 2; source "$FAKE_CLOUD/program" ;;
  *) echo "unexpected: $*"; exit 9 ;;
esac
'''
COUNTING = r'''
echo "rank $META_COT_PROCESS_ID starts with $*"
for i in 1 2 3; do echo "step $i"; sleep 0.05; done
'''
# Runs until it is told to end, and then saves.
ENDLESS = r'''
trap 'echo saving; sleep 0.2; echo saved; exit 75' TERM
echo "rank $META_COT_PROCESS_ID runs"
while true; do sleep 0.05; done
'''


class Cloud:
  """A clone of the launcher, its settings and the cloud that it talks to."""

  def __init__(self, folder: pathlib.Path, template: 'Cloud | None' = None):
    self.started: list[subprocess.Popen] = []
    self.template = template  # a cloud whose TPU is there and set up
    self.repository = folder / 'clone'
    self.state = folder / 'cloud'
    (self.state / 'bin').mkdir(parents=True)
    (self.state / 'bin' / 'python3.11').write_text(PYTHON)
    (self.state / 'bin' / 'python3.11').chmod(0o755)
    path = folder / 'path'
    path.mkdir()
    (path / 'gcloud').write_text(
        f'#!/bin/sh\nexec {sys.executable} -S -E '
        f'{ROOT / "tests" / "fake_gcloud"} "$@"\n')
    (path / 'gcloud').chmod(0o755)
    self.environment = {
        'PATH': f'{path}:/usr/local/bin:/usr/bin:/bin', 'HOME': str(folder),
        'FAKE_CLOUD': str(self.state)}
    self.write_settings()
    self.scenario()
    self.program(COUNTING)
    if template is None:
      self._make_clone()
    else:
      shutil.copytree(
          template.repository, self.repository, dirs_exist_ok=True,
          ignore=shutil.ignore_patterns('runs', 'tpu.env'))

  def _make_clone(self) -> None:
    shutil.copytree(
        ROOT / 'launch', self.repository / 'launch', dirs_exist_ok=True)
    for name in ('setup.py', 'constraints.txt', 'meta_cot/version.py'):
      (self.repository / name).parent.mkdir(exist_ok=True)
      shutil.copy(ROOT / name, self.repository / name)
    (self.repository / '.gitignore').write_text('runs/\n*.env\n')
    self.git('init', '--quiet')
    self.git('add', '.')
    self.git('commit', '--quiet', '-m', 'all')

  def git(self, *words: str) -> str:
    return subprocess.run(
        ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *words],
        cwd=self.repository, check=True, capture_output=True,
        text=True).stdout.strip()

  def write_settings(self, **changes: str | None) -> None:
    values = SETTINGS | changes
    path = self.repository / 'launch' / 'tpu.env'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('# settings\n' + ''.join(
        f'{k}={v}\n' for k, v in values.items() if v is not None))

  def scenario(self, **values) -> None:
    (self.state / 'scenario.json').write_text(json.dumps(values))

  def program(self, text: str) -> None:
    (self.state / 'program').write_text(text)

  def run(self, *words: str, code: int | None = 0,
          timeout: float = 120) -> subprocess.CompletedProcess:
    """One command of the launcher; `code` is the exit code it must have."""
    result = subprocess.run(
        ['launch/tpu.sh', *words], cwd=self.repository, env=self.environment,
        capture_output=True, text=True, timeout=timeout, check=False,
        stdin=subprocess.DEVNULL)
    if code is not None:
      assert result.returncode == code, result.stdout + result.stderr
    return result

  def refused(self, *words: str, code: int) -> str:
    """The error of a command that must fail: the only line on stderr."""
    errors = self.run(*words, code=code).stderr
    assert errors.count('\n') == 1, errors
    assert errors.startswith('error: ')
    return errors

  def start(self, *words: str) -> subprocess.Popen:
    """The same in the background."""
    self.started.append(subprocess.Popen(
        ['launch/tpu.sh', *words], cwd=self.repository, env=self.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL))
    return self.started[-1]

  def ready(self) -> None:
    """What create and setup leave; copied, they take a second each."""
    for name in ('resource.json', 'homes'):
      source = self.template.state / name
      (shutil.copytree if source.is_dir() else shutil.copy)(
          source, self.state / name)
    shutil.copytree(
        self.template.repository / 'runs', self.repository / 'runs')

  def calls(self, *words: str) -> list[list[str]]:
    """Calls of gcloud that hold all of these words."""
    lines = (self.state / 'calls.jsonl').read_text().splitlines()
    return [c for c in map(json.loads, lines) if set(words) <= set(c)]

  def log(self, job: str, rank: int) -> str:
    return (self.repository / 'runs' / 'pod' / 'logs' / job
            / f'rank-{rank:03d}.log').read_text()

  def close(self) -> None:
    """Ends what a test that failed left running."""
    for process in self.started:
      process.kill()
      process.wait()
    names = [
        path.name.rpartition('.')[2] for path in self.state.glob('sessions/*')]
    names += [
        path.read_text().split()[0]
        for path in self.state.glob('homes/*/*/meta_cot/run/pid')
        if not path.with_name('exit_code').exists()]
    for name in names:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(int(name), signal.SIGKILL)


def wait_for(condition, seconds: float = 40) -> None:
  """Until the condition holds."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, 'nothing happened'
    time.sleep(0.05)


class Engine(Cloud):
  """The same by way of Compute Engine."""

  def write_settings(self, **changes: str | None) -> None:
    super().write_settings(**({'VIA': 'compute-engine'} | changes))

  def resource(self) -> dict:
    """Groups, instances, template and policy that there are."""
    return json.loads((self.state / 'resource.json').read_text())


def ready_cloud(folder: pathlib.Path, kind: type[Cloud] = Cloud) -> Cloud:
  """A cloud whose TPU is there and set up: the template of others."""
  made = kind(folder)
  made.run('create')
  made.run('setup')
  return made
