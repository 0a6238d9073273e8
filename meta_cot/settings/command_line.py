# SPDX-License-Identifier: Apache-2.0
"""The command line: flags and config overrides, with one-line errors.

`--config=FILE[:VARIANT] --workdir=DIR [--stages=a,b] [--profile=FIRST:LAST]
[--config.KEY=VALUE]`.
Everything is read before any work starts; what is wrong is answered by one
line on stderr and exit code 2, or 1 where it may work later.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import difflib
import errno
import os
import re
import sys
from typing import Any, NamedTuple, TextIO

from ml_collections import config_dict

from meta_cot.settings import config as config_lib
from meta_cot.settings import config_file

_EXIT_PIPE = 128 + 13  # as ended by SIGPIPE
_MAX_WORD = 200  # letters, in an error
_PROFILE = 'profile_steps'  # of a stage that can trace steps


class Arguments(NamedTuple):
  """What a command was asked to do."""

  config: config_dict.ConfigDict  # locked
  workdir: str
  stages: tuple[str, ...] | None  # None = those of the config


def parse(argv: Sequence[str]) -> Arguments:
  """Reads `--config`, `--workdir`, `--stages`, `--profile` and overrides.

  Args:
    argv: arguments without the program's name.

  Raises:
    ConfigError: one line that names the flag or field, what was received and
      what is allowed.
  """
  flags, overrides = split(argv, ('config', 'workdir', 'stages', 'profile'))
  config = config_file.load(required(flags, 'config'), overrides)
  if flags.get('profile'):
    _set_profile(config, flags['profile'])
  workdir, stages = required(flags, 'workdir'), None
  if 'stages' in flags:
    stages = tuple(filter(None, flags['stages'].split(',')))
    if not stages:
      raise config_lib.ConfigError(
          '--stages: got nothing; name stages as in --stages=a,b or leave the '
          'flag out.')
  return Arguments(config, workdir, stages)


def _set_profile(config: config_dict.ConfigDict, text: str) -> None:
  """Traces these steps in every stage that can."""
  if not re.fullmatch(r'\d+:\d+', text):
    raise config_lib.ConfigError(
        f'--profile: got {text!r}; must be FIRST:LAST, steps such as 10:12.')
  stages = [
      group for group in config.values()
      if isinstance(group, config_dict.ConfigDict) and _PROFILE in group]
  if not stages:
    raise config_lib.ConfigError('--profile: no stage of this config trains.')
  for group in stages:
    group[_PROFILE] = tuple(int(step) for step in text.split(':'))


def required(flags: dict[str, str], name: str) -> str:
  """The value of a flag that must be given; ConfigError without it."""
  if flags.get(name):
    return flags[name]
  examples = dict(config='configs/search.py:tiny', workdir='runs/tiny')
  raise config_lib.ConfigError(
      f'--{name}: missing; give one, such as '
      f'--{name}={examples.get(name, "...")}')


def split(
    argv: Sequence[str], names: Sequence[str],
) -> tuple[dict[str, str], list[config_file.Override]]:
  """Separates the flags `names`, by name, from config overrides, in order.

  Raises:
    ConfigError: an argument is neither.
  """
  flags, overrides, rest = {}, [], list(argv)
  while rest:
    argument = rest.pop(0)
    if not argument.startswith('-') or argument in ('-', '--'):
      raise config_lib.ConfigError(
          f'{argument!r}: unexpected argument; the flags are '
          f'{_flag_list(names)}.')
    name, equals, text = argument.lstrip('-').partition('=')
    value = text if equals else None
    is_negated = name.startswith('noconfig.')
    if not equals and not is_negated and rest and not rest[0].startswith('--'):
      value = rest.pop(0)
    if name.startswith(('config.', 'noconfig.')) and 'config' in names:
      key = name.partition('.')[2]
      overrides.append(config_file.Override(key, value, is_negated))
    elif name not in names:
      near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
      hint = f'did you mean --{near[0]}?' if near else (
          f'the flags are {_flag_list(names)}.')
      raise config_lib.ConfigError(f'--{name}: no such flag; {hint}')
    elif value is None:
      raise config_lib.ConfigError(
          f'--{name}: got no value; write --{name}=VALUE.')
    else:
      flags[name] = value
  return flags, overrides


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Turns a UserError into one line on stderr and its exit code."""
  try:
    yield
  except config_lib.UserError as e:
    words = (
        word if len(word) < _MAX_WORD else f'{word[:_MAX_WORD]}...'
        for word in str(e).split())
    with contextlib.suppress(OSError):  # nobody reads it
      print('error:', *words, file=sys.stderr)
    raise SystemExit(e.exit_code) from None


def run(main: Callable[[Sequence[str]], Any], usage: str) -> None:
  """Calls `main(argv)`: `--help` prints `usage`, wrong settings one line.

  Whoever reads what is printed may stop at any time: exit code 141, no word.
  """
  _open_streams()
  argv = sys.argv[1:]
  try:
    if {'-h', '--help'} & set(argv):
      print(usage.strip())
    else:
      with one_line_errors():
        main(argv)
    sys.stdout.flush()
  except OSError as e:  # files have names
    if e.filename or e.errno not in (errno.EPIPE, errno.ENOSPC):
      raise
    if isinstance(e, BrokenPipeError):
      raise SystemExit(_EXIT_PIPE) from None
    with one_line_errors():
      raise config_lib.UserError(
          f'stdout: {e.strerror}; what is printed has no room.') from None
  finally:
    for stream in filter(_is_broken, (sys.stdout, sys.stderr)):
      # Else the interpreter fails at its end.
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_streams() -> None:
  """Opens those of the three standard streams that are closed.

  Else the next file to be opened has the number of one, and is written to by
  whatever prints.
  """
  for number, name in enumerate(('stdin', 'stdout', 'stderr')):
    try:
      os.fstat(number)
    except OSError:  # the lowest number that is free is this one
      os.open(os.devnull, os.O_RDWR)
      setattr(sys, name, open(number, 'w' if number else 'r', closefd=False))


def _is_broken(stream: TextIO) -> bool:
  """Whether what is written to it arrives nowhere."""
  try:
    stream.flush()
  except OSError:
    return True
  return False


def _flag_list(names: Sequence[str]) -> str:
  dotted = ', --config.KEY=VALUE' if 'config' in names else ''
  return ', '.join(f'--{name}=' for name in names) + dotted
