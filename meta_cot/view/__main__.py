# SPDX-License-Identifier: Apache-2.0
"""Draws a workdir as one self-contained HTML page.

  python -m meta_cot.view --workdir=runs/a [--output=runs/a/run.html]
      [--max_rollouts=1000] [--max_problems=40] [--atif=FOLDER]

The page needs no network and opens from a file. It may be made while the run
goes on. `--max_rollouts` bounds the kept rollouts that it shows, evenly of all
policies of RL and of evenly spaced iterations, `--max_problems` the searches of
each stage. `--atif` also writes all kept rollouts as trajectories of ATIF v1.7,
a JSON file each.
"""

from collections.abc import Sequence
import logging

from meta_cot.runtime import files
from meta_cot.settings import command_line
from meta_cot.settings import config as config_lib
from meta_cot.view import page
from meta_cot.view import rollouts
from meta_cot.view import run as run_lib

_NUMBERS = dict(max_rollouts=1000, max_problems=40)


def main(argv: Sequence[str]) -> None:
  """Writes the page, and the trajectories if they are wanted.

  Raises:
    UserError: no such workdir, a file of it is damaged, or wrong usage.
  """
  flags, _ = command_line.split(
      argv, ('workdir', 'output', 'atif', *_NUMBERS))
  numbers = {
      name: _number(name, flags.get(name, str(default)))
      for name, default in _NUMBERS.items()}
  logging.basicConfig(level=logging.INFO, format='%(message)s', force=True)
  with files.named_errors():
    workdir = files.path(command_line.required(flags, 'workdir'))
    output = files.path(flags.get('output', workdir / 'run.html'))
    text = page.render(run_lib.read(workdir, **numbers))
    files.write_atomic(output, text)
    logging.info('%s: %.1f MB', output, len(text.encode()) / 1e6)
    if 'atif' in flags:
      number = rollouts.export(workdir, files.path(flags['atif']))
      logging.info('%s: %d trajectories', flags['atif'], number)


def _number(name: str, text: str) -> int:
  if not text.isdecimal() or len(text) > 9:
    raise config_lib.UserError(
        f'--{name}: got {text!r}; must be a whole number, at least 0.')
  return int(text)


if __name__ == '__main__':
  command_line.run(main, __doc__)
