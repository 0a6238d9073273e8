# SPDX-License-Identifier: Apache-2.0
"""A bucket on this machine: gcp-storage-emulator, made to keep conditions.

`start()` runs it in a process of its own and sets the variables by which gcsfs
and TensorStore find it, here and in child processes. They remember what they
found, so a process of tests starts it once (`bucket` in conftest.py). The
package answers
`ifGenerationMatch` and `ifGenerationNotMatch` with success whatever there is,
and leaves out the generation of what it sends; TensorStore needs both.
"""

from collections.abc import Iterator
import contextlib
import functools
import http
from http import server as http_server
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from gcp_storage_emulator import exceptions
from gcp_storage_emulator import server
from gcp_storage_emulator import storage as storage_lib

BUCKET = 'bucket'
_LOCK = threading.Lock()  # the storage is not made for threads


@contextlib.contextmanager
def start(cache_folder: pathlib.Path) -> Iterator[str]:
  """Runs the emulator with an empty bucket; yields the bucket's name.

  Args:
    cache_folder: where copies of objects go (XDG_CACHE_HOME).
  """
  process = subprocess.Popen(
      [sys.executable, __file__], stdout=subprocess.PIPE, text=True,
      stderr=subprocess.DEVNULL)
  try:
    address = f'http://127.0.0.1:{int(process.stdout.readline())}'
    variables = dict(
        STORAGE_EMULATOR_HOST=address, TENSORSTORE_GCS_HTTP_URL=address,
        GOOGLE_AUTH_TOKEN_FOR_TESTING='none', XDG_CACHE_HOME=str(cache_folder),
        # Else every access first asks Google what kind of bucket it is.
        GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT='false')
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
      _wait_for(f'{address}/storage/v1/b?project=any')
      yield f'gs://{BUCKET}'
    finally:
      for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
          os.environ[name] = value
  finally:
    process.kill()
    process.wait()


def _wait_for(url: str) -> None:
  for _ in range(100):
    try:
      urllib.request.urlopen(url, timeout=10).close()
      return
    except urllib.error.URLError:
      time.sleep(0.1)
  raise TimeoutError('the emulator did not start')


def _generation(request, storage) -> str:
  """Of the object a request is about; '0' if there is none."""
  name = request.params.get('object_id') or request.query.get('name', [''])[0]
  if not name and isinstance(request.data, dict):
    name = request.data.get('meta', request.data).get('name', '')
  try:
    return storage.get_file_obj(
        request.params['bucket_name'], name)['generation']
  except exceptions.NotFound:
    return '0'


def _keeps_conditions(handle):
  """The handler, preceded by the check of its request's conditions."""

  def wrapped(request, response, storage, *args, **kwargs):
    with _LOCK:
      if 'bucket_name' in request.params:
        generation = _generation(request, storage)
        wanted = request.query.get('ifGenerationMatch', [generation])[0]
        known = request.query.get('ifGenerationNotMatch', [None])[0]
        if wanted != generation:
          response.status = http.HTTPStatus.PRECONDITION_FAILED
          return
        if known == generation:
          response.status = http.HTTPStatus.NOT_MODIFIED
          return
        response['x-goog-generation'] = generation
      handle(request, response, storage, *args, **kwargs)

  return wrapped


def main() -> None:
  """Serves until it is killed; prints its port."""
  server.HANDLERS = tuple(
      (pattern, {m: _keeps_conditions(h) for m, h in handlers.items()})
      for pattern, handlers in server.HANDLERS)
  storage = storage_lib.Storage(use_memory_fs=True)
  storage.create_bucket(BUCKET, {'name': BUCKET, 'id': BUCKET})
  with http_server.ThreadingHTTPServer(
      ('127.0.0.1', 0),
      functools.partial(server.RequestHandler, storage)) as httpd:
    print(httpd.server_port, flush=True)
    httpd.serve_forever()


if __name__ == '__main__':
  main()
