# SPDX-License-Identifier: Apache-2.0
"""The Countdown task and its problem generator."""

import collections
import dataclasses
import itertools

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import tasks
from meta_cot.settings import config as config_lib
from meta_cot.tasks import countdown
from meta_cot.tasks import reachable

_TINY = dict(
    num_numbers=3, min_number=1, max_number=20, min_target=10, max_target=60,
    max_value=60, enumerate_all=True, num_train=0, num_heldout=10_000,
    heldout_target_fraction=0.1, heldout_numbers_fraction=0.12,
    validation_fraction=0.25, operands='listed')
_SAMPLED = dict(
    num_numbers=4, min_number=1, max_number=99, min_target=10, max_target=100,
    max_value=None, enumerate_all=False, num_train=200, num_heldout=60,
    heldout_target_fraction=0.1, heldout_numbers_fraction=0.2,
    validation_fraction=0.25, operands='listed')


def _config(values, **changes):
  return config_lib.parse(
      countdown.Settings, {**values, **changes})


def _problems(settings, seed):
  """All problems of every split."""
  task = countdown.make(settings, seed)
  return {
      split: list(task.problems(split, 0, task.size(split)))
      for split in task.splits}


def _multisets(problems):
  return {tuple(sorted(p.data['numbers'])) for p in problems}


def _targets(problems):
  return {p.data['target'] for p in problems}


def test_make_knows_its_tasks():
  assert tasks.make('countdown').splits == countdown.SPLITS
  with pytest.raises(ValueError, match="got 'chess'.*countdown"):
    tasks.make('chess')


def test_verify_judges_both_forms():
  task = tasks.make('countdown')
  problem = tasks.Problem(
      id='p1', question='...', answer='24',
      data={'numbers': [4, 9, 3], 'target': 24})
  assert task.verify(problem, '9-3=6\n4*6=24') == tasks.Verdict(
      True, 'the value is 24')
  assert task.verify(problem, '(9-3)*4').is_correct
  assert not task.verify(problem, '24').is_correct
  assert not task.verify(problem, '9-3=6').is_correct


def test_problem_fields():
  problem = countdown.make_problem([17, 5, 1], 23)
  assert problem == tasks.Problem(
      id='countdown-3-17-5-1-23', question='17,5,1>23', answer='23',
      data={'numbers': [17, 5, 1], 'target': 23})


