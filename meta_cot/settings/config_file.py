# SPDX-License-Identifier: Apache-2.0
"""Config files and the overrides of their fields.

The syntax is that of ml_collections' config flags:

  --config=configs/search.py:tiny      a file with `get_config(variant)`
  --config.optimizer.learning_rate=1e-3
  --config.search.widths=1,2           or (1,2)
  --config.train.resume                or --noconfig.train.resume
  --config.data.limit=None

An override is read as the type that its field has in the loaded config. A
config file that lists `VARIANTS` has its variants checked and suggested.
"""

from collections.abc import Sequence
import difflib
import importlib.util
import math
import pathlib
from typing import Any, NamedTuple

from ml_collections import config_dict

from meta_cot.settings import config as config_lib

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
  """Loads a config file and applies overrides.

  Args:
    spec: 'path/to/file.py' or 'path/to/file.py:variant'.
    overrides: applied in order; the last one of a key wins.

  Returns:
    The config, locked.

  Raises:
    ConfigError: no such file or variant, not a config file, wrong override.
  """
  file, _, variant = spec.partition(':')
  path = pathlib.Path(file)
  if not path.is_file():
    raise config_lib.ConfigError(_no_such_file(path))
  config = _build(path, variant)
  for override in overrides:
    _apply(config, override)
  return config.lock()


def choices(received: str, allowed: Sequence[str]) -> str:
  """Words for what is allowed, with the nearest to what was received."""
  near = difflib.get_close_matches(received, allowed, n=1, cutoff=0.5)
  words = f'must be one of {", ".join(allowed)}'
  return f'did you mean {near[0]!r}? It {words}' if near else words


def _build(path: pathlib.Path, variant: str) -> config_dict.ConfigDict:
  """Calls `get_config(variant)` of the file at `path`."""
  module_spec = importlib.util.spec_from_file_location(
      f'config_file_{path.stem}', path)
  if module_spec is None or module_spec.loader is None:
    raise config_lib.ConfigError(f'--config: {path} must be a .py file.')
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
  except SyntaxError as e:
    raise config_lib.ConfigError(
        f'--config: {e.filename}:{e.lineno}: {e.msg}.') from None
  if not callable(module.__dict__.get('get_config')):
    raise config_lib.ConfigError(
        f'--config: {path} must define get_config(variant).')
  variants = module.__dict__.get('VARIANTS')
  if variants is not None and variant not in ('', *variants):
    raise config_lib.ConfigError(
        f'--config: {path} has no variant {variant!r}; '
        f'{choices(variant, [v for v in variants if v])}.')
  try:
    config = module.get_config(variant)
  except (ValueError, KeyError) as e:
    # Files without VARIANTS refuse a variant by raising.
    raise config_lib.ConfigError(
        f'--config: {path}, variant {variant!r}: {e.args[0]!s}') from e
  if not isinstance(config, config_dict.ConfigDict):
    raise config_lib.ConfigError(
        f'--config: get_config of {path} returned {type(config).__name__}; '
        'must be a ConfigDict.')
  return config


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
  """Items of '(1, 2)', '[1, 2]' or '1,2', of the type of those before."""
  inner = text.strip()
  for opening, closing in ('()', '[]'):
    if inner.startswith(opening) and inner.endswith(closing):
      inner = inner[1:-1]
  parts = [part.strip() for part in inner.split(',')]
  if parts[-1] == '':  # '' and the trailing comma of '(1,)'
    parts.pop()
  if not now:
    return [_scalar(part) for part in parts]
  kind = float if float in map(type, now) else type(now[0])
  if kind is str:
    return [_unquoted(part) for part in parts]
  return [_read(f'{path}[{i}]', p, kind, None) for i, p in enumerate(parts)]


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
  return _unquoted(text)


def _number(text: str, kind: type) -> int | float | None:
  try:
    value = kind(text)
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def _unquoted(text: str) -> str:
  if len(text) >= 2 and text[0] == text[-1] and text[0] in '\'"':
    return text[1:-1]
  return text


def _no_such_file(path: pathlib.Path) -> str:
  """One line for a config file that is not there."""
  folder = path.parent if path.parent.is_dir() else pathlib.Path('configs')
  there = sorted(
      p.as_posix() for p in folder.glob('*.py') if p.stem != '__init__')
  hint = choices(path.as_posix(), there) if there else 'check the path'
  return f'--config: no such file {path.as_posix()!r}; {hint}.'
