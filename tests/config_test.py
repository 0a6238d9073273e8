# SPDX-License-Identifier: Apache-2.0
"""Settings dataclasses: what is accepted and what each refusal says."""

import dataclasses

from ml_collections import config_dict
import pytest

from meta_cot.settings import config as config_lib


@dataclasses.dataclass(frozen=True)
class Inner:
  rule: str = config_lib.setting(choices=('adamw', 'sgd'))
  betas: tuple[float, ...] = config_lib.setting(low=0.0, high=1.0)
  names: tuple[str, ...] = config_lib.setting(
      min_items=1, is_unique=True, is_free=True)


@dataclasses.dataclass(frozen=True)
class Outer:
  num_steps: int = config_lib.setting(low=1)
  rate: float = config_lib.setting(above=0.0, high=1.0)
  is_fast: bool = config_lib.setting(is_free=True)
  limit: int | None = config_lib.setting(low=1)
  inner: Inner = config_lib.setting()

  def __post_init__(self):
    if self.limit is not None and self.limit > self.num_steps:
      raise config_lib.ConfigError(
          f'limit: got {self.limit}; must be at most num_steps, '
          f'{self.num_steps}.')


def _values(**changes) -> config_dict.ConfigDict:
  inner = {'rule': 'sgd', 'betas': (0.5, 1.0), 'names': ('a', 'b')}
  values = {
      'num_steps': 5, 'rate': 0.1, 'is_fast': True, 'limit': None,
      'inner': inner}
  for key, value in changes.items():
    group, _, leaf = key.rpartition('__')
    (values[group] if group else values)[leaf] = value
  return config_dict.ConfigDict(values)


def test_parse_builds_nested_settings():
  got = config_lib.parse(Outer, _values(rate=1, inner__betas=[0, 1]))
  assert got == Outer(
      num_steps=5, rate=1.0, is_fast=True, limit=None,
      inner=Inner(rule='sgd', betas=(0.0, 1.0), names=('a', 'b')))
  assert type(got.rate) is float
  assert type(got.inner.betas[0]) is float
  assert hash(got) == hash(config_lib.parse(
      Outer, _values(rate=1.0, inner__betas=(0.0, 1.0))))


@dataclasses.dataclass(frozen=True)
class OneOrMore:
  widths: int | tuple[int, ...] = config_lib.setting(low=1, min_items=1)


@pytest.mark.parametrize('value', [4, (4,), (32, 8, 1), [2, 1]])
def test_a_number_or_a_tuple_of_them(value):
  expected = tuple(value) if isinstance(value, list) else value
  assert config_lib.parse(OneOrMore, {'widths': value}).widths == expected


@pytest.mark.parametrize('value, words', [
    (0, 'config.widths: got 0; must be at least 1'),
    ((), 'config.widths: got (); must have at least 1'),
    ((4, 0), 'config.widths[1]: got 0; must be at least 1'),
    (1.5, 'config.widths: got 1.5 (float); must be int or a tuple of them'),
    (None, 'config.widths: got None (NoneType); must be int or a tuple'),
    ((4, 'a'), "config.widths[1]: got 'a' (str); must be int.")])
def test_neither_a_number_nor_a_tuple(value, words):
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.parse(OneOrMore, {'widths': value})
  assert str(error.value).startswith(words) and '\n' not in str(error.value)


@pytest.mark.parametrize('value', [None, 1, 5])
def test_optional_fields_take_none(value):
  assert config_lib.parse(Outer, _values(limit=value)).limit == value


@pytest.mark.parametrize('changes, words', [
    ({'num_step': 3}, ['config.num_step:', 'config.num_steps?']),
    ({'zzz': 3}, ['config.zzz:', 'is_fast', 'rate']),
    ({'inner__beta': 3}, ['config.inner.beta:', 'config.inner.betas?']),
    ({'num_steps': 0}, ['config.num_steps: got 0', 'at least 1']),
    ({'num_steps': 1.5}, ['config.num_steps: got 1.5 (float)', 'int']),
    ({'num_steps': True}, ['config.num_steps: got True (bool)', 'int']),
    ({'num_steps': None}, ['config.num_steps: got None', 'int']),
    ({'rate': 0.0}, ['config.rate: got 0.0', 'greater than 0.0']),
    ({'rate': 2}, ['config.rate: got 2.0', 'at most 1.0']),
    ({'rate': float('nan')}, ['config.rate: got nan', 'must be']),
    ({'rate': float('inf')}, ['config.rate: got inf', 'finite']),
    ({'inner__betas': (float('-inf'),)},
     ['config.inner.betas[0]: got -inf', 'finite']),
    ({'rate': 1e-300}, ['config.rate: got 1e-300', 'a number of 32 bits']),
    ({'rate': 10 ** 400}, ['config.rate: got 1e+39', 'a number of 32 bits']),
    ({'num_steps': 2**31}, ['config.num_steps: got 2147483648', 'at most']),
    ({'inner__names': ('a', 'b\0')}, ['config.inner.names[1]', 'NUL bytes']),
    ({'inner__names': ('\ud800',)}, ['config.inner.names[0]', 'UTF-8 text']),
    ({'inner__names': ()}, ['config.inner.names: got ()', 'at least 1']),
    ({'inner__names': ('a', 'b', 'a')},
     ["config.inner.names[2]: got 'a' a second time"]),
    ({'is_fast': 1}, ['config.is_fast: got 1 (int)', 'bool']),
    ({'limit': 0}, ['config.limit: got 0', 'at least 1']),
    ({'limit': 'x'}, ["config.limit: got 'x' (str)", 'int']),
    ({'limit': 6}, ['config.limit: got 6', 'num_steps, 5']),
    ({'inner__rule': 'adam'},
     ["config.inner.rule: got 'adam'", "'adamw', 'sgd'"]),
    ({'inner': 3}, ['config.inner: got 3', 'group of settings']),
    ({'inner__betas': 0.5}, ['config.inner.betas: got 0.5', 'tuple of float']),
    ({'inner__betas': (0.5, 2.0)},
     ['config.inner.betas[1]: got 2.0', 'at most 1.0']),
])
def test_refusals_are_one_line(changes, words):
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.parse(Outer, _values(**changes))
  message = str(error.value)
  assert '\n' not in message
  for word in words:
    assert word in message


