# SPDX-License-Identifier: Apache-2.0
"""A clone of the launcher that talks to the cluster of tests/fake_kubernetes.

Its pods run launch/tpu/pod.sh here, out of what docker was given to build; only
the Python of a container is the stand-in of tests/fake_cloud.py.
"""

import os
import pathlib
import shutil
import signal
import sys

import yaml

from tests import fake_cloud

SETTINGS = {
    'VIA': 'gke', 'CLUSTER': 'cluster', 'IMAGE': 'us-docker.pkg.dev/p/a/meta',
    'WATCH_SECONDS': '0.1', 'RETRY_SECONDS': '0.1'}


class Cluster(fake_cloud.Cloud):
  """A clone of the launcher, its settings and the cluster."""

  def __init__(
      self, folder: pathlib.Path, template: 'Cluster | None' = None) -> None:
    super().__init__(folder, template)
    self.environment['FAKE_PACKAGES'] = str(
        pathlib.Path(yaml.__file__).parents[1])
    for name in ('kubectl', 'docker', 'gcloud'):
      path = folder / 'path' / name
      path.write_text(
          f'#!/bin/sh\nexec {sys.executable} -S -E '
          f'{fake_cloud.ROOT / "tests" / "fake_kubernetes"} {name} "$@"\n')
      path.chmod(0o755)

  def write_settings(self, **changes: str | None) -> None:
    super().write_settings(**(SETTINGS | changes))

  def ready(self) -> None:
    """What setup leaves."""
    shutil.copytree(self.template.state / 'images', self.state / 'images')
    shutil.copytree(
        self.template.repository / 'runs', self.repository / 'runs')

  def has_logged(self, rank: int, word: str, count: int = 1) -> bool:
    """Whether the launcher has copied the word from logs of the rank."""
    texts = [p.read_text() for p in self.repository.glob(
        f'runs/pod/logs/*/rank-{rank:03d}*.log')]
    return ''.join(texts).count(word) >= count

  def lose(self, reason: str, rank: int) -> None:
    """Takes a pod away."""
    (self.state / 'lose.new').write_text(f'{reason} {rank}')
    (self.state / 'lose.new').rename(self.state / 'lose')

  def close(self) -> None:
    super().close()
    for path in self.state.glob('pods/*/pid'):
      if not path.with_name('code').exists():
        try:
          os.killpg(os.getpgid(int(path.read_text())), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
          continue