def _values(numbers, max_value):
  """All results of joining `numbers`, two at a time."""
  if len(numbers) == 1:
    return {numbers[0]}
  found = set()
  for i, j in itertools.permutations(range(len(numbers)), 2):
    a, b = numbers[i], numbers[j]
    rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
    results = [a + b, a * b]
    if a >= b:
      results.append(a - b)
    if b and a % b == 0:
      results.append(a // b)
    for result in results:
      if max_value is None or result <= max_value:
        found |= _values([*rest, result], max_value)
  return found


@hypothesis.given(
    st.lists(st.integers(0, 25), min_size=1, max_size=4),
    st.sampled_from([None, 30, 100]))
def test_reach_is_that_of_exhaustive_search(numbers, max_value):
  expected = _values(numbers, max_value)
  for target in range(0, 120):
    assert reachable.can_reach(
        numbers, target, max_value, reachable.exact) == (target in expected)


def test_enumerates_every_solvable_pair():
  config = _config(
      _TINY, heldout_target_fraction=0.0, heldout_numbers_fraction=0.0)
  splits = _problems(config, 0)
  assert not any(splits[split] for split in countdown.SPLITS[1:])
  pairs = {
      (tuple(sorted(p.data['numbers'])), p.data['target'])
      for p in splits['train']}
  assert len(pairs) == len(splits['train']) == 9423
  assert len({numbers for numbers, _ in pairs}) == 1533


@pytest.mark.parametrize('seed', [0, 1, 2, 3])
def test_enumerated_heldout_sizes(seed):
  config = _config(_TINY)
  splits = _problems(config, seed)
  assert len(splits['heldout_numbers']) >= 650
  assert len(splits['validation']) >= 200
  assert len(splits['heldout_targets']) > 300
  assert len(splits['train']) > 7000
  capped = _problems(_config(_TINY, num_heldout=50), seed)
  assert capped['train'] == splits['train']
  for split in ('validation', 'heldout_numbers', 'heldout_targets'):
    assert capped[split] == splits[split][:50]


@pytest.mark.parametrize('values', [_TINY, _SAMPLED])
def test_splits_are_disjoint_and_solvable(values):
  config = _config(values)
  splits = _problems(config, 4)
  train, chosen, numbers, targets = (splits[s] for s in countdown.SPLITS)
  assert train and chosen and numbers and targets
  assert not _targets(targets) & _targets([*train, *chosen, *numbers])
  assert not _multisets(numbers) & _multisets([*train, *chosen, *targets])
  assert not _multisets(chosen) & _multisets([*train, *targets])
  assert _targets(targets) <= countdown.heldout_targets(config, 4)
  for problem in itertools.chain(
      train[:60], chosen[:60], numbers[:60], targets[:60]):
    given, target = problem.data['numbers'], problem.data['target']
    assert problem == countdown.make_problem(given, target)
    assert len(given) == config.num_numbers
    assert all(config.min_number <= n <= config.max_number for n in given)
    assert config.min_target <= target <= config.max_target
    assert target in _values(given, config.max_value)


def test_sampled_sizes_and_shares():
  config = _config(_SAMPLED, num_train=400)
  sizes = {k: len(v) for k, v in
           _problems(config, 0).items()}
  assert sizes == {
      'train': 400, 'validation': 60, 'heldout_numbers': 60,
      'heldout_targets': 60}
  none = _config(
      _SAMPLED, num_train=3, heldout_target_fraction=0.0,
      heldout_numbers_fraction=0.0)
  splits = _problems(none, 0)
  assert [len(splits[s]) for s in countdown.SPLITS] == [3, 0, 0, 0]


def test_sampled_targets_are_uniform():
  config = _config(_SAMPLED, min_target=10, max_target=13, num_train=400,
                   heldout_target_fraction=0.25)
  problems = countdown.make(config, 0).problems('train', 0, 400)
  counts = collections.Counter(p.data['target'] for p in problems)
  assert len(counts) == 3
  assert all(95 < count < 175 for count in counts.values())


@pytest.mark.parametrize('values', [_TINY, _SAMPLED])
@pytest.mark.parametrize('split', countdown.SPLITS)
def test_a_range_is_a_slice(values, split):
  config = _config(values)
  whole = _problems(config, 7)[split]
  task = countdown.make(config, 7)
  size = task.size(split)
  assert len(whole) == size
  for start, stop in ((0, 5), (17, 31), (size - 2, size + 9), (size, size)):
    part = task.problems(split, start, stop)
    assert list(part) == whole[start:stop]


def test_more_samples_begin_alike_and_seeds_differ():
  config = _config(_SAMPLED)
  first = countdown.make(config, 0).problems('train', 0, 20)
  longer = countdown.make(
      dataclasses.replace(config, num_train=10**6), 0).problems('train', 0, 20)
  other = list(countdown.make(config, 1).problems('train', 0, 20))
  first = list(first)
  assert first == list(longer)
  assert first != other
  assert len({p.id for p in first}) == 20


def test_problems_are_the_same_in_every_process():
  config = _config(_SAMPLED)
  problem = next(
      countdown.make(config, 0).problems('train', 0, 1))
  tiny = next(
      countdown.make(_config(_TINY), 0).problems('train', 0, 1))
  assert (problem.question, tiny.question) == ('65,3,7,58>52', '7,17,7>32')


def test_numbers_are_shown_in_any_order():
  problems = _problems(_config(_TINY), 0)['train']
  ascending = sum(
      p.data['numbers'] == sorted(p.data['numbers']) for p in problems)
  # One in six if all differ, more where numbers repeat.
  assert 0.15 < ascending / len(problems) < 0.25


def test_heldout_targets_of_stream_of_search():
  config = _config(_SAMPLED)
  assert sorted(countdown.heldout_targets(config, 4)) == [
      14, 39, 41, 57, 62, 81, 87, 89, 96]


@pytest.mark.parametrize('changes, field', [
    (dict(num_numbers=1), 'num_numbers'),
    (dict(num_numbers=7), 'num_numbers'),
    (dict(min_number=21), 'min_number'),
    (dict(min_target=61), 'min_target'),
    (dict(max_value=59), 'max_value'),
    (dict(max_number=500, enumerate_all=True), 'enumerate_all'),
    (dict(heldout_target_fraction=0.95), 'heldout_target_fraction'),
    (dict(heldout_target_fraction=0.01), 'heldout_target_fraction'),
    (dict(heldout_numbers_fraction=-0.1), 'heldout_numbers_fraction'),
    (dict(num_heldout=-1), 'num_heldout'),
    (dict(enumerate_all='yes'), 'enumerate_all'),
])
def test_wrong_settings_are_refused(changes, field):
  with pytest.raises(
      config_lib.ConfigError, match=rf'^config\.{field}: got .*must be') as e:
    _config(_TINY, **changes)
  assert '\n' not in str(e.value)


def test_unreachable_target_is_refused():
  config = _config(
      _SAMPLED, num_numbers=2, max_number=2, heldout_numbers_fraction=0.0)
  with pytest.raises(config_lib.ConfigError, match='no solvable problem'):
    list(countdown.make(config, 0).problems('train', 0, 1))


def test_wrong_ranges_are_refused():
  config = _config(_SAMPLED)
  with pytest.raises(ValueError, match='split: .*train, validation, heldout'):
    countdown.make(config, 0).problems('test', 0, 1)
  with pytest.raises(ValueError, match='start: got -1'):
    countdown.make(config, 0).problems('train', -1, 1)