@pytest.mark.parametrize('key', ['num_steps', 'limit', 'inner'])
def test_missing_keys_are_named(key):
  values = _values().to_dict()
  del values[key]
  with pytest.raises(config_lib.ConfigError, match=f'config.{key}: missing'):
    config_lib.parse(Outer, values)


def test_dotted_keys_are_entries_of_groups():
  values = _values().to_dict()
  inner = values.pop('inner')
  dotted = {f'inner.{key}': value for key, value in inner.items()}
  want = config_lib.parse(Outer, _values(inner__rule='adamw'))
  for given in (dotted | {'inner.rule': 'adamw'},
                {'inner': inner, 'inner.rule': 'adamw'}):
    assert config_lib.parse(Outer, values | given) == want
  assert inner['rule'] == 'sgd'  # what was given stays as it was
  with pytest.raises(config_lib.ConfigError, match='config.inner.rule: miss'):
    config_lib.parse(Outer, values | {'inner.betas': (0.5,)})
  with pytest.raises(config_lib.ConfigError, match='mean config.inner'):
    config_lib.parse(Outer, values | {'inne.betas': (0.5,)})


def test_path_names_the_group():
  with pytest.raises(config_lib.ConfigError, match='^config.train.rate: got'):
    config_lib.parse(Outer, _values(rate='x'), 'config.train')


def test_config_errors_are_value_errors():
  assert issubclass(config_lib.ConfigError, ValueError)


def test_free_settings_are_left_out():
  settings = config_lib.parse(Outer, _values())
  assert config_lib.bound(settings) == {
      'num_steps': 5, 'rate': 0.1, 'limit': None,
      'inner': {'rule': 'sgd', 'betas': (0.5, 1.0)}}
  old, new = _values().to_dict(), _values(
      is_fast=False, inner__names=('c',), inner__rule='adamw').to_dict()
  bound = lambda values: config_lib.bound(config_lib.parse(Outer, values))
  assert config_lib.differences(bound(old), bound(new), where='there') == [
      "config.inner.rule: 'sgd' there, 'adamw' now"]
  assert len(config_lib.differences(old, new, where='there')) == 3


@dataclasses.dataclass(frozen=True)
class Maze:
  width: int = config_lib.setting(low=1)
  num_threads: int = config_lib.setting(is_free=True)


@dataclasses.dataclass(frozen=True)
class ByKind:
  task: Maze | Inner = config_lib.setting(
      kinds={'maze': Maze, 'inner': Inner})


def test_a_group_is_chosen_by_its_kind():
  maze = {'kind': 'maze', 'width': 3, 'num_threads': 1}
  parsed = config_lib.parse(ByKind, config_dict.ConfigDict({'task': maze}))
  assert parsed.task == Maze(width=3, num_threads=1)
  assert config_lib.bound(parsed) == {'task': {'width': 3, 'kind': 'maze'}}


@pytest.mark.parametrize('task, words', [
    ({'width': 3}, ['config.task.kind: missing', 'maze, inner']),
    ({'kind': 'mase'}, ["config.task.kind: got 'mase'", "did you mean 'maze'"]),
    ({'kind': 3}, ['config.task.kind: got 3', 'maze, inner']),
    ({'kind': ['maze']}, ["config.task.kind: got ['maze']", 'maze, inner']),
    ({'kind': {}}, ['config.task.kind: got {}', 'maze, inner']),
    ({'kind': 'maze', 'width': 0, 'num_threads': 1}, ['config.task.width']),
    ({'kind': 'maze', 'rule': 'sgd'}, ['config.task.rule: no such key']),
    (3, ['config.task: got 3', 'group of settings']),
])
def test_a_wrong_kind_is_one_line(task, words):
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.parse(ByKind, {'task': task})
  for word in words:
    assert word in str(error.value)
