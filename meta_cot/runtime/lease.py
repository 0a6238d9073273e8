# SPDX-License-Identifier: Apache-2.0
"""One run at a time in a workdir, and a workdir that can be written.

`hold` keeps the file `lease.json`, which names its holder. A holder on this
machine is alive while its process is, so a killed one keeps nothing. Of a
holder elsewhere only the heartbeat in the file can be seen: it counts as dead
after a minute without one.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import errno
import fcntl
import functools
import json
import logging
import os
import pathlib
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid

from etils import epath

from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

EXIT_LOST = 76
HEARTBEAT_SECONDS = 10.0
NAME = 'lease.json'
STALE_SECONDS = 60.0  # without a heartbeat; the holder is dead
_SETTLE_SECONDS = 3.0  # between writing to a bucket and being sure
_PROBE_BYTES = 1 << 16
_RECORD_BYTES = 4096  # of a local lease: a full disk cannot cut it short
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclasses.dataclass(frozen=True)
class Holder:
  """Who holds a workdir."""

  token: str  # of this holding, never used twice
  host: str
  machine: str  # boot and process namespace in which `pid` means something
  pid: int
  start: int  # of the process, in clock ticks since boot
  since: str  # when the command started
  command: str
  heartbeat: float  # seconds since the epoch


@contextlib.contextmanager
def hold(workdir: files.Path) -> Iterator[None]:
  """Keeps other runs out of an existing `workdir` while inside.

  When another run has taken the lease, or it cannot be renewed, the process
  ends at once with code 76, without writing anything. One process of a job
  holds the lease for all.

  Raises:
    UserError: another run holds it; names host, process and start.
  """
  store, mine, stop = Store(files.path(workdir)), myself(), threading.Event()
  _acquire(store, mine)
  thread = threading.Thread(
      target=_keep, args=(store, mine, stop), name='lease', daemon=True)
  thread.start()
  try:
    yield
  finally:
    if os.getpid() == mine.pid:  # a forked child holds nothing
      stop.set()
      thread.join()
      try:
        store.remove(mine.token)
      except files.errors() as e:
        logging.warning('%s: not removed (%s)', store.path, e)


def check_writable(workdir: files.Path, num_bytes: int = 0) -> None:
  """Makes sure that a run can write to `workdir`; creates it if need be.

  The parents of a relative path are created too; those of an absolute one must
  exist, as a disk may not be mounted. `num_bytes` is what the run will write,
  roughly.

  Raises:
    UserError: missing parent, no permission, read only, full, no such bucket.
  """
  try:
    folder = files.path(workdir)
    if files.is_remote(folder):
      probe = folder / f'.probe-{uuid.uuid4().hex}'
      probe.write_text('probe')
      probe.unlink()
      return
    folder = pathlib.Path(folder)
    is_relative = not os.fspath(workdir).startswith(('/', '~', 'file:'))
    if not (is_relative or folder.parent.is_dir()):
      raise config_lib.UserError(
          f'--workdir: {folder}: there is no folder {folder.parent}; create '
          'it, or mount the disk.')
    folder.mkdir(parents=is_relative, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as f:  # no kill leaves it behind
      f.write(bytes(_PROBE_BYTES))
      f.flush()
      os.fsync(f.fileno())
    free = shutil.disk_usage(folder).free
  except files.errors() as e:
    reason = getattr(e, 'strerror', None) or str(e) or type(e).__name__
    raise config_lib.UserError(
        f'--workdir: {os.fspath(workdir)} cannot be written ({reason}); '
        'choose another, or mend it.') from e
  if free < num_bytes:
    raise config_lib.UserError(
        f'--workdir: {folder} has {free / 1e9:.2f} GB free, this run needs '
        f'about {num_bytes / 1e9:.2f} GB; free some, choose another, or lower '
        'max_to_keep of its stages.')


def _acquire(store: 'Store', mine: Holder) -> None:
  """Writes `mine` as soon as no live holder is there."""
  other = store.take(mine, replacing=None)
  if other and is_dead(other) is None and not _lives(store, other):
    other = store.take(mine, replacing=other)
  if other:
    raise config_lib.UserError(
        f'{store.path}: this workdir is in use by process {other.pid} on '
        f'{other.host} since {other.since} ({other.command}); wait for it, '
        'stop it, or use another --workdir.')


def _lives(store: 'Store', other: Holder) -> bool:
  """Watches a holder elsewhere until it shows that it lives, or seems dead.

  Clocks may differ, so an old heartbeat alone proves nothing: it must also
  stay the same for more than two beats. One from the future must stay the same
  for as long as makes any heartbeat old.
  """
  logging.info(
      '%s: held by process %d on %s; looking whether it lives', store.path,
      other.pid, other.host)
  began = time.monotonic()
  while True:
    time.sleep(HEARTBEAT_SECONDS / 10)
    now = store.read()
    if now != other:
      return now is not None
    watched = time.monotonic() - began
    is_old = time.time() - other.heartbeat > STALE_SECONDS
    if watched > (2.5 * HEARTBEAT_SECONDS if is_old else STALE_SECONDS):
      return False


def _keep(store: 'Store', mine: Holder, stop: threading.Event) -> None:
  """Renews the heartbeat until `stop`, or until the lease is another's."""
  reason = 'it can no longer be renewed'
  try:
    while not stop.wait(HEARTBEAT_SECONDS):
      try:
        holder = store.renew(dataclasses.replace(mine, heartbeat=time.time()))
      except files.errors() as e:
        logging.warning('%s: heartbeat not written (%s)', store.path, e)
        continue
      if holder is None or holder.token != mine.token:
        reason = 'it is gone' if holder is None else (
            f'process {holder.pid} on {holder.host} took it')
        return
  finally:
    if not stop.is_set():
      _end_process(
          f'{store.path}: the lease of this workdir is lost: {reason}')


