# SPDX-License-Identifier: Apache-2.0
"""Settings of every test: fake devices, strict shapes, repeatable examples."""

import os
import pathlib
import shutil
import signal
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'  # child processes inherit it
# Tests compile much and compute little: three times faster without optimising.
os.environ['XLA_FLAGS'] = ' '.join((
    os.environ.get('XLA_FLAGS', ''), '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true'))
# One cache of compiled programs per run of the tests, for all its processes.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR',
    f'{tempfile.gettempdir()}/jax-cache-of-tests-{os.getpid()}')
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'

import hypothesis
import jax
import pytest

from tests import browser

# For child processes, whatever the tests run under.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

hypothesis.settings.register_profile(
    'repeatable', deadline=None, derandomize=True, max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile('repeatable')


# Without a browser its tests are left out, with a word.
_HAS_BROWSER = browser.find() is not None
collect_ignore = [] if _HAS_BROWSER else ['view_browser_test.py']


def pytest_report_header() -> str | None:
  """Says what is left out."""
  return None if _HAS_BROWSER else (
      'no Chromium: tests/view_browser_test.py is left out; install the '
      'package chromium')


def pytest_unconfigure():
  """Removes the cache; the process that made it does."""
  cache = os.environ['JAX_COMPILATION_CACHE_DIR']
  if cache.endswith(f'-of-tests-{os.getpid()}'):
    shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture(scope='module', autouse=True)
def room_for_programs():
  """Forgets compiled programs before the kernel's limit on mappings.

  Every program has several, a process may have 65,530, and XLA crashes when it
  gets no more.
  """
  yield
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and maps.read_bytes().count(b'\n') > 25_000:
    jax.clear_caches()


@pytest.fixture(scope='session')
def bucket(tmp_path_factory):
  """The name, `gs://...`, of a bucket on this machine; shared by all tests."""
  from tests import gcs_emulator
  with gcs_emulator.start(tmp_path_factory.mktemp('cache')) as name:
    yield name
