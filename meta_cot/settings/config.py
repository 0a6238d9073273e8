# SPDX-License-Identifier: Apache-2.0
"""Typed settings: frozen dataclasses checked against an ml_collections config.

A group of settings is a frozen dataclass whose fields are made with
`setting(...)`; `parse` builds it from a ConfigDict (or mapping) and refuses
wrong keys, types and values with one line that names the field, what was
received and what is allowed.
"""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import difflib
import types
import typing
from typing import Any


class UserError(ValueError):
  """What the user gave is wrong: a file, a folder, a setting; one line."""


class ConfigError(UserError):
  """A setting is wrong; the message names it and what is allowed."""


def setting(
    *,
    choices: Collection | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
  """A dataclass field with its allowed values (bounds are inclusive).

  Args:
    choices: the only values allowed.
    low: smallest value.
    high: largest value.
    above: exclusive lower bound.
  """
  limits = dict(choices=choices, low=low, high=high, above=above)
  return dataclasses.field(metadata=limits)


def group(read: Callable[[Mapping[str, Any], str], Any]) -> Any:
  """A dataclass field whose class depends on the values of its group.

  Args:
    read: as `parse`, but for the class: (values, path).
  """
  return dataclasses.field(metadata=dict(read=read))


def parse(cls: type, values: Mapping[str, Any], path: str = 'config') -> Any:
  """Builds the settings dataclass `cls` from `values`.

  Fields whose type is a dataclass are parsed recursively.

  Args:
    cls: a frozen dataclass with `setting` fields.
    values: one entry per field; 'a.b' is entry b of group a.
    path: dotted name of this group, for messages.

  Raises:
    ConfigError: unknown or missing key, wrong type, value out of range.
  """
  if not hasattr(values, 'keys'):
    raise ConfigError(f'{path}: got {values!r}; must be a group of settings.')
  values = _grouped(values)
  fields = {f.name: f for f in dataclasses.fields(cls)}
  hints = typing.get_type_hints(cls)
  for key in values:
    if key not in fields:
      raise ConfigError(unknown_key(path, key, tuple(fields)))
  parsed = {}
  for name, field in fields.items():
    if name not in values:
      raise ConfigError(f'{path}.{name}: missing; it must be set.')
    if 'read' in field.metadata:
      parsed[name] = field.metadata['read'](values[name], f'{path}.{name}')
    elif dataclasses.is_dataclass(hints[name]):
      parsed[name] = parse(hints[name], values[name], f'{path}.{name}')
    else:
      parsed[name] = _checked(
          f'{path}.{name}', values[name], hints[name], field.metadata)
  try:
    return cls(**parsed)
  except ConfigError as e:
    raise ConfigError(f'{path}.{e}') from None


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


def differences(
    theirs: Mapping[str, Any], mine: Mapping[str, Any], *,
    free: tuple[str, ...], where: str,
) -> list[str]:
  """What two sets of settings differ in, a few words for each field.

  Args:
    theirs: nested settings that were there before.
    mine: nested settings of now; tuples equal lists.
    free: dotted names of fields and groups that may differ.
    where: words for where `theirs` were found, such as 'there'.
  """
  theirs, mine = _flat(theirs), _flat(mine)
  shown = lambda values, key: repr(values[key]) if key in values else 'not set'
  is_free = lambda key: any(
      key == name or key.startswith(f'{name}.') for name in free)
  return [
      f'config.{key}: {shown(theirs, key)} {where}, {shown(mine, key)} now'
      for key in sorted(theirs.keys() | mine.keys())
      if not is_free(key) and shown(theirs, key) != shown(mine, key)]


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      is_tuple = isinstance(value, tuple)
      flat[f'{prefix}{key}'] = list(value) if is_tuple else value
  return flat


def _checked(name: str, value: Any, hint: Any, limits: Mapping) -> Any:
  """Returns `value` as its declared type, or raises ConfigError."""
  is_union = isinstance(hint, types.UnionType)
  kinds = typing.get_args(hint) if is_union else (hint,)
  if value is None and type(None) in kinds:
    return None
  kind = next(k for k in kinds if k is not type(None))
  if typing.get_origin(kind) is tuple:
    item = typing.get_args(kind)[0]
    if not isinstance(value, (tuple, list)):
      raise ConfigError(
          f'{name}: got {value!r}; must be a tuple of {item.__name__}.')
    return tuple(
        _checked(f'{name}[{i}]', v, item, limits) for i, v in enumerate(value))
  if kind is float and type(value) is int:
    value = float(value)
  if type(value) is not kind:
    raise ConfigError(
        f'{name}: got {value!r} ({type(value).__name__}); '
        f'must be {kind.__name__}.')
  if limits.get('choices') is not None and value not in limits['choices']:
    allowed = ', '.join(repr(c) for c in limits['choices'])
    raise ConfigError(f'{name}: got {value!r}; must be one of {allowed}.')
  for bound, holds, words in (
      ('low', lambda v, b: v >= b, 'at least'),
      ('high', lambda v, b: v <= b, 'at most'),
      ('above', lambda v, b: v > b, 'greater than')):
    limit = limits.get(bound)
    if limit is not None and not holds(value, limit):
      raise ConfigError(f'{name}: got {value!r}; must be {words} {limit!r}.')
  return value
