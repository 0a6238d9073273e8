# SPDX-License-Identifier: Apache-2.0
"""Who holds a workdir: the record, whether its process lives, where it lies."""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
import time
import uuid

from etils import epath

from meta_cot.runtime import files

NAME = 'lease.json'
_SETTLE_SECONDS = 3.0  # between writing to a bucket and being sure
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


def myself() -> Holder:
  """This process."""
  started = time.time() - _age_of_process(os.getpid())
  return Holder(
      token=uuid.uuid4().hex, host=socket.gethostname(), machine=_machine(),
      pid=os.getpid(), start=_start_of_process(os.getpid()) or 0,
      since=datetime.datetime.fromtimestamp(started).isoformat(' ', 'seconds'),
      command=' '.join(sys.argv)[:200], heartbeat=time.time())


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


def _age_of_process(pid: int) -> float:
  start = _start_of_process(pid)
  if start is None:
    return 0.0
  return time.clock_gettime(time.CLOCK_BOOTTIME) - (
      start / os.sysconf('SC_CLK_TCK'))


def is_dead(holder: Holder) -> bool | None:
  """Whether the holder has ended; None where only its heartbeat can tell."""
  if not holder.machine or holder.machine != _machine():
    return None
  return _start_of_process(holder.pid) != holder.start


def _parse(data: bytes) -> Holder | None:
  try:
    return Holder(**json.loads(data))
  except (ValueError, TypeError):
    return None  # cut off by a kill: its writer is dead


def store_of(workdir: epath.Path) -> 'LocalStore | BucketStore':
  """The record of a workdir, local or in a bucket."""
  kind = BucketStore if files.is_remote(workdir) else LocalStore
  return kind(workdir / NAME)


class LocalStore:
  """The lease as a local file; each access under an exclusive lock.

  The lock makes a check and the write that follows it one action. It is not
  the lease: it is held for an instant only and given back by name, as a child
  forked in that instant shares it.
  """

  def __init__(self, path: epath.Path):
    self.path = path

  def take(
      self, mine: Holder, replacing: Holder | None
  ) -> Holder | None:
    """Writes `mine` over no holder, a dead one or the one named.

    Returns:
      The holder that stays, or None if it is `mine` now.
    """
    with self._locked(os.O_RDWR | os.O_CREAT) as f:
      holder = _parse(f.read())
      if holder and not is_dead(holder) and holder != replacing:
        return holder
      self._write(f, mine)
      return None

  def read(self) -> Holder | None:
    """The holder now."""
    try:
      with self._locked(os.O_RDWR) as f:
        return _parse(f.read())
    except FileNotFoundError:
      return None

  def renew(self, mine: Holder) -> Holder | None:
    """Writes the heartbeat if the lease is still ours; returns the holder."""
    try:
      with self._locked(os.O_RDWR) as f:
        holder = _parse(f.read())
        if holder and holder.token == mine.token:
          self._write(f, mine)
        return holder
    except FileNotFoundError:
      return None

  def remove(self, token: str) -> None:
    """Removes the lease if it is still ours."""
    with contextlib.suppress(FileNotFoundError):
      with self._locked(os.O_RDWR) as f:
        holder = _parse(f.read())
        if holder and holder.token == token:
          os.unlink(self.path)

  @contextlib.contextmanager
  def _locked(self, flags: int):
    while True:
      f = os.fdopen(os.open(self.path, flags, 0o644), 'r+b', buffering=0)
      with f:
        try:
          fcntl.flock(f, fcntl.LOCK_EX)
        except OSError as e:
          if e.errno not in _NO_LOCKS:
            raise
        try:
          if self._is_current(f):
            yield f
            return
        finally:
          with contextlib.suppress(OSError):  # as where there are no locks
            fcntl.flock(f, fcntl.LOCK_UN)

  def _is_current(self, f) -> bool:
    """Whether nobody has removed the file before we got the lock."""
    try:
      return os.path.samestat(os.fstat(f.fileno()), os.stat(self.path))
    except FileNotFoundError:
      return False

  def _write(self, f, mine: Holder) -> None:
    text = json.dumps(dataclasses.asdict(mine), indent=2)
    os.pwrite(f.fileno(), text.encode().ljust(_RECORD_BYTES), 0)
    os.fsync(f.fileno())


class BucketStore:
  """The lease as an object; the last of two writers wins, and both see it."""

  def __init__(self, path: epath.Path):
    self.path = path

  def take(
      self, mine: Holder, replacing: Holder | None
  ) -> Holder | None:
    """As that of `LocalStore`."""
    holder = self.read()
    if holder and not is_dead(holder) and holder != replacing:
      return holder
    self._write(mine)
    time.sleep(_SETTLE_SECONDS)
    holder = self.read()
    return None if holder and holder.token == mine.token else holder

  def read(self) -> Holder | None:
    """The holder now."""
    try:
      return _parse(self.path.read_bytes())
    except FileNotFoundError:
      return None

  def renew(self, mine: Holder) -> Holder | None:
    """Writes the heartbeat if the lease is still ours; returns the holder."""
    holder = self.read()
    if holder and holder.token == mine.token:
      self._write(mine)
    return holder

  def remove(self, token: str) -> None:
    """Removes the lease if it is still ours."""
    holder = self.read()
    if holder and holder.token == token:
      self.path.unlink(missing_ok=True)

  def _write(self, mine: Holder) -> None:
    files.write_json(self.path, dataclasses.asdict(mine))


Store = LocalStore | BucketStore
