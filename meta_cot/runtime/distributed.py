# SPDX-License-Identifier: Apache-2.0
"""Several processes in one run: joining, waiting for one another, leaving.

A pod and the rehearsal of one (`launch/local_cluster.sh`) set the same
variables in every process:

  META_COT_DISTRIBUTED=1      asks for it
  META_COT_COORDINATOR        HOST:PORT of process 0; PORT + 1 must be free too
  META_COT_NUM_PROCESSES      how many there are
  META_COT_PROCESS_ID         which of them this is, from 0
  META_COT_START_TIMEOUT      seconds to wait for the others (300)

Without the middle three, JAX looks for a cluster that it knows. What is here
works between any two steps, whatever the devices are doing; in one process all
of it does nothing.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import itertools
import json
import math
import os
import threading
import time
from typing import Any

import jax
from jax._src import distributed as jax_distributed

from meta_cot.runtime import roll_call
from meta_cot.settings import config as config_lib

SWITCH = 'META_COT_DISTRIBUTED'
COORDINATOR = 'META_COT_COORDINATOR'
NUM_PROCESSES = 'META_COT_NUM_PROCESSES'
PROCESS_ID = 'META_COT_PROCESS_ID'
START_TIMEOUT = 'META_COT_START_TIMEOUT'

_HEARTBEAT_SECONDS = 20  # without a sign of life, a process is taken for dead
_SHUTDOWN_SECONDS = 120  # all have met at the end already
_AGREED_EXIT_SECONDS = 10  # between the first and the last to leave
_POLL_SECONDS = 0.02
_CALL_MS = 500

_numbers = itertools.count()  # makes names unique; all count alike


@dataclasses.dataclass(frozen=True)
class Settings:
  """Where the processes of a run meet."""

  host: str
  port: int
  num_processes: int
  process_id: int
  start_timeout: int  # seconds


def settings(environment: Mapping[str, str]) -> Settings | None:
  """Reads the variables; None where they leave it to JAX.

  Raises:
    UserError: a variable is missing or malformed; names it.
  """
  names = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
  given = [name for name in names if environment.get(name)]
  if not given:
    return None
  for name in names:
    if name not in given:
      raise config_lib.UserError(
          f'{name}: missing, while {given[0]} is set; set all of '
          f'{", ".join(names)}, or none of them.')
  host, _, port = environment[COORDINATOR].rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 65535:
    raise config_lib.UserError(
        f'{COORDINATOR}: got {environment[COORDINATOR]!r}; must be HOST:PORT '
        'with a port of 1 to 65534.')
  num_processes = _integer(environment, NUM_PROCESSES, 1)
  return Settings(
      host=host.strip('[]'), port=int(port), num_processes=num_processes,
      process_id=_integer(environment, PROCESS_ID, 0, num_processes - 1),
      start_timeout=_integer(
          {START_TIMEOUT: environment.get(START_TIMEOUT) or '300'},
          START_TIMEOUT, 1))


def _integer(
    environment: Mapping[str, str], name: str, low: int,
    high: int | None = None) -> int:
  text = environment[name]
  bounds = f'from {low}' if high is None else f'from {low} to {high}'
  if not text.isdecimal() or int(text) < low or (
      high is not None and int(text) > high):
    raise config_lib.UserError(
        f'{name}: got {text!r}; must be a whole number {bounds}.')
  return int(text)


@contextlib.contextmanager
def session(*, agreed_exit_codes: tuple[int, ...] = ()) -> Iterator[None]:
  """Joins the other processes, and leaves them at the end.

  A process that ends well waits for the others. One that fails does not, as
  they may be waiting for it: its own error and exit code stand, and the others
  are ended by the loss of it.

  Args:
    agreed_exit_codes: of a SystemExit that all processes are expected to raise
      at about the same time; it waits for them a little.

  Raises:
    UserError: as `initialize`.
  """
  initialize()
  have_met = False
  try:
    yield
    have_met = _exchange('end', '', None) is not None
  except SystemExit as e:
    if e.code in agreed_exit_codes:
      have_met = _exchange('exit', '', _AGREED_EXIT_SECONDS) is not None
    raise
  finally:
    if not have_met:
      _leave()


def initialize() -> None:
  """Joins the other processes if META_COT_DISTRIBUTED=1.

  Must come before anything that touches a device.

  Raises:
    UserError: a variable is wrong, no cluster was found, or processes are
      missing; names them, in every process that is there.
  """
  switch = os.environ.get(SWITCH, '')
  if switch in ('', '0'):
    return
  if switch != '1':
    raise config_lib.UserError(
        f'{SWITCH}: got {switch!r}; must be 1, or 0 or unset for one process.')
  timeouts = dict(
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=_SHUTDOWN_SECONDS)
  found = settings(os.environ)
  try:
    if found is None:
      jax.distributed.initialize(**timeouts)
      return
    roll_call.answer(
        found.host, found.port + 1, index=found.process_id,
        num_workers=found.num_processes, seconds=found.start_timeout)
    host = f'[{found.host}]' if ':' in found.host else found.host
    jax.distributed.initialize(
        f'{host}:{found.port}', found.num_processes, found.process_id,
        cluster_detection_method='deactivate',
        initialization_timeout=found.start_timeout, **timeouts)
  except roll_call.RollCallError as e:
    raise config_lib.UserError(
        f'{COORDINATOR}={found.host}:{found.port}: {e}') from None
  except (ValueError, RuntimeError) as e:
    where = f'{COORDINATOR}={found.host}:{found.port}' if found else (
        f'no cluster was found; set {COORDINATOR}, {NUM_PROCESSES} and '
        f'{PROCESS_ID}')
    raise config_lib.UserError(f'{SWITCH}=1, {where}: {e}') from e


def is_primary() -> bool:
  """Whether this process is the one that reports and writes."""
  return process_index() == 0


def process_index() -> int:
  """Number of this process; unlike JAX's, needs no device."""
  return jax_distributed.global_state.process_id


