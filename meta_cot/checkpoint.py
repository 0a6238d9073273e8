# SPDX-License-Identifier: Apache-2.0
"""Looks after the checkpoints of a workdir.

  python -m meta_cot.checkpoint verify --workdir=runs/a

Reads every file of every step again, changes nothing, and prints one line per
step: run, step, state, bytes and, where something is wrong, the file. Exit
codes: 0 the newest step of every run is whole, 1 one is not, 2 wrong usage.
"""

from collections.abc import Iterator, Sequence

from etils import epath

from meta_cot.runtime import files
from meta_cot.settings import command_line
from meta_cot.settings import config as config_lib
from meta_cot.training import integrity

EXIT_DAMAGED = 1
_FOLDERS = ('checkpoints', 'interrupted')
_MAX_DEPTH = 4  # of a run below the workdir


def main(argv: Sequence[str]) -> None:
  """Runs one subcommand.

  Raises:
    UserError: no such subcommand or workdir.
    SystemExit: the newest step of a run is not whole.
  """
  if not argv or argv[0] != 'verify':
    received = repr(argv[0]) if argv else 'nothing'
    raise config_lib.UserError(
        f'subcommand: got {received}; must be verify, as in '
        'python -m meta_cot.checkpoint verify --workdir=runs/a')
  flags, _ = command_line.split(argv[1:], ('workdir',))
  workdir = files.path(command_line.required(flags, 'workdir'))
  with files.named_errors():
    if not workdir.is_dir():
      raise config_lib.UserError(
          f'--workdir: got {workdir}; there is no such folder.')
    if not verify(workdir):
      raise SystemExit(EXIT_DAMAGED)


def verify(workdir: epath.Path) -> bool:
  """Prints the state of every step; are the newest of all runs whole?"""
  newest = []  # of every run with checkpoints: whether it is whole
  for directory in _checkpoint_folders(workdir, _MAX_DEPTH):
    name = '/'.join(directory.parts[len(workdir.parts):])
    states = [
        integrity.verify(directory, step)
        for step in integrity.steps(directory)]
    for state in states:
      words = [f'{state.num_bytes:,} bytes', state.problem]
      if state.extra:
        words.append(f'extra files: {", ".join(state.extra)}')
      print(name, state.step, state.status, *filter(None, words), sep='  ')
    for path in files.matching(directory / integrity.QUARANTINE, '*'):
      print(f'{name}  {path.name}  set aside earlier')
    newest += [state.status == 'ok' for state in states[-1:]]
  print(f'{len(newest)} runs with checkpoints, {sum(newest)} whose newest step '
        'is whole')
  return all(newest)


def _checkpoint_folders(folder: epath.Path, depth: int) -> Iterator[epath.Path]:
  for path in files.matching(folder, '*'):
    if path.is_dir():
      if path.name in _FOLDERS:
        yield path
      elif depth:
        yield from _checkpoint_folders(path, depth - 1)


if __name__ == '__main__':
  command_line.run(main, __doc__)
