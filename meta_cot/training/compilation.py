# SPDX-License-Identifier: Apache-2.0
"""Compilations: counted, so that a recompile is seen, and kept on disk."""

import logging
import pathlib
import zlib

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'
_totals = {'programs': 0, 'seconds': 0.0}


def _listen(event: str, seconds: float, **_) -> None:
  if event == _EVENT:
    _totals['programs'] += 1
    _totals['seconds'] += seconds


jax.monitoring.register_event_duration_secs_listener(_listen)


def num_programs() -> int:
  """Programs compiled, or read from the cache, by this process so far."""
  return int(_totals['programs'])


def seconds() -> float:
  """Seconds this process has spent on that."""
  return _totals['seconds']


def use_cache(directory: str) -> None:
  """Keeps compiled programs in a directory or bucket for the next process.

  JAX does not write a program atomically, and keeps what a kill cut off for
  ever: such files are removed first. They only cost time.
  """
  if '://' not in directory:
    for path in pathlib.Path(directory).glob('*-cache'):
      if not _is_whole(path.read_bytes()):
        logging.warning('%s: cut off; compiling that program again', path)
        path.unlink(missing_ok=True)
  jax.config.update('jax_compilation_cache_dir', directory)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def _is_whole(entry: bytes) -> bool:
  """Whether a zlib stream ends and has its checksum; JAX checks zstd's."""
  if entry[:1] != b'\x78':  # first byte of zlib
    return bool(entry)
  try:
    zlib.decompress(entry)
  except zlib.error:
    return False
  return True
