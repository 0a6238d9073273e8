# SPDX-License-Identifier: Apache-2.0
"""Joining: variables, the roll call, and which host holds which rows."""

import concurrent.futures
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import countdown
from meta_cot import sharding
from meta_cot.runtime import distributed
from meta_cot.runtime import roll_call
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib

ROOT = pathlib.Path(__file__).parents[1]
GOOD = {
    roll_call.COORDINATOR: 'worker-0:1234', roll_call.NUM_PROCESSES: '4',
    roll_call.PROCESS_ID: '3'}


def test_the_variables_are_read():
  assert roll_call.settings(GOOD) == roll_call.Settings(
      host='worker-0', port=1234, num_processes=4, process_id=3,
      start_timeout=300)
  ipv6 = GOOD | {
      roll_call.COORDINATOR: '[fe80::1]:80', roll_call.START_TIMEOUT: '7'}
  found = roll_call.settings(ipv6)
  assert (found.host, found.port, found.start_timeout) == ('fe80::1', 80, 7)
  assert roll_call.settings({distributed.SWITCH: '1'}) is None


@pytest.mark.parametrize('name, value, words', [
    (roll_call.COORDINATOR, '', 'missing'),
    (roll_call.PROCESS_ID, '', 'missing'),
    (roll_call.COORDINATOR, 'worker-0', 'HOST:PORT'),
    (roll_call.COORDINATOR, ':1234', 'HOST:PORT'),
    (roll_call.COORDINATOR, 'a:b', 'HOST:PORT'),
    (roll_call.COORDINATOR, 'a:65535', '1 to 65534'),
    (roll_call.NUM_PROCESSES, '0', 'from 1'),
    (roll_call.NUM_PROCESSES, 'four', 'from 1'),
    (roll_call.PROCESS_ID, '4', 'from 0 to 3'),
    (roll_call.PROCESS_ID, '-1', 'from 0 to 3'),
    (roll_call.START_TIMEOUT, '1.5', 'from 1')])
def test_a_wrong_variable_is_named(name, value, words):
  with pytest.raises(config_lib.UserError, match=f'^{name}: .*{words}'):
    roll_call.settings(GOOD | {name: value})


def test_the_switch_is_checked(monkeypatch):
  monkeypatch.setenv(distributed.SWITCH, 'yes')
  with pytest.raises(config_lib.UserError, match='^META_COT_DISTRIBUTED: got'):
    distributed.initialize()


def test_without_variables_and_without_a_cluster():
  done = subprocess.run(
      [sys.executable, '-m', 'meta_cot.main', '--workdir=never',
       '--config=configs/countdown.py:tiny'], cwd=ROOT, text=True,
      env=os.environ | {distributed.SWITCH: '1', 'JAX_PLATFORMS': 'cpu'},
      capture_output=True, check=False)
  assert done.returncode == 2
  assert done.stderr.startswith(
      'error: META_COT_DISTRIBUTED=1, no cluster was found; set META_COT_COOR')
  assert done.stderr.count('\n') == 1


def test_streams_must_divide_the_batch():
  config = countdown.get_config('tiny')
  config.sft.data.num_streams = 3
  message = 'config.sft.data.num_streams: got 3; .*, 4.'
  with pytest.raises(config_lib.ConfigError, match=message):
    experiment_lib.parse(config)


def test_one_process_waits_for_nobody(monkeypatch):
  monkeypatch.setenv(distributed.SWITCH, '0')
  with distributed.session():
    distributed.wait('here')
    assert distributed.gather_objects({'a': [1, None]}) == [{'a': [1, None]}]
    assert distributed.is_primary()
    assert (distributed.process_index(), distributed.num_processes()) == (0, 1)
  with pytest.raises(SystemExit), distributed.session():
    raise SystemExit(3)


def _free_port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def _call(indices, num_workers, *, seconds=20.0, port=None, claimed=None):
  """What each worker gets: '' or its error; they start one by one."""
  port = _free_port() if port is None else port

  def one(index):
    return roll_call.answer(roll_call.Settings(
        'localhost', port - 1, (claimed or {}).get(index, num_workers), index,
        seconds))

  with concurrent.futures.ThreadPoolExecutor(len(indices)) as pool:
    return list(pool.map(one, indices))


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_all_are_there(order):
  assert _call(order, 4) == [''] * 4


def test_one_worker_needs_nobody():
  assert not roll_call.answer(
      roll_call.Settings('no.such.host', 1, 1, 0, 0.1))


