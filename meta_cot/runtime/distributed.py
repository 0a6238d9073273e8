# SPDX-License-Identifier: Apache-2.0
"""Several processes in one run: joining, waiting for one another, leaving.

META_COT_DISTRIBUTED=1 asks for it, in every process; `roll_call` has the other
variables. What is here works between any two steps, whatever the devices are
doing; in one process all of it does nothing.
"""

from collections.abc import Iterator
import contextlib
import itertools
import json
import logging
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

_HEARTBEAT_SECONDS = 20  # without a sign of life, a process is taken for dead
_SHUTDOWN_SECONDS = 120  # all have met at the end already
_AGREED_EXIT_SECONDS = 10  # between the first and the last to leave
_PATIENCE_SECONDS = 60  # before it is said who keeps the others waiting
_POLL_SECONDS = 0.02
_CALL_MS = 500

_numbers = itertools.count()  # makes names unique; all count alike


@contextlib.contextmanager
def session(*, agreed_exit_codes: tuple[int, ...] = ()) -> Iterator[None]:
  """Joins the other processes, and leaves them at the end.

  A process that ends well waits for the others. One that fails does not, as
  they may be waiting for it: its own error and exit code stand, and the others
  are ended by the loss of it.

  Args:
    agreed_exit_codes: of a SystemExit that all processes are expected to raise
      at about the same time; it waits for them a little.
  """
  initialize()
  have_met = False
  try:
    yield
    have_met = _exchange('end') is not None
  except SystemExit as e:
    if e.code in agreed_exit_codes:
      have_met = _exchange('exit', seconds=_AGREED_EXIT_SECONDS) is not None
    raise
  finally:
    if not have_met:
      _leave()


def initialize() -> None:
  """Joins the other processes if META_COT_DISTRIBUTED=1.

  Must come before anything that touches a device.

  Raises:
    UserError: a variable is wrong, or no cluster was found.
    UnavailableError: processes are missing; names them, in every process that
      is there.
  """
  switch = os.environ.get(SWITCH, '')
  if switch in ('', '0'):
    return
  if switch != '1':
    raise config_lib.UserError(
        f'{SWITCH}: got {switch!r}; must be 1, or 0 or unset for one process.')
  found = roll_call.settings(os.environ)
  *names, last = roll_call.NEEDED
  where, arguments = (
      f'no cluster was found; set {", ".join(names)} and {last}'), {}
  if found is not None:
    where = f'{roll_call.COORDINATOR}={found.host}:{found.port}'
    error = roll_call.answer(found)
    if error:
      raise config_lib.UnavailableError(f'{where}: {error}')
    host = f'[{found.host}]' if ':' in found.host else found.host
    arguments = dict(
        coordinator_address=f'{host}:{found.port}',
        num_processes=found.num_processes, process_id=found.process_id,
        cluster_detection_method='deactivate',
        initialization_timeout=found.start_timeout)
  try:
    jax.distributed.initialize(
        **arguments, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS)
  except RuntimeError as e:
    raise config_lib.UnavailableError(f'{SWITCH}=1, {where}: {e}') from e
  except ValueError as e:
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
  """Returns when all processes are here, at the place `name`.

  All must wait in the same order. Signals are served meanwhile. If a process
  dies, the others are ended; process 0 says after a minute who is not here.
  """
  _exchange(f'{next(_numbers)}/{name}')


def gather_objects(value: Any) -> list[Any]:
  """The value of every process, in their order; all must call it.

  JSON must hold them, in a megabyte for all processes together.
  """
  texts = _exchange(f'{next(_numbers)}/gather', json.dumps(value))
  return [json.loads(text) for text in texts]


def _exchange(
    name: str, text: str = '', seconds: float = math.inf) -> list[str] | None:
  """The texts of all processes, by way of the first one; None after `seconds`.

  Short calls in a loop rather than one long call, which would hold up the
  handlers of signals.
  """
  client = jax_distributed.global_state.client
  if client is None or num_processes() == 1:
    return [text]
  deadline = time.monotonic() + seconds
  patience = time.monotonic() + _PATIENCE_SECONDS
  here, outcome = f'meta_cot/at/{name}', f'meta_cot/all/{name}'
  client.key_value_set(f'{here}/{process_index()}', text)
  while time.monotonic() < deadline:
    if is_primary():
      present = dict(client.key_value_dir_get(f'{here}/'))
      if len(present) == num_processes():
        texts = [present[f'{here}/{i}'] for i in range(num_processes())]
        client.key_value_set(outcome, json.dumps(texts))
        return texts
      if time.monotonic() > patience:
        logging.warning(
            '%s: waiting for worker %s of %d; read its log', name, ', '.join(
                str(i) for i in range(num_processes())
                if f'{here}/{i}' not in present), num_processes())
        patience = math.inf
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
