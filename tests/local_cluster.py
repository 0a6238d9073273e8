# SPDX-License-Identifier: Apache-2.0
"""Starts launch/local_cluster.sh and looks after its processes."""

import contextlib
import os
import pathlib
import signal
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
LAUNCHER = ROOT / 'launch' / 'local_cluster.sh'


def environment(num_devices: int, **more: str) -> dict[str, str]:
  """So many devices on a CPU in every process."""
  return os.environ | {
      'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(num_devices)} | more


def _restore_signals() -> None:
  """What tests run under may ignore them, and a shell cannot change that."""
  for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)


def start(num_processes, command, logs, *, num_devices=1, **more):
  """Starts the launcher; it is alone in its group, as in a terminal."""
  return subprocess.Popen(
      [LAUNCHER, str(num_processes), '--', *command], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
      preexec_fn=_restore_signals,
      env=environment(num_devices, LOG_DIR=str(logs), **more))


def run(num_processes, command, logs, **settings):
  """Returns exit code, output and errors of the launcher."""
  process = start(num_processes, command, logs, **settings)
  out, err = process.communicate()
  return process.returncode, out, err


def pid(logs: pathlib.Path, rank: int) -> int:
  """The number of a rank's process."""
  return int((logs / f'rank-{rank}.pid').read_text())


def alive(logs: pathlib.Path, num_ranks: int) -> list[int]:
  """The ranks whose process is there, and not dead and unburied."""
  states = {}
  for rank in range(num_ranks):
    stat = pathlib.Path(f'/proc/{pid(logs, rank)}/stat')
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      states[rank] = stat.read_text().split()[2]
  return [rank for rank, state in states.items() if state != 'Z']
