# SPDX-License-Identifier: Apache-2.0
"""Config files and the overrides of their fields.

The syntax is that of ml_collections' config flags:

  --config=configs/search.py:tiny      a file with `get_config(variant)`
  --config.sft.optimizer.learning_rate=1e-3
  --config.search.widths=1,2           or (1,2)
  --config.train.resume                or --noconfig.train.resume
  --config.data.limit=None

An override is read as the type that its field has in the loaded config. A
config file that lists `VARIANTS` has its variants checked and suggested. A
relative path is looked up in the current directory, then beside the installed
package, which brings `configs/`.
"""

import ast
from collections.abc import Sequence
import importlib.util
import inspect
import math
import pathlib
import re
import traceback
from typing import Any, NamedTuple

from ml_collections import config_dict

from meta_cot.settings import config as config_lib

ROOT = pathlib.Path(__file__).parents[2]  # has configs/
# What running a config file can raise.
_FILE_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError,
    NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError)
_BOOLEANS = {
    'true': True, '1': True, 'yes': True,
    'false': False, '0': False, 'no': False}


class Override(NamedTuple):
  """One `--config.a.b=text`; text None stands for a bare boolean flag."""

  key: str  # dotted, without 'config.'
  text: str | None
  negated: bool = False


def load(
    spec: str, overrides: Sequence[Override] = ()) -> config_dict.ConfigDict:
  """Loads 'path/to/file.py' or 'path/to/file.py:variant', locked.

  Overrides are applied in order: the last one of a key wins.

  Raises:
    ConfigError: no such file or variant, not a config file, wrong override.
  """
  # The last colon behind .py; a folder's name may have one too.
  match = re.fullmatch(r'(.*\.py)(?::(.*))?', spec, re.DOTALL)
  file, variant = match.groups('') if match else (spec, '')
  config = _build(_find(file), variant)
  for override in overrides:
    _apply(config, override)
  return config.lock()


def _find(file: str) -> pathlib.Path:
  """The file of that name, in one of the places where it may lie."""
  path = pathlib.Path(file).expanduser()
  places = [path] if path.is_absolute() else [path, ROOT / path]
  for place in places:
    try:
      if place.is_file():
        return place
    except OSError as e:  # such as a name that is too long
      raise config_lib.ConfigError(
          f'--config: {file[:60]!r}...: {e.strerror}.') from e
  raise config_lib.ConfigError(_no_such_file(path, places))


def _build(path: pathlib.Path, variant: str) -> config_dict.ConfigDict:
  """Calls `get_config(variant)` of the file at `path`."""
  if path.suffix != '.py':
    raise config_lib.ConfigError(f'--config: {path} must be a .py file.')
  module_spec = importlib.util.spec_from_file_location(
      f'config_file_{path.stem}', path)
  module = importlib.util.module_from_spec(module_spec)
  try:
    if b'\0' in (text := path.read_bytes()):
      line = text.partition(b'\0')[0].count(b'\n') + 1
      raise config_lib.ConfigError(
          f'--config: {path}:{line}: has a NUL byte; save it as UTF-8.')
    module_spec.loader.exec_module(module)
    make = getattr(module, 'get_config', None)
    if not callable(make):
      raise config_lib.ConfigError(
          f'--config: {path} must define get_config(variant).')
    _check_variant(path, variant, getattr(module, 'VARIANTS', None), make)
    config = make(variant) if inspect.signature(make).parameters else make()
  except config_lib.ConfigError:
    raise
  except _FILE_ERRORS as e:
    raise config_lib.ConfigError(_error_in(path, variant, e)) from e
  if not isinstance(config, config_dict.ConfigDict):
    raise config_lib.ConfigError(
        f'--config: {path}: get_config returned {type(config).__name__}; '
        'must be a ConfigDict.')
  return config


def _check_variant(path, variant, variants, make) -> None:
  """Refuses a variant that the file does not have."""
  if variants is not None and variant not in ('', *variants):
    raise config_lib.ConfigError(
        f'--config: {path} has no variant {variant!r}; '
        f'{config_lib.nearest(variant, [v for v in variants if v])}.')
  if variant and not inspect.signature(make).parameters:
    raise config_lib.ConfigError(
        f'--config: {path} has no variants; got {variant!r}.')


def _error_in(path: pathlib.Path, variant: str, error: Exception) -> str:
  """One line for what running the file raised, with the line of the file."""
  if isinstance(error, SyntaxError):
    file, line = error.filename or path, error.lineno
    where, words = '', error.msg
  else:
    file, where = path, variant and f', variant {variant!r}'
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if pathlib.Path(frame.filename) == path.absolute()]
    line, words = lines[-1] if lines else 1, str(error)
  return (f'--config: {file}:{line or 1}{where}: {type(error).__name__}: '
          f'{" ".join(words.split())}')


