# SPDX-License-Identifier: Apache-2.0
"""Worker processes that write shards and end when their parent does."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import multiprocessing
from multiprocessing import connection
import os
import threading
from typing import Any

from meta_cot.runtime import status


def run(
    jobs: Sequence[Callable[[], Any]], num_processes: int, *, name: str
) -> None:
  """Runs the jobs, in this process or in workers, and reports progress.

  Args:
    jobs: picklable where there are several processes; the log has the `str` of
      what they return.
    num_processes: 1 runs the jobs in this process.
    name: of the work, for progress.
  """
  shown = status.Status(name, len(jobs), 'shard')
  for i, result in enumerate(_completed(jobs, num_processes), 1):
    shown.update(i, str(result))
  shown.close()


def _completed(
    jobs: Sequence[Callable[[], Any]], num_processes: int) -> Iterator[Any]:
  """Yields the results of the jobs as they end."""
  if num_processes == 1 or len(jobs) < 2:
    yield from (job() for job in jobs)
    return
  executor = concurrent.futures.ProcessPoolExecutor(
      min(num_processes, len(jobs)), multiprocessing.get_context('spawn'),
      initializer=_end_with_parent)
  try:
    futures = [executor.submit(job) for job in jobs]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()
  finally:
    executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
  """Ends this worker when its parent is killed; else it would wait forever."""
  parent = multiprocessing.parent_process()

  def wait():
    connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
