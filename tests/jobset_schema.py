# SPDX-License-Identifier: Apache-2.0
"""Checks a JobSet against tests/golden/jobset_v1alpha2.yaml."""

from collections.abc import Iterator
import pathlib
from typing import Any

import yaml

TYPES = yaml.safe_load((
    pathlib.Path(__file__).parent / 'golden/jobset_v1alpha2.yaml').read_text())
PLAIN = {'any': (object,), 'boolean': (bool,), 'integer': (int,),
         'quantity': (int, str), 'string': (str,)}


def problems(
    value: Any, kind: Any = 'JobSet', where: str = 'jobset') -> Iterator[str]:
  """Where a value is not of its type: one line each, none if it is."""
  if isinstance(kind, list):
    if not isinstance(value, list):
      yield f'{where}: must be a list, got {value!r}'
      return
    for i, item in enumerate(value):
      yield from problems(item, kind[0], f'{where}[{i}]')
  elif isinstance(kind, dict) or kind in TYPES:
    if not isinstance(value, dict):
      yield f'{where}: must be a map, got {value!r}'
    elif isinstance(kind, dict):
      for name, item in value.items():
        yield from problems(item, *kind, f'{where}.{name}')
    else:
      yield from _fields(value, TYPES[kind], where)
  elif kind.startswith('='):
    if value not in kind[1:].split('|'):
      yield f'{where}: must be one of {kind[1:]}, got {value!r}'
  elif not isinstance(value, PLAIN[kind]) or (
      isinstance(value, bool) and kind not in ('any', 'boolean')):
    yield f'{where}: must be of type {kind}, got {value!r}'


def _fields(value: dict, fields: dict, where: str) -> Iterator[str]:
  known = {name.rstrip('!'): kind for name, kind in fields.items()}
  for name in fields:
    if name.endswith('!') and name[:-1] not in value:
      yield f'{where}.{name[:-1]}: is required'
  for name, item in value.items():
    if name not in known:
      yield f'{where}.{name}: unknown field'
    else:
      yield from problems(item, known[name], f'{where}.{name}')
