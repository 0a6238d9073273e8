# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a run meet, and whether all have come.

A pod and the rehearsal of one (`launch/local_cluster.sh`) set the same
variables in every process; without the first three, JAX looks for a cluster
that it knows:

  META_COT_COORDINATOR        HOST:PORT of process 0; PORT + 1 must be free too
  META_COT_NUM_PROCESSES      how many there are
  META_COT_PROCESS_ID         which of them this is, from 0
  META_COT_START_TIMEOUT      seconds to wait for the others (300)

Process 0 listens at PORT + 1; every other one connects, says its number and
keeps the connection. When all are there, or time is up, process 0 tells
everybody the outcome. So all of them know who is missing, and end with that
message, before anything waits without end.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import math
import re
import select
import socket
import time

from meta_cot.settings import config as config_lib

COORDINATOR = 'META_COT_COORDINATOR'
NUM_PROCESSES = 'META_COT_NUM_PROCESSES'
PROCESS_ID = 'META_COT_PROCESS_ID'
START_TIMEOUT = 'META_COT_START_TIMEOUT'
NEEDED = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)

_POLL_SECONDS = 0.2
_LINE_SECONDS = 5.0  # for one message of a process that has connected
_REPLY_SECONDS = 10.0  # for the outcome, once process 0's time is up
_MAX_LINE = 1 << 16


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
  environment = {START_TIMEOUT: '300'} | {
      name: text for name, text in environment.items() if text}
  given = [name for name in NEEDED if name in environment]
  if not given:
    return None
  for name in NEEDED:
    if name not in given:
      raise config_lib.UserError(
          f'{name}: missing, while {given[0]} is set; set all of '
          f'{", ".join(NEEDED)}, or none of them.')
  host, _, port = environment[COORDINATOR].rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 65535:
    raise config_lib.UserError(
        f'{COORDINATOR}: got {environment[COORDINATOR]!r}; must be HOST:PORT '
        'with a port of 1 to 65534.')

  def integer(name, low, high=math.inf):
    text = environment[name]
    if not text.isdecimal() or not low <= int(text) <= high:
      end = f' to {high}' if high < math.inf else ''
      raise config_lib.UserError(
          f'{name}: got {text!r}; must be a whole number from {low}{end}.')
    return int(text)

  num_processes = integer(NUM_PROCESSES, 1)
  return Settings(
      host.strip('[]'), int(port), num_processes,
      integer(PROCESS_ID, 0, num_processes - 1), integer(START_TIMEOUT, 1))


def answer(here: Settings) -> str:
  """Returns '' when all processes are there, or one line for what is wrong.

  That line names those missing, or those that disagree; all that have answered
  get the same.
  """
  if here.num_processes == 1:
    return ''
  return _follow(here) if here.process_id else _lead(here)


def _missing(here: Settings, indices: list[int]) -> str:
  """One line for processes that did not come."""
  several = len(indices) > 1
  return (
      f'worker{"s" * several} {", ".join(map(str, indices))} of '
      f'{here.num_processes} {"have" if several else "has"} not joined within '
      f'{here.start_timeout:g} s; read {"their logs" if several else "its log"}'
      ', and start all workers again.')


def _lead(here: Settings) -> str:
  """Process 0: collects the others."""
  deadline = time.monotonic() + here.start_timeout
  present, error = {}, ''
  is_dual = socket.has_dualstack_ipv6()
  with contextlib.ExitStack() as stack:
    try:
      server = stack.enter_context(socket.create_server(
          ('', here.port + 1), backlog=1024, dualstack_ipv6=is_dual,
          family=socket.AF_INET6 if is_dual else socket.AF_INET))
    except OSError as e:
      return (
          f'worker 0 cannot listen on port {here.port + 1} ({e.strerror}); '
          'choose another port for the coordinator.')
    while not error and len(present) < here.num_processes - 1:
      left = deadline - time.monotonic()
      if left <= 0:
        error = _missing(here, [
            i for i in range(1, here.num_processes) if i not in present])
        break
      server.settimeout(min(left, _POLL_SECONDS))
      with contextlib.suppress(TimeoutError):
        connection, _ = server.accept()
        stack.enter_context(connection)
        error = _admit(connection, present, here.num_processes)
      for index in [i for i, c in present.items() if _is_closed(c)]:
        del present[index]  # it has ended; its successor may still come
    for connection in present.values():
      _send(connection, error)
  return error


def _admit(
    connection: socket.socket, present: dict[int, socket.socket],
    num_workers: int) -> str:
  """Notes a process that has connected; an error if it cannot be right."""
  match = re.fullmatch(
      r'worker (\d+) of (\d+)\n', _receive(connection, _LINE_SECONDS))
  if match is None:
    return ''  # a stranger
  index, theirs = map(int, match.groups())
  if theirs != num_workers:
    error = (
        f'worker {index} was started for {theirs} workers, worker 0 for '
        f'{num_workers}; give all of them the same number.')
  elif index == 0 or index in present and not _is_closed(present[index]):
    error = (
        f'two workers were started as number {index} of {num_workers}; give '
        'each its own.')
  else:
    present[index] = connection
    return ''
  _send(connection, error)
  return error


def _follow(here: Settings) -> str:
  """Every other process: reports and waits for the outcome."""
  deadline = time.monotonic() + here.start_timeout
  place = here.host, here.port + 1
  while True:
    try:
      connection = socket.create_connection(place, _LINE_SECONDS)
      break
    except OSError as e:
      if time.monotonic() + _POLL_SECONDS > deadline:
        return (
            f'{_missing(here, [0])[:-1]} (no answer at {here.host}:{place[1]}: '
            f'{e.strerror or e}).')
      time.sleep(_POLL_SECONDS)
  with connection:
    _send(connection, f'worker {here.process_id} of {here.num_processes}')
    outcome = _receive(connection, here.start_timeout + _REPLY_SECONDS)
  return outcome.removesuffix('\n') if outcome else (
      f'worker 0 of {here.num_processes} has ended during the roll call; read '
      'its log, and start all workers again.')


def _send(connection: socket.socket, line: str) -> None:
  with contextlib.suppress(OSError):  # whoever has ended needs none
    connection.sendall(f'{line}\n'.encode())


def _receive(connection: socket.socket, seconds: float) -> str:
  """One line; '' if the other side ends, dawdles or talks nonsense."""
  deadline = time.monotonic() + seconds
  line = b''
  try:
    while not line.endswith(b'\n'):
      connection.settimeout(max(0.0, deadline - time.monotonic()))
      part = connection.recv(_MAX_LINE)
      if not part or len(line) > _MAX_LINE:
        return ''
      line += part
    return line.decode()
  except (OSError, UnicodeDecodeError):
    return ''


def _is_closed(connection: socket.socket) -> bool:
  """Whether the other side has ended; it has nothing more to say."""
  return bool(select.select([connection], [], [], 0)[0])