def _apply(config: config_dict.ConfigDict, override: Override) -> None:
  """Sets one field, read as the type that it has."""
  *groups, leaf = override.key.split('.')
  path, group = 'config', config
  for name in (*groups, leaf):
    if not isinstance(group, config_dict.ConfigDict):
      raise config_lib.ConfigError(
          f'{path}: is a value, not a group; it has no {name!r}. '
          f'Write --{path}=VALUE.')
    if name not in group:
      raise config_lib.ConfigError(
          config_lib.unknown_key(path, name, tuple(group.keys())))
    path, parent, group = f'{path}.{name}', group, group[name]
  if isinstance(group, config_dict.ConfigDict):
    keys = ', '.join(f'{path}.{key}' for key in sorted(group.keys()))
    raise config_lib.ConfigError(
        f'{path}: is a group of settings; set one of {keys}.')
  kind = parent.get_type(leaf)
  text = override.text
  if override.negated or text is None:
    if kind is not bool or (override.negated and text is not None):
      prefix = 'no' if override.negated else ''
      raise config_lib.ConfigError(
          f'--{prefix}{path}: needs a value of type {kind.__name__}; write '
          f'--{path}=VALUE.')
    parent[leaf] = not override.negated
    return
  parent[leaf] = _read(path, text, kind, group)


def _read(path: str, text: str, kind: type, now: Any) -> Any:
  """`text` as `kind`; `now` is the value it replaces."""
  if text == 'None':
    return None
  if kind in (tuple, list):
    return kind(_items(path, text, now))
  if kind is object:  # one value, or a tuple of them
    is_one = text[:1] not in ('(', '[') and ',' not in text
    now = now if isinstance(now, tuple) else (now,)
    return _scalar(text) if is_one else tuple(_items(path, text, now))
  if kind is str:
    return text
  if kind is bool and text.lower() in _BOOLEANS:
    return _BOOLEANS[text.lower()]
  if kind is type(None):  # an optional field: its settings class checks it
    return _scalar(text)
  value = _number(text, kind) if kind in (int, float) else None
  if value is None:
    words = {
        int: 'an integer such as 3', float: 'a finite number such as 1e-3',
        bool: 'true or false'}
    raise config_lib.ConfigError(
        f'{path}: got {text!r}; must be {words.get(kind, kind.__name__)}.')
  return value


def _items(path: str, text: str, now: Sequence) -> list:
  """Items of '(1, 2)', '[1, 2]' or '1,2', of the type of those before.

  They are read as Python writes them; words need no quotes.
  """
  try:
    body = ast.parse(text.strip() or '()', mode='eval').body
  except (SyntaxError, ValueError):  # not Python: words such as gs://bucket/a
    if re.search(r'[\'"()\[\]]', text):
      raise config_lib.ConfigError(
          f"{path}: got {text!r}; must be items such as a,b or ('a,b', 'c')."
      ) from None
    items = [(word, None) for word in map(str.strip, text.split(',')) if word]
  else:
    nodes = body.elts if isinstance(body, ast.Tuple | ast.List) else [body]
    items = [(ast.get_source_segment(text.strip(), n), n) for n in nodes]
  return [
      _item(f'{path}[{i}]', *item, now) for i, item in enumerate(items)]


def _item(path: str, text: str, node: ast.expr | None, now: Sequence) -> Any:
  """One item; `node` is its syntax, None for a word that has none."""
  kind = type(now[0]) if now else None
  if float in map(type, now):
    kind = float
  if kind in (str, None) and (
      isinstance(node, ast.Constant) and isinstance(node.value, str)):
    return node.value
  if isinstance(node, ast.Tuple | ast.List) and kind in (tuple, list, None):
    return (kind or tuple)(_items(path, text, now[0] if now else ()))
  if kind is str:
    return text
  return _scalar(text) if kind is None else _read(path, text, kind, ())


def _scalar(text: str) -> Any:
  """A number, a boolean, None, or else the text itself."""
  if text == 'None':
    return None
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  for kind in (int, float):
    value = _number(text, kind)
    if value is not None:
      return value
  is_quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in '\'"'
  return text[1:-1] if is_quoted else text


def _number(text: str, kind: type) -> int | float | None:
  try:
    value = kind(text)
  except ValueError:
    return None
  return value if isinstance(value, int) or math.isfinite(value) else None


def _no_such_file(path: pathlib.Path, places: list[pathlib.Path]) -> str:
  """One line for a config file that is not there."""
  folders = [place.parent for place in places] + [ROOT / 'configs']
  folder = next((f for f in folders if f.is_dir()), None)
  there = sorted(
      p.as_posix() for p in folder.glob('*.py')
      if b'\ndef get_config(' in p.read_bytes()) if folder else []
  hint = config_lib.nearest(path.as_posix(), there) if there else (
      'check the path')
  looked = ', '.join(str(place.parent.absolute()) for place in places)
  return (f'--config: no such file {path.as_posix()!r}; looked in {looked}; '
          f'{hint}.')