def test_everybody_learns_who_is_missing():
  answers = _call((0, 1, 4), 5, seconds=1)
  assert len(set(answers)) == 1
  assert answers[0].startswith(
      'workers 2, 3 of 5 have not joined within 1 s;')
  answers = _call((0, 2), 3, seconds=1)
  assert answers[0].startswith('worker 1 of 3 has not joined within 1 s;')


def test_a_missing_first_worker_is_named_by_all():
  answers = _call((1, 2), 3, seconds=1)
  for answer in answers:
    assert answer.startswith('worker 0 of 3 has not joined within 1 s;')
    assert 'no answer at localhost:' in answer


def test_workers_that_disagree():
  for answer in _call((0, 1), 3, claimed={1: 2}):
    assert 'worker 1 was started for 2 workers, worker 0 for 3' in answer
  answers = _call((0, 1, 1), 3)
  assert 'two workers were started as number 1 of 3' in answers[0]
  assert all(answers)


def test_a_port_in_use_is_named():
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    answer, = _call((0,), 2, seconds=1, port=port)
  assert f'cannot listen on port {port}' in answer


def test_strangers_and_workers_that_have_ended_do_not_count():
  port = _free_port()
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    lead = pool.submit(_call, (0,), 3, seconds=3.0, port=port)
    connections = []
    for line in (b'GET / HTTP/1.1\n', b'\xff\n', b'worker 1\n',
                 b'worker 2 of 3\n'):
      connections.append(_connect(port))
      connections[-1].sendall(line)
    time.sleep(0.3)
    connections.pop().close()  # number 2 has ended again
    others = pool.submit(_call, (1,), 3, seconds=3.0, port=port)
    assert lead.result() == others.result()
    assert lead.result()[0].startswith('worker 2 of 3 has not joined')
  for connection in connections:
    connection.close()


def _connect(port):
  for _ in range(100):
    try:
      return socket.create_connection(('localhost', port), 5)
    except ConnectionRefusedError:
      time.sleep(0.05)
  raise AssertionError(f'nobody listens on {port}')


class _Device:
  """A device of another process, as far as a share is concerned."""

  def __init__(self, device, process_index):
    self._device, self.process_index = device, process_index

  def __getattr__(self, name):
    return getattr(self._device, name)


@pytest.mark.parametrize('sizes, process_of, expected', [
    ((8, 1, 1), [0, 0, 1, 1, 2, 2, 3, 3], [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ((1, 8, 1), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 2), (1, 2)]),
    ((2, 2, 2), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 2), (1, 2)]),
    # Two processes split the model: they hold the same rows.
    ((2, 1, 4), [0, 0, 1, 1, 2, 2, 3, 3], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ((1, 1, 8), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 1), (0, 1)]),
    # Processes whose rows are not neighbours.
    ((8, 1, 1), [0, 1, 0, 1, 0, 1, 0, 1], [(0, 2), (1, 2)])])
def test_host_shares(monkeypatch, sizes, process_of, expected):
  mesh = sharding.make_mesh(sharding.MeshConfig(*sizes))
  shares = _shares(monkeypatch, mesh, process_of, len(expected))
  assert shares == expected


def test_host_shares_that_overlap_in_part(monkeypatch):
  mesh = sharding.make_mesh(sharding.MeshConfig(4, 1, 2))
  with pytest.raises(config_lib.ConfigError, match='config.mesh: .* 4 parts'):
    _shares(monkeypatch, mesh, [0, 0, 0, 1, 1, 1, 2, 2], 3)


def _shares(monkeypatch, mesh, process_of, num_processes):
  """`host_share` of every process, as if the devices were spread over them."""
  process = dict(zip(mesh.devices.flat, process_of, strict=True))
  real = jax.sharding.NamedSharding.devices_indices_map
  monkeypatch.setattr(
      jax.sharding.NamedSharding, 'devices_indices_map',
      lambda self, shape: {
          _Device(d, process[d]): i for d, i in real(self, shape).items()})
  shares = []
  for i in range(num_processes):
    monkeypatch.setattr(jax, 'process_index', lambda i=i: i)
    shares.append(sharding.host_share(mesh))
  return shares


def test_rows_that_all_have_are_split():
  mesh = sharding.make_mesh(sharding.MeshConfig(2, 2, 2))
  rows_BxL = np.arange(48, dtype=np.int32).reshape(8, 6)
  placed = sharding.split_batch({'x': rows_BxL}, mesh)['x']
  assert placed.sharding == sharding.batch(mesh)
  np.testing.assert_array_equal(placed, rows_BxL)
  assert {s.data.shape for s in placed.addressable_shards} == {(2, 6)}
