# SPDX-License-Identifier: Apache-2.0
"""Workers of a job report to worker 0, before anything waits without end.

Worker 0 listens; every other worker connects, says its number and keeps the
connection. When all are there, or time is up, worker 0 tells everybody the
outcome. So all of them know who is missing, and end with that message.
"""

from collections.abc import Mapping
import contextlib
import json
import math
import select
import socket
import time

_POLL_SECONDS = 0.2
_LINE_SECONDS = 5.0  # for one message of a worker that has connected
_REPLY_SECONDS = 10.0  # for the outcome, once worker 0's time is up
_MAX_LINE = 1 << 16


class RollCallError(RuntimeError):
  """Workers are missing, or do not fit together; one line."""


def answer(
    host: str, port: int, *, index: int, num_workers: int, seconds: float
) -> None:
  """Returns when all workers are there.

  Args:
    host: name or address of worker 0's machine.
    port: free there.
    index: of this worker, 0 .. num_workers - 1.
    num_workers: in the job.
    seconds: to wait for the others.

  Raises:
    RollCallError: names the missing workers, or those that disagree. All
      workers that have answered raise the same.
  """
  if num_workers == 1:
    return
  if index == 0:
    error = _lead(port, num_workers, seconds)
  else:
    error = _follow(host, port, index, num_workers, seconds)
  if error:
    raise RollCallError(error)


def missing(indices: list[int], num_workers: int, seconds: float) -> str:
  """One line for workers that did not come."""
  several = len(indices) > 1
  return (
      f'worker{"s" * several} {", ".join(map(str, indices))} of {num_workers} '
      f'{"have" if several else "has"} not joined within {seconds:g} s; read '
      f'{"their logs" if several else "its log"}, and start all workers again.')


def _lead(port: int, num_workers: int, seconds: float) -> str:
  """Worker 0: collects the others; the error, or '' if all are there."""
  deadline = time.monotonic() + seconds
  present, error = {}, ''
  with contextlib.ExitStack() as stack:
    try:
      server = stack.enter_context(_listen(port))
    except OSError as e:
      return (
          f'worker 0 cannot listen on port {port} ({e.strerror}); choose '
          'another port for the coordinator.')
    while not error and len(present) < num_workers - 1:
      left = deadline - time.monotonic()
      if left <= 0:
        absent = [i for i in range(1, num_workers) if i not in present]
        error = missing(absent, num_workers, seconds)
        break
      server.settimeout(min(left, _POLL_SECONDS))
      with contextlib.suppress(TimeoutError):
        connection, _ = server.accept()
        stack.enter_context(connection)
        error = _admit(connection, present, num_workers)
      for index in [i for i, c in present.items() if _is_closed(c)]:
        del present[index]  # it has ended; its successor may still come
    for connection in present.values():
      with contextlib.suppress(OSError):
        _send(connection, {'error': error})
  return error


def _admit(
    connection: socket.socket, present: dict[int, socket.socket],
    num_workers: int) -> str:
  """Notes a worker that has connected; an error if it cannot be right."""
  message = _receive(connection, _LINE_SECONDS)
  if message is None or {'worker', 'num_workers'} - message.keys():
    return ''  # a stranger
  index, theirs = message['worker'], message['num_workers']
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
  with contextlib.suppress(OSError):
    _send(connection, {'error': error})
  return error


def _follow(
    host: str, port: int, index: int, num_workers: int, seconds: float) -> str:
  """Every other worker: reports and waits for the outcome."""
  deadline = time.monotonic() + seconds
  while True:
    try:
      connection = socket.create_connection((host, port), _LINE_SECONDS)
      break
    except OSError as e:
      if time.monotonic() + _POLL_SECONDS > deadline:
        return (
            f'{missing([0], num_workers, seconds)[:-1]} (no answer at '
            f'{host}:{port}: {e.strerror or e}).')
      time.sleep(_POLL_SECONDS)
  with connection:
    _send(connection, {'worker': index, 'num_workers': num_workers})
    outcome = _receive(connection, seconds + _REPLY_SECONDS)
  if outcome is None or 'error' not in outcome:
    return (
        f'worker 0 of {num_workers} has ended during the roll call; read its '
        'log, and start all workers again.')
  return outcome['error']


def _listen(port: int) -> socket.socket:
  if socket.has_dualstack_ipv6():
    return socket.create_server(
        ('', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
  return socket.create_server(('', port), backlog=1024)


def _send(connection: socket.socket, message: Mapping) -> None:
  connection.sendall(json.dumps(message).encode() + b'\n')


def _receive(connection: socket.socket, seconds: float) -> dict | None:
  """One message; None if the other side ends, dawdles or talks nonsense."""
  deadline = time.monotonic() + seconds
  line = b''
  try:
    while not line.endswith(b'\n'):
      left = deadline - time.monotonic()
      if left <= 0 or len(line) > _MAX_LINE:
        return None
      connection.settimeout(math.ceil(left))
      part = connection.recv(_MAX_LINE)
      if not part:
        return None
      line += part
    message = json.loads(line)
  except (OSError, ValueError):
    return None
  return message if isinstance(message, dict) else None


def _is_closed(connection: socket.socket) -> bool:
  """Whether the other side has ended; it has nothing more to say."""
  return bool(select.select([connection], [], [], 0)[0])
