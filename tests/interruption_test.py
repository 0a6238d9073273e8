# SPDX-License-Identifier: Apache-2.0
"""What a process does with SIGTERM and SIGINT."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from meta_cot import sharding
from meta_cot.runtime import interruption

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = '''
import signal, sys, time
signal.signal(signal.SIGHUP, signal.{hangup})
from meta_cot.runtime import interruption
interruption.install()
print('ready', flush=True)
if sys.argv[1] == 'deferred':
  with interruption.deferred():
    for _ in range(4):
      time.sleep(0.5)
    print('finished', flush=True)
time.sleep(60)
'''


def _start(mode, hangup='SIG_DFL'):
  program = PROGRAM.format(hangup=hangup)
  process = subprocess.Popen(
      [sys.executable, '-c', program, mode], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'})
  assert process.stdout.readline() == 'ready\n'
  time.sleep(0.2)
  return process


@pytest.mark.parametrize(
    'number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_with_the_documented_code(number):
  process = _start('plain')
  process.send_signal(number)
  output, error = process.communicate(timeout=30)
  assert process.returncode == interruption.EXIT_INTERRUPTED == 75
  assert output == ''
  assert number.name in error and 'Traceback' not in error


def test_under_nohup_a_lost_connection_is_ignored():
  process = _start('deferred', hangup='SIG_IGN')
  process.send_signal(signal.SIGHUP)
  assert process.stdout.readline() == 'finished\n'
  assert process.poll() is None
  process.kill()
  process.communicate()


def test_a_deferred_signal_waits_for_the_end_of_the_block():
  process = _start('deferred')
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=30)
  assert output == 'finished\n'
  assert process.returncode == 75


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(number):
  process = _start('deferred')
  process.send_signal(signal.SIGTERM)
  time.sleep(0.3)
  process.send_signal(number)
  output, _ = process.communicate(timeout=30)
  assert output == ''
  assert process.returncode == 128 + number


def test_flags_reach_every_device():
  mesh = sharding.make_mesh(sharding.MeshConfig(2, 2, 2))
  assert sharding.put_flag(True, mesh).tolist() == [1] * len(jax.devices())
  assert sharding.put_flag(False, mesh).tolist() == [0] * len(jax.devices())
