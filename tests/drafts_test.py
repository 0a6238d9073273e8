# SPDX-License-Identifier: Apache-2.0
"""Solutions with what was taken back, and questions with a text in front."""

import collections
import dataclasses

import numpy as np
import pytest

from data_pipelines import arms
from data_pipelines import examples as examples_lib
from data_pipelines.tokenizers import sentencepiece
from meta_cot import traces
from meta_cot.settings import config as config_lib
from meta_cot.solvers import opening
from meta_cot.solvers import vocabulary
from meta_cot.tasks import countdown
from meta_cot.traces import drafts
from meta_cot.traces.arithmetic import teacher
from meta_cot.training import supervised
from tests import small_arms

TASK, STYLE = small_arms.TASK, 'compact_drafts'
PROBLEM = countdown.make_problem([4, 9, 3], 24)
RIGHT = '9-3=6\n6*4=24'


@pytest.fixture(scope='module')
def tokenizer():
  return sentencepiece.train(['+-*/=,;:>x!S@~^?dfs_um'], 128, 60)


@pytest.fixture(scope='module')
def records():
  strategy = dataclasses.replace(teacher.COMPACT, max_value=60)
  found = [
      teacher.search(p, strategy, 0) for p in TASK.problems('train', 0, 200)]
  return [r for r in found if r.is_solved]


@pytest.mark.parametrize('draft, answer, attempts', [
    ('S9-3=6,6*4=24', RIGHT, 1), ('S9+4=13~9-3=6,6*4=24', RIGHT, 1),
    ('S9+4=13~9-4=5~9-3=6,6+4=10~6*4=24', RIGHT, 1),
    ('S9-3=6,6+4=10^S9-3=6,6*4=24', RIGHT, 2),
    ('S9+4=13~9+3=12^S9+4=13^S9-3=6,6*4=24', RIGHT, 3),
    ('S9-3=6,6+4=10?10xS9-3=6,6*4=24?24!', RIGHT, 2),
    ('S9-3=6,6*4=24^', None, 2), ('S9-3=6,6*4=24~', None, 1),
    ('S~^', None, 2), ('S9-3=6,6*4=24?', None, 1)])
def test_what_is_left_is_the_answer(draft, answer, attempts):
  text = f'4,9,3>24:{draft}'
  assert traces.extract_answer(text, STYLE) == answer
  assert drafts.num_attempts(text) == attempts
  if answer is not None:
    events = traces.parse(text, style=STYLE)
    assert traces.render(events, style=STYLE) == text


def test_any_text_is_read():
  rng = np.random.default_rng(0)
  for _ in range(500):
    text = ''.join(rng.choice([*'0123456789S,~^?x!=+'], 12))
    traces.extract_answer('4,9,3>24:' + text, STYLE)


def test_searches_are_those_of_the_other_style():
  events = traces.linearize(teacher.search(PROBLEM, teacher.COMPACT, 0))
  assert len(events) > 2
  assert traces.render(events, STYLE) == traces.render(events, 'compact')
  assert 'traces' not in [n for n, a in arms.ARMS.items() if STYLE in a.styles]
  assert arms.ARMS['resets'].styles == (STYLE,)
  assert not vocabulary.is_in_graph(TASK, STYLE, 128)


def _text(arm, record, seed=0, **changes):
  config = dataclasses.replace(small_arms.CONFIG, **changes)
  return examples_lib.Texts(
      arms.make(arm, TASK, STYLE), config, _text.tokenizer, STYLE)(
          record, np.random.default_rng(seed))


@pytest.fixture(autouse=True)
def _with(tokenizer):
  _text.tokenizer = tokenizer


def _shown(example, is_trained=False):
  tokens = [*example['tokens'][:1], *example['targets']]
  weights = [0, *example['weights']]
  return _text.tokenizer.decode(
      [t for t, w in zip(tokens, weights) if w or not is_trained],
      show_control=True)


@pytest.mark.parametrize('rate', [0.0, 0.3, 1.0])
def test_wrong_steps_stand_before_right_ones_at_a_rate(records, rate):
  count = total = 0
  for seed, record in enumerate(records):
    text = _shown(_text('backtracks', record, seed, backtrack_rate=rate))
    text = text.removesuffix('<eos>')
    answer = traces.extract_answer(text, STYLE)
    assert TASK.verify(record.problem, answer).is_correct
    whole = _shown(_text('backtracks', record, seed, backtrack_rate=1.0))
    count, total = count + text.count('~'), total + whole.count('~')
  assert total > 100
  assert abs(count - rate * total) <= 5 * np.sqrt(
      total * rate * (1 - rate))


def test_what_is_taken_back_is_trained_or_masked(records):
  for seed, record in enumerate(records[:40]):
    for arm in ('backtracks', 'resets', 'attempts', 'checked'):
      make = lambda mask: _text(
          arm, record, seed, backtrack_rate=1.0, mask=mask)
      prompt = traces.prompt(record.problem, style=STYLE)
      everything = _shown(make('procedure_cloning'), is_trained=True)
      assert prompt + everything == _shown(make('procedure_cloning'))
      trained = _shown(make('solution_path'), is_trained=True)
      *_, answer = traces.parse(
          (prompt + everything).removesuffix('<eos>'), style=STYLE)
      kept = answer.text.replace('\n', ',')
      assert ''.join(c for c in trained if c not in '~^').replace(
          'S' + kept, '#').startswith(('#', '?'))
      assert trained.count('~') == everything.count('~')
      assert trained.count('^') == everything.count('^')
      assert trained.endswith('<eos>')