def _end_process(reason: str) -> None:
  """Ends the process before it can write beside another run."""
  print(f'error: {reason}; this run ends.', file=sys.stderr, flush=True)
  os._exit(EXIT_LOST)


def myself() -> Holder:
  """This process."""
  start, now = _start_of_process(os.getpid()) or 0, time.time()
  age = start and time.clock_gettime(time.CLOCK_BOOTTIME) - (
      start / os.sysconf('SC_CLK_TCK'))
  return Holder(
      token=uuid.uuid4().hex, host=socket.gethostname(), machine=_machine(),
      pid=os.getpid(), start=start, since=datetime.datetime.fromtimestamp(
          now - age).isoformat(' ', 'seconds'),
      command=' '.join(sys.argv)[:200], heartbeat=now)


def _machine() -> str:
  """Equal where process numbers mean the same processes; '' if unknown."""
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return ''


def _start_of_process(pid: int) -> int | None:
  """Clock ticks after boot at which a process started; None: it has ended."""
  try:
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return None
  # The name in parentheses may hold anything; state is the field after it.
  state, *rest = text.rpartition(')')[2].split()
  return None if state in 'ZX' else int(rest[18])


def is_dead(holder: Holder) -> bool | None:
  """Whether the holder has ended; None where only its heartbeat can tell."""
  if not holder.machine or holder.machine != _machine():
    return None
  return _start_of_process(holder.pid) != holder.start


class Store:
  """The record of a workdir: who holds it, locally or in a bucket."""

  def __init__(self, workdir: epath.Path):
    self.path = workdir / NAME
    self._is_remote = files.is_remote(workdir)
    self._change = functools.partial(
        _change_object if self._is_remote else _change_file, self.path)

  def take(self, mine: Holder, replacing: Holder | None) -> Holder | None:
    """Writes `mine` over no holder, a dead one or the one named.

    Returns:
      The holder that stays, or None if it is `mine` now.
    """
    def decide(holder):
      stays = holder and not is_dead(holder) and holder != replacing
      return holder if stays else mine

    holder = self._change(decide, is_made=True)
    if holder is mine and self._is_remote:
      time.sleep(_SETTLE_SECONDS)
      holder = self.read()
    return None if holder and holder.token == mine.token else holder

  def read(self) -> Holder | None:
    """The holder now."""
    return self._change(lambda holder: holder)

  def renew(self, mine: Holder) -> Holder | None:
    """Writes the heartbeat if the lease is still ours; returns the holder."""
    return self._change(lambda holder: mine if (
        holder and holder.token == mine.token) else holder)

  def remove(self, token: str) -> None:
    """Removes the lease if it is still ours."""
    self._change(lambda holder: None if (
        holder and holder.token == token) else holder)


def _change_object(path, decide, *, is_made=False) -> Holder | None:
  """As `_change_file`; the last of two writers wins, and both see it."""
  del is_made
  try:
    holder = _parse(path.read_bytes())
  except FileNotFoundError:
    holder = None
  new = decide(holder)
  if new is None and holder:
    path.unlink(missing_ok=True)
  elif new is not holder:
    files.write_json(path, dataclasses.asdict(new))
  return new


def _change_file(path, decide, *, is_made=False) -> Holder | None:
  """Makes the holder decide(holder), one action, and returns it.

  None is no holder, also where a kill has cut the record off. Without `is_made`
  a missing file stays missing.
  """
  try:
    with _locked(path, os.O_RDWR | (os.O_CREAT if is_made else 0)) as f:
      holder = _parse(f.read())
      new = decide(holder)
      if new is None and holder:
        os.unlink(path)
      elif new is not holder:
        text = json.dumps(dataclasses.asdict(new), indent=2)
        os.pwrite(f.fileno(), text.encode().ljust(_RECORD_BYTES), 0)
        os.fsync(f.fileno())
      return new
  except FileNotFoundError:
    if is_made:
      raise
    return None


@contextlib.contextmanager
def _locked(path: epath.Path, flags: int):
  """The open file under an exclusive lock.

  The lock is not the lease: it is held for an instant only and given back by
  name, as a child forked in that instant shares it.
  """
  while True:
    with open(os.open(path, flags, 0o644), 'r+b', buffering=0) as f:
      try:
        fcntl.flock(f, fcntl.LOCK_EX)
      except OSError as e:
        if e.errno not in _NO_LOCKS:
          raise
      try:
        if _is_at(path, f):
          yield f
          return
      finally:
        with contextlib.suppress(OSError):  # as where there are no locks
          fcntl.flock(f, fcntl.LOCK_UN)


def _is_at(path: epath.Path, f) -> bool:
  """Whether nobody has removed the file before we got the lock."""
  try:
    return os.path.samestat(os.fstat(f.fileno()), os.stat(path))
  except FileNotFoundError:
    return False


def _parse(data: bytes) -> Holder | None:
  try:
    return Holder(**json.loads(data))
  except (ValueError, TypeError, RecursionError):
    return None  # cut off by a kill: its writer is dead
