# SPDX-License-Identifier: Apache-2.0
"""Typed settings: frozen dataclasses checked against an ml_collections config.

A group of settings is a frozen dataclass whose fields are made with
`setting(...)`, of type T, T | None, tuple[T, ...] or T | tuple[T, ...], in this
order; `parse` builds it from a ConfigDict (or mapping) and refuses wrong keys,
types and values with one line that names the field, what was received and what
is allowed.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import difflib
import math
import operator
import re
import types
import typing
from typing import Any

# Numbers go into arrays of 32 bits.
_MAX_INT = 2**31 - 1
_MIN_FLOAT, _MAX_FLOAT = 1.2e-38, 3.4e38
_BEYOND_FLOAT = 10 ** 39  # is refused


class UserError(ValueError):
  """What the user gave is wrong: a file, a folder, a setting; one line."""

  exit_code = 2  # nothing restarts what ends with it


class UnavailableError(UserError):
  """What was needed is away: a process, a bucket; the same may work later."""

  exit_code = 1


class ConfigError(UserError):
  """A setting is wrong; the message names it and what is allowed."""


def setting(
    *, choices: Collection | None = None, low: float | None = None,
    high: float | None = None, above: float | None = None,
    below: float | None = None, min_items: int = 0, is_unique: bool = False,
    is_free: bool = False, kinds: Mapping[str, type] | None = None,
) -> Any:
  """Declares a field with its allowed values.

  Args:
    choices: the only ones.
    low: inclusive.
    high: inclusive; of an integer 2^31 - 1 by default.
    above: exclusive lower bound.
    below: exclusive upper bound.
    min_items: of a tuple.
    is_unique: no item of a tuple may stand there twice.
    is_free: it does not change what is made, only how fast or how often one
      looks: it may differ between two commands on one workdir.
    kinds: of a group; which type it has, by its key `kind`. No two kinds share
      a type.
  """
  return dataclasses.field(metadata=dict(
      choices=choices, low=low, high=high, above=above, below=below,
      min_items=min_items, is_unique=is_unique, is_free=is_free, kinds=kinds))


def parse(
    cls: type | Mapping[str, type], values: Mapping[str, Any],
    path: str = 'config',
) -> Any:
  """Builds the settings dataclass `cls`, and those of its fields' types.

  Args:
    cls: a frozen dataclass with `setting` fields, or several by name: that of
      the entry `kind`.
    values: one entry per field; 'a.b' is entry b of group a.
    path: dotted name of this group, for messages.

  Raises:
    ConfigError: unknown or missing key, wrong type, value out of range.
  """
  if not hasattr(values, 'keys'):
    raise ConfigError(f'{path}: got {values!r}; must be a group of settings.')
  values = _grouped(values)
  if isinstance(cls, Mapping):
    cls = of_kind(cls, values.pop('kind', None), path)
  fields = {f.name: f for f in dataclasses.fields(cls)}
  hints = typing.get_type_hints(cls)
  for key in values:
    if key not in fields:
      raise ConfigError(unknown_key(path, key, tuple(fields)))
  parsed = {}
  for name, field in fields.items():
    if name not in values:
      raise ConfigError(f'{path}.{name}: missing; it must be set.')
    group = field.metadata.get('kinds') or hints[name]
    if isinstance(group, Mapping) or dataclasses.is_dataclass(group):
      parsed[name] = parse(group, values[name], f'{path}.{name}')
    else:
      parsed[name] = _checked(
          f'{path}.{name}', values[name], hints[name], field.metadata)
  try:
    return cls(**parsed)
  except ConfigError as e:
    raise ConfigError(f'{path}.{e}') from None


def of_kind(kinds: Mapping[str, Any], kind: Any, path: str) -> Any:
  """Looks up the entry `kind` of the group `path`; a ConfigError if it is none.
  """
  if kind is None:
    raise ConfigError(
        f'{path}.kind: missing; must be one of {", ".join(kinds)}.')
  if not isinstance(kind, str) or kind not in kinds:
    raise ConfigError(f'{path}.kind: got {kind!r}; {nearest(kind, kinds)}.')
  return kinds[kind]


def nearest(received: Any, allowed: Sequence[str]) -> str:
  """Words for what is allowed, with the nearest to what was received."""
  near = difflib.get_close_matches(str(received), allowed, n=1, cutoff=0.5)
  words = f'must be one of {", ".join(allowed)}'
  return f'did you mean {near[0]!r}? It {words}' if near else words


def _grouped(values: Mapping[str, Any]) -> dict[str, Any]:
  """Moves 'a.b' into group a; a later entry replaces an earlier one."""
  grouped = {}
  for key, value in values.items():
    group, dot, rest = key.partition('.')
    grouped[group] = (
        {**grouped.get(group, {}), rest: value} if dot else value)
  return grouped


def unknown_key(path: str, key: str, known: tuple[str, ...]) -> str:
  """One line for a key that does not exist, with the nearest one that does."""
  near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
  hint = f'did you mean {path}.{near[0]}?' if near else (
      f'the keys of {path} are {", ".join(sorted(known))}.')
  return f'{path}.{key}: no such key; {hint}'


def bound(settings: Any) -> dict[str, Any]:
  """Returns the settings that are not free, as nested dicts with `kind`s."""
  values = {}
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if field.metadata.get('is_free'):
      continue
    if dataclasses.is_dataclass(value):
      values[field.name] = bound(value)
      for kind, cls in (field.metadata.get('kinds') or {}).items():
        if cls is type(value):
          values[field.name]['kind'] = kind
    else:
      values[field.name] = value
  return values


def differences(
    theirs: Mapping[str, Any], mine: Mapping[str, Any], *, where: str
) -> list[str]:
  """Lists what nested settings differ in, a few words for each field.

  Tuples equal lists. `where` says where `theirs` were found, such as 'there'.
  """
  theirs, mine = _flat(theirs), _flat(mine)
  shown = lambda values, key: repr(values[key]) if key in values else 'not set'
  return [
      f'config.{key}: {shown(theirs, key)} {where}, {shown(mine, key)} now'
      for key in sorted(theirs.keys() | mine.keys())
      if shown(theirs, key) != shown(mine, key)]


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = (
          list(value) if isinstance(value, tuple) else value)
  return flat


def _kind(kinds: Sequence[Any], value: Any) -> tuple[Any, bool]:
  """The type that a value should have, and whether it may also be a tuple."""
  single, *several = [k for k in kinds if k is not type(None)]
  if several and isinstance(value, (tuple, list)):
    return several[0], True
  return single, bool(several)


def _checked(name: str, value: Any, hint: Any, limits: Mapping) -> Any:
  """Returns `value` as its declared type, or raises ConfigError."""
  kinds = (
      typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,))
  if value is None and type(None) in kinds:
    return None
  kind, can_be_several = _kind(kinds, value)
  if typing.get_origin(kind) is tuple:
    item = typing.get_args(kind)[0]
    if not isinstance(value, (tuple, list)):
      raise ConfigError(
          f'{name}: got {value!r}; must be a tuple of {item.__name__}.')
    items = tuple(
        _checked(f'{name}[{i}]', v, item, limits) for i, v in enumerate(value))
    if len(items) < limits.get('min_items', 0):
      raise ConfigError(
          f'{name}: got {items!r}; must have at least {limits["min_items"]}.')
    for i, v in enumerate(items) if limits.get('is_unique') else ():
      if v in items[:i]:
        raise ConfigError(
            f'{name}[{i}]: got {v!r} a second time; must be there once.')
    return items
  if kind is float and type(value) is int:
    value = float(min(max(value, -_BEYOND_FLOAT), _BEYOND_FLOAT))
  if type(value) is not kind:
    raise ConfigError(
        f'{name}: got {value!r} ({type(value).__name__}); must be '
        f'{kind.__name__}{" or a tuple of them" * can_be_several}.')
  if kind is float and not math.isfinite(value):
    raise ConfigError(f'{name}: got {value!r}; must be a finite number.')
  if kind is str and re.search('[\0\ud800-\udfff]', value):
    raise ConfigError(
        f'{name}: got {value!r}; must be UTF-8 text without NUL bytes.')
  if limits.get('choices') is not None and value not in limits['choices']:
    allowed = ', '.join(repr(c) for c in limits['choices'])
    raise ConfigError(f'{name}: got {value!r}; must be one of {allowed}.')
  if kind is float and value and not _MIN_FLOAT <= abs(value) <= _MAX_FLOAT:
    raise ConfigError(
        f'{name}: got {value!r}; must be 0 or a number of 32 bits, '
        f'{_MIN_FLOAT} to {_MAX_FLOAT}.')
  for bound, holds, words in (
      ('low', operator.ge, 'at least'), ('high', operator.le, 'at most'),
      ('above', operator.gt, 'greater than'),
      ('below', operator.lt, 'less than')):
    limit = limits.get(bound)
    if limit is None and bound == 'high' and kind is int:
      limit = _MAX_INT
    if limit is not None and not holds(value, limit):
      raise ConfigError(f'{name}: got {value!r}; must be {words} {limit!r}.')
  return value