def test_resets_abandon_beginnings_of_wrong_attempts(records):
  lengths = collections.Counter()
  for seed, record in enumerate(records):
    text = _shown(_text('resets', record, seed, backtrack_rate=1.0))
    if '^' in text:
      lengths[text.partition('^')[0].count('=')] += 1
  assert set(lengths) == {1, 2}


def test_attempts_that_are_kept_are_as_many_in_every_text(records):
  repeats = set()
  for seed, record in enumerate(records):
    text = _shown(_text('attempts_kept', record, seed, sequence_length=400))
    plain = _shown(_text('attempts', record, seed, sequence_length=400))
    assert drafts.num_attempts(text) == small_arms.CONFIG.max_attempts
    right = plain.removesuffix('<eos>').rpartition('S')[2]
    repeats.add(text.count(right))
    assert text == plain.removesuffix('<eos>') + f'^S{right}' * (
        drafts.num_attempts(text) - drafts.num_attempts(plain)) + '<eos>'
  assert repeats == {1, 2, 3, 4}


def test_checks_say_what_was_reached(records):
  numbers = set()
  for seed, record in enumerate(records):
    text = _shown(_text('checked', record, seed, sequence_length=400))
    *wrong, right = text.removesuffix('<eos>').split('x')
    target = record.problem.data['target']
    assert right.endswith(f'={target}?{target}!')
    for attempt in wrong:
      steps, _, state = attempt.rpartition('?')
      assert steps.endswith(f'={state}') and state != str(target)
    numbers.add(1 + len(wrong))
    assert drafts.num_attempts(text) == 1 + len(wrong)
  assert numbers == {1, 2, 3, 4}


def test_budgets_and_strategies_stand_before_questions(records, tokenizer):
  names = ('24', '40')
  config = dataclasses.replace(
      small_arms.CONFIG, opening='budget', openings=names)
  found = collections.Counter()
  for record in records:
    plain = examples_lib.Texts(
        small_arms.ARMS['traces'], small_arms.CONFIG, tokenizer, 'compact')(
            record, np.random.default_rng(0))
    made = examples_lib.Texts(
        small_arms.ARMS['traces'], config, tokenizer, 'compact')(
            record, np.random.default_rng(0))
    written = int(plain['weights'].sum())
    budget = next((n for n in names if int(n) >= written), None)
    found[budget] += 1
    if budget is None:
      assert made is None
      continue
    assert _shown(made) == f'{budget}:' + _shown(plain)
    assert _shown(made, True) == _shown(plain, True)
  assert set(found) == {None, *names}
  about = supervised.about(config)
  assert opening.named(about) == {'24': '24:', '40': '40:'}
  assert opening.named(supervised.about(small_arms.CONFIG)) == {'': ''}
  other = dataclasses.replace(config, opening='strategy', openings=('dfs',))
  texts = examples_lib.Texts(
      small_arms.ARMS['traces'], other, tokenizer, 'compact')
  assert texts(records[0], np.random.default_rng(0)) is None
  named = dataclasses.replace(records[0], strategy='dfs')
  assert _shown(texts(named, np.random.default_rng(0))).startswith('dfs:')
  drawn = dataclasses.replace(config, opening='any', openings=('24', '40'))
  texts = examples_lib.Texts(
      small_arms.ARMS['traces'], drawn, tokenizer, 'compact')
  rng = np.random.default_rng(0)
  seen = {_shown(texts(records[0], rng)).partition(':')[0] for _ in range(20)}
  assert seen == {'24', '40'}


def test_a_limit_is_one_that_holds_the_text(records, tokenizer):
  names, rng = ('24', '40', '64'), np.random.default_rng(0)
  least, any_of = (examples_lib.Texts(
      small_arms.ARMS['traces'], dataclasses.replace(
          small_arms.CONFIG, opening=kind, openings=names), tokenizer,
      'compact') for kind in ('budget', 'limit'))
  seen = set()
  for record in records:
    made = least(record, rng)
    if made is None:
      assert any_of(record, rng) is None
      continue
    budget, _, text = _shown(made).partition(':')
    drawn = {tuple(_shown(any_of(record, rng)).split(':', 1))
             for _ in range(30)}
    assert drawn == {(n, text) for n in names if int(n) >= int(budget)}
    seen.add(budget)
  assert len(seen) == 3


@pytest.mark.parametrize('opening_, names', [
    ('none', ('16',)), ('budget', ()), ('budget', ('few',)),
    ('limit', ('few',))])
def test_openings_that_say_nothing_are_refused(opening_, names):
  with pytest.raises(config_lib.ConfigError, match='openings: got'):
    dataclasses.replace(
        small_arms.CONFIG, opening=opening_, openings=names)
