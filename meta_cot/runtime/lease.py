# SPDX-License-Identifier: Apache-2.0
"""One run at a time in a workdir, and a workdir that can be written.

`hold` keeps the file `lease.json`, which names its holder. A holder on this
machine is alive while its process is, so a killed one keeps nothing. Of a
holder elsewhere only the heartbeat in the file can be seen: it counts as dead
after a minute without one.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import time
import uuid

from meta_cot.runtime import files
from meta_cot.runtime import holder as holder_lib
from meta_cot.settings import config as config_lib

EXIT_LOST = 76
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # without a heartbeat; the holder is dead
_PROBE_BYTES = 1 << 16


@contextlib.contextmanager
def hold(
    workdir: files.Path, *, is_primary: bool = True,
    on_lost: Callable[[str], None] | None = None,
) -> Iterator[None]:
  """Keeps other runs out of `workdir` while inside.

  Args:
    workdir: an existing folder, or a bucket's.
    is_primary: only this process of a job holds the lease; the others pass.
    on_lost: called from a thread, with the reason, when another run has taken
      the lease or it cannot be renewed; by default the process ends at once
      with code 76, without writing anything.

  Raises:
    UserError: another run holds it; names host, process and start.
  """
  if not is_primary:
    yield
    return
  store = holder_lib.store_of(files.path(workdir))
  mine = holder_lib.myself()
  _acquire(store, mine)
  stop = threading.Event()
  thread = threading.Thread(
      target=_keep, args=(store, mine, stop, on_lost or _end_process),
      name='lease', daemon=True)
  thread.start()
  try:
    yield
  finally:
    if os.getpid() == mine.pid:  # a forked child holds nothing
      stop.set()
      thread.join()
      _remove(store, mine)


def check_writable(workdir: files.Path, num_bytes: int = 0) -> None:
  """Makes sure that a run can write to `workdir`; creates it if need be.

  Args:
    workdir: a local folder or a bucket's. The parents of a relative path are
      created too; those of an absolute one must exist, as a disk may not be
      mounted.
    num_bytes: that the run will write, roughly.

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
    _create(folder, is_relative=not os.fspath(workdir).startswith(
        ('/', '~', 'file:')))
    _write_probe(folder)
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
        'max_to_keep of a stage.')


def _create(folder: pathlib.Path, *, is_relative: bool) -> None:
  if not (is_relative or folder.parent.is_dir()):
    raise config_lib.UserError(
        f'--workdir: {folder}: there is no folder {folder.parent}; create it, '
        'or mount the disk.')
  folder.mkdir(parents=is_relative, exist_ok=True)


def _write_probe(folder: pathlib.Path) -> None:
  """Writes and syncs a file without a name, which no kill can leave behind."""
  with tempfile.TemporaryFile(dir=folder) as f:
    f.write(bytes(_PROBE_BYTES))
    f.flush()
    os.fsync(f.fileno())


def _acquire(store: holder_lib.Store, mine: holder_lib.Holder) -> None:
  """Writes `mine` as soon as no live holder is there."""
  other = store.take(mine, replacing=None)
  if other is None:
    return
  if holder_lib.is_dead(other) is None and not _lives(store, other):
    other = store.take(mine, replacing=other)
    if other is None:
      return
  raise config_lib.UserError(
      f'{store.path}: this workdir is in use by process {other.pid} on '
      f'{other.host} since {other.since} ({other.command}); wait for it, '
      'stop it, or use another --workdir.')


def _lives(store: holder_lib.Store, other: holder_lib.Holder) -> bool:
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


def _remove(store: holder_lib.Store, mine: holder_lib.Holder) -> None:
  try:
    store.remove(mine.token)
  except files.errors() as e:
    logging.warning('%s: not removed (%s)', store.path, e)


def _keep(
    store: holder_lib.Store, mine: holder_lib.Holder, stop: threading.Event,
    on_lost: Callable[[str], None],
) -> None:
  """Renews the heartbeat until `stop`, or until the lease is another's."""
  reason = 'it can no longer be renewed'
  try:
    while not stop.wait(HEARTBEAT_SECONDS):
      beat = dataclasses.replace(mine, heartbeat=time.time())
      try:
        holder = store.renew(beat)
      except files.errors() as e:
        logging.warning('%s: heartbeat not written (%s)', store.path, e)
        continue
      if holder is None or holder.token != mine.token:
        reason = 'it is gone' if holder is None else (
            f'process {holder.pid} on {holder.host} took it')
        return
  finally:
    if not stop.is_set():
      on_lost(f'{store.path}: the lease of this workdir is lost: {reason}')


def _end_process(reason: str) -> None:
  """Ends the process before it can write beside another run."""
  print(f'error: {reason}; this run ends.', file=sys.stderr, flush=True)
  os._exit(EXIT_LOST)
