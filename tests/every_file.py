# SPDX-License-Identifier: Apache-2.0
"""Damages the files of a finished run, one at a time, and runs it again.

  python -m tests.every_file WORKDIR

Every stage reads what it left, as if the run had been killed before it was
marked as done. Prints a JSON object for each file and damage: what the run
ended with. A forked process has all modules already, so it takes seconds.
"""

from collections.abc import Callable, Iterator
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

from meta_cot import main
from meta_cot.settings import command_line
from tests import small_run

# Bytes of the file -> others.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    'half': lambda data: data[:len(data) // 2],
    'bit': lambda data: (
        data[:len(data) // 3] + bytes([data[len(data) // 3] ^ 4])
        + data[len(data) // 3 + 1:]),
    'list': lambda data: b'[1,2]',
    'deep': lambda data: b'[' * 100_000,
    'encoding': lambda data: b'\xff\xfe{\0"\0',
}
PLACES = ('missing', 'folder')  # what is there instead
# Programs and pictures are made again whatever stands there; steps of training
# have a test of their own.
_LEFT_OUT = re.compile(
    r'compilation_cache|\.png$|tensorboard|checkpoints/|best/')


def kinds(workdir: pathlib.Path) -> list[str]:
  """One file of each kind: which policy and which rows makes no difference."""
  found = {}
  for path in sorted(workdir.rglob('*')):
    name = str(path.relative_to(workdir))
    if path.is_file() and not _LEFT_OUT.search(name):
      kind = re.sub(
          r'\d+|^(rl|sft|value|words)/\w+/|rows/(?!symbolic).*/|(?<=begun/)\w+|'
          r'(?<=done/)\w+|(?<=machines/)\w+', '/', name)
      found.setdefault(kind, name)
  return list(found.values())


def damage(path: pathlib.Path, how: str) -> None:
  """Changes a file, or what stands in its place."""
  if how in DAMAGES:
    path.write_bytes(DAMAGES[how](path.read_bytes()))
    return
  path.unlink()
  if how == 'folder':
    path.mkdir()


def command(workdir: pathlib.Path) -> list[str]:
  """The run, with a stage of every kind."""
  return small_run.command(
      workdir, *small_run.SEARCH, *small_run.RL, *small_run.EPISODES,
      config='tests/every_stage.py')


def run(workdir: pathlib.Path) -> tuple[int, str]:
  """The exit code of a run in a process of its own, and what it printed."""
  with tempfile.TemporaryFile() as printed:
    pid = os.fork()
    if not pid:
      for number in (1, 2):
        os.dup2(printed.fileno(), number)
      sys.argv[1:] = command(workdir)[3:]
      try:
        command_line.run(main.main, '')
        code = 0
      except SystemExit as e:
        code = e.code or 0
      except BaseException:  # pylint: disable=broad-except
        sys.excepthook(*sys.exc_info())
        code = 1
      sys.stderr.flush()
      os._exit(code)  # pylint: disable=protected-access
    _, status = os.waitpid(pid, 0)
    printed.seek(0)
    return os.waitstatus_to_exitcode(status), printed.read().decode()


def cases(whole: pathlib.Path, workdir: pathlib.Path) -> Iterator[dict]:
  """Runs again after each damage of each file of the run in `whole`."""
  for name in kinds(whole):
    for how in (*DAMAGES, *PLACES):
      shutil.rmtree(workdir, ignore_errors=True)
      shutil.copytree(whole, workdir)
      if not name.startswith('done/'):
        shutil.rmtree(workdir / 'done')
      damage(workdir / name, how)
      code, printed = run(workdir)
      yield dict(
          file=name, damage=how, code=code, printed=printed,
          is_changed=not code and _results(whole) != _results(workdir))


def _results(workdir: pathlib.Path) -> list[bytes]:
  return [(workdir / name / 'summary.json').read_bytes()
          for name in ('evaluate', 'search', 'label', 'episodes')]


if __name__ == '__main__':
  os.environ['JAX_PLATFORMS'] = 'cpu'
  with tempfile.TemporaryDirectory() as scratch:
    for case in cases(pathlib.Path(sys.argv[1]), pathlib.Path(scratch, 'w')):
      print(json.dumps(case), flush=True)