def num_processes() -> int:
  """Number of processes; unlike JAX's, needs no device."""
  return jax_distributed.global_state.num_processes


def wait(name: str) -> None:
  """Returns when all processes are here; all must wait in the same order.

  Signals are served meanwhile. If a process dies, the others are ended.

  Args:
    name: of the place.
  """
  _exchange(f'{next(_numbers)}/{name}', '', None)


def gather_objects(value: Any) -> list[Any]:
  """The value of every process, in their order; all must call it.

  Args:
    value: what JSON can hold, at most a megabyte for all processes together.
  """
  texts = _exchange(f'{next(_numbers)}/gather', json.dumps(value), None)
  return [json.loads(text) for text in texts]


def _exchange(name: str, text: str, seconds: float | None) -> list[str] | None:
  """The texts of all processes, by way of the first one; None after `seconds`.

  Short calls in a loop rather than one long call, which would hold up the
  handlers of signals.
  """
  client = jax_distributed.global_state.client
  if client is None or num_processes() == 1:
    return [text]
  deadline = math.inf if seconds is None else time.monotonic() + seconds
  here, outcome = f'meta_cot/at/{name}', f'meta_cot/all/{name}'
  client.key_value_set(f'{here}/{process_index()}', text)
  while time.monotonic() < deadline:
    if is_primary():
      present = dict(client.key_value_dir_get(f'{here}/'))
      if len(present) == num_processes():
        texts = [present[f'{here}/{i}'] for i in range(num_processes())]
        client.key_value_set(outcome, json.dumps(texts))
        return texts
      time.sleep(_POLL_SECONDS)
      continue
    try:
      return json.loads(client.blocking_key_value_get(outcome, _CALL_MS))
    except jax.errors.JaxRuntimeError as e:
      if 'DEADLINE_EXCEEDED' not in str(e):
        raise
  return None


def _leave() -> None:
  """Makes the end of this process wait for nobody.

  JAX meets the others when the interpreter exits, and so do the destructors of
  what connects it to them; but they may never come. So JAX forgets all that,
  and a thread that cannot end keeps it from being destroyed.
  """
  state = jax_distributed.global_state
  kept = state.preemption_sync_manager, state.client, state.service
  state.preemption_sync_manager = state.client = state.service = None
  threading.Thread(
      target=lambda _: threading.Event().wait(), args=(kept,), daemon=True
  ).start()
