# SPDX-License-Identifier: Apache-2.0
"""Answers and faults of model-written text."""

import dataclasses
import random

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import traces
from meta_cot.tasks import countdown
from meta_cot.traces import arithmetic
from meta_cot.traces.arithmetic import teacher

TASK = countdown.make(None, 0)
PROBLEM = countdown.make_problem([20, 1, 9], 28)
RIGHT = '20+1=21,9;+30-12x9-1=8,20;+28!S9-1=8,20+8=28'
STRATEGIES = [s for s, _ in teacher.STREAM_OF_SEARCH.values()]


def _tell(problem, text, style, is_finished=True):
  """With what the task says of a wrong answer."""
  def error(answer):
    verdict = TASK.verify(problem, answer)
    return TASK.measure(problem, text, answer, verdict).get(
        'error', 'none')
  return traces.analyze(problem, text, style, is_finished, error)


def _analyze(body, style='compact', is_finished=True):
  text = traces.prompt(PROBLEM, style) + body
  return _tell(PROBLEM, text, style, is_finished), text


def test_right_trace():
  result, text = _analyze(RIGHT)
  assert (result.nodes, result.backtracks) == (5, 1)
  assert result.primary_error == 'none' and not result.errors
  assert traces.extract_answer(text, 'compact') == '9-1=8\n20+8=28'


@pytest.mark.parametrize('body, is_finished, errors, primary', [
    ('S9-1=8,20+8=28', True, {}, 'none'),
    ('S9-1=8,20+8=28', False, {'unfinished': 1}, 'unfinished'),
    ('S9-1=7,20+7=27', True, {'arithmetic': 1, 'wrong_answer': 1},
     'arithmetic'),
    ('S9-1=8,20+8=27', True, {'arithmetic': 1, 'wrong_answer': 1},
     'arithmetic'),
    ('S9+1=10,20+10=30', True, {'wrong_answer': 1}, 'wrong_answer'),
    ('S9-1=8', True, {'wrong_answer': 1}, 'wrong_answer'),
    ('S9-1=8,8+21=29', True, {'illegal_state': 1, 'wrong_answer': 1},
     'illegal_state'),
    ('S9-1=8,20+8=28,', True, {'format': 1}, 'format'),
    ('S9-1=8,20+8=28;', True, {'format': 1}, 'format'),
    ('S9-1=8,20+8=28S', True, {'format': 1}, 'format'),
    ('S9-1=8,20+', False, {'unfinished': 1}, 'unfinished'),
    ('', True, {'no_answer': 1}, 'no_answer'),
    # An answer is judged alone: faults of the search before it only count.
    ('9+1=11,20;+31xS9-1=8,20+8=28', True, {'arithmetic': 1}, 'none'),
    ('9+1=10,9;+19xS9-1=8,20+8=28', True, {'illegal_state': 1}, 'none'),
    ('9+1=10,20;+28!S9-1=8,20+8=28', True, {'arithmetic': 1}, 'none'),
    ('9+1=10,20;+30!S9+1=10,20+10=30', True, {'wrong_answer': 2},
     'wrong_answer'),
    ('9-1=8,20;+28x', True, {'wrong_answer': 1, 'no_answer': 1}, 'no_answer'),
    ('9-1=8,20;?S9-1=8,20+8=28', True, {'format': 1}, 'none'),
    ('9-1=8,20;+28S9-1=8,20+8=28', True, {'format': 1, 'wrong_answer': 1},
     'none'),
    ('@3;9-1=8,20;+28!S9-1=8,20+8=28', True, {'illegal_state': 1}, 'none'),
    ('+29x', True, {'illegal_state': 1, 'no_answer': 1}, 'no_answer'),
    ('9-1=8,20;+28!+5', True, {'format': 1, 'no_answer': 1}, 'no_answer'),
    # What the limit cuts in half is no fault of its own.
    ('9+1=10,20;+30-', False, {'unfinished': 1}, 'unfinished'),
    ('9+1=10,20;+30-10x20+1=2', False, {'unfinished': 1}, 'unfinished'),
    ('9-1=8,20;+28', False, {'unfinished': 1}, 'unfinished')])
def test_compact_faults(body, is_finished, errors, primary):
  result, _ = _analyze(body, is_finished=is_finished)
  assert result.errors == errors
  assert result.primary_error == primary


def test_another_prompt_is_a_format_error():
  result = _tell(PROBLEM, '1,2>3:S1+2=3', 'compact')
  assert result.errors == {'format': 1}
  assert result.primary_error == 'illegal_state'


_STATE = 'Current State: 28:[20, 8], Operations: [\'9-1=8\']\n'
_FIRST = (
    'Exploring Operation: 9-1=8, Resulting Numbers: [20, 8]\n'
    'Generated Node #0,0: 28:[20, 8] Operation: 9-1=8\n'
    'Moving to Node #0,0\n' + _STATE)
_HIT = ('Exploring Operation: 20+8=28, Resulting Numbers: [28]\n'
        '28,28 equal: Goal Reached\n')


@pytest.mark.parametrize('body, is_finished, errors, primary', [
    (_FIRST + _HIT, True, {}, 'none'),
    (_FIRST + _HIT[:-1], True, {}, 'none'),
    (_FIRST + _HIT, False, {'unfinished': 1}, 'unfinished'),
    (_FIRST + _HIT + 'x', True, {'format': 1}, 'format'),
    (_FIRST + _HIT + _HIT, True, {'format': 2}, 'format'),
    (_FIRST + 'No solution found.', True, {'no_answer': 1}, 'no_answer'),
    (_FIRST + _HIT.replace('=28', '=27').replace('28', '27'), True,
     {'arithmetic': 1, 'illegal_state': 1, 'wrong_answer': 1}, 'arithmetic'),
    (_FIRST.replace('9-1=8', '9-1=7').replace('8]', '7]')
     + _HIT.replace('20+8', '20+7'), True, {'arithmetic': 2}, 'arithmetic'),
    (_FIRST.replace('#0,0:', '#0,1:') + _HIT, True, {'illegal_state': 1},
     'none'),
    (_FIRST.replace('to Node #0,0', 'to Node #0,4') + _HIT, True,
     {'illegal_state': 2}, 'none'),
    (_FIRST.replace('[20, 8]\nGen', '[21, 8]\nGen') + _HIT, True,
     {'illegal_state': 4}, 'none'),
    (_FIRST + 'What?\n' + _HIT, True, {'format': 1}, 'none'),
    (_FIRST + 'Exploring Operation: 20+8=28, Resul', False, {'unfinished': 1},
     'unfinished'),
    (_FIRST + _HIT.replace('equal: Goal Reached', 'unequal: No Solution'), True,
     {'wrong_answer': 1, 'no_answer': 1}, 'no_answer')])
def test_sentence_faults(body, is_finished, errors, primary):
  result, _ = _analyze(body, 'stream_of_search', is_finished)
  assert (result.errors, result.primary_error) == (errors, primary)


@pytest.mark.parametrize('style', arithmetic.STYLES)
def test_reference_traces_have_no_faults(style):
  rng = random.Random(5)
  for seed in range(150):
    numbers = [rng.randint(1, 25) for _ in range(rng.choice([2, 3, 3, 4]))]
    problem = countdown.make_problem(numbers, rng.randint(10, 60))
    strategy = dataclasses.replace(
        rng.choice(STRATEGIES), operands='descending')
    record = teacher.search(problem, strategy, seed)
    events = traces.linearize(record)
    result = _tell(problem, traces.render(events, style), style)
    assert result.nodes == len(record.nodes) - 1
    assert result.backtracks == _backtracks(events)
    assert result.primary_error == ('none' if record.is_solved else 'no_answer')
    assert result.errors == ({} if record.is_solved else {'no_answer': 1})
    if record.is_solved:
      text = traces.render((events[0], events[-1]), style)
      answer = traces.extract_answer(text, style)
      assert answer == events[-1].text
      assert TASK.verify(problem, answer).is_correct
      solution = _tell(problem, text, style)
      assert not solution.errors and solution.primary_error == 'none'


def _backtracks(events):
  parents, here, count = {0: -1}, 0, 0
  for event in events:
    if isinstance(event, traces.Step):
      parents[event.node] = event.parent
    elif isinstance(event, traces.Jump):
      count += event.node != here and parents[event.node] != here
      here = event.node
  return count


@pytest.mark.parametrize('style, text', [
    ('compact', '20,1,9>28:'), ('compact', 'S9-1=8'), ('compact', ''),
    ('compact', '20,1,9>28:S'), ('compact', '20,1,9>28:S9-1=8,,20+8=28'),
    ('compact', '20,1,9>28:S9-1=8\n20+8=28'),
    ('compact', '20,1,9>28:S9-1=' + '8' * 5000),
    ('stream_of_search', ''), ('stream_of_search', _HIT),
    ('stream_of_search', _STATE + _HIT + 'and more'),
    ('stream_of_search', _STATE + _HIT + '\n'),
    ('stream_of_search', _STATE + _HIT + _HIT)])
def test_no_answer_is_extracted(style, text):
  assert traces.extract_answer(text, style) is None


def test_unknown_style():
  with pytest.raises(ValueError, match='compact, compact_digits, '):
    traces.extract_answer('', 'poem')
  with pytest.raises(ValueError, match='compact, compact_digits, '):
    _tell(PROBLEM, '', 'poem')


pieces = st.lists(st.sampled_from([
    '9+1=10,20;', '20+8=28', '+30', '-10', 'x', '!', 'S', '@0;', '@1;', ',',
    '@99;', '7', ';', 'Moving to Node #0,0\n', _STATE, _FIRST, _HIT, '\n',
    'No solution found.', '30,28 unequal: No Solution\n', '9' * 20,
    'Exploring Operation: 9*1=9, Resulting Numbers: []\n',
    'Generated Node #2: [20, 8] from Operation: 9-1=8\n', '\u0663', '/0']))


@hypothesis.given(st.one_of(pieces.map(''.join), st.text()), st.booleans(),
                  st.booleans())
@hypothesis.settings(max_examples=300)
def test_never_raises(body, has_prompt, is_finished):
  for style in arithmetic.STYLES:
    text = traces.prompt(PROBLEM, style) * has_prompt + body
    result = _tell(PROBLEM, text, style, is_finished)
    answer = traces.extract_answer(text, style)
    is_right = answer is not None and TASK.verify(PROBLEM, answer).is_correct
    assert (result.primary_error == 'none') == (is_right and is_finished)
    assert result.errors.get('unfinished', 0) == (not is_finished)


def test_long_text_takes_bounded_time():
  many = ','.join(['1'] * 20_000)
  for body in (f'1+1=2,{many};' + '+1' * 50_000, '@0;' * 50_000,
               f'1+1=2,{many};' + '@1;1+1=2,1;' * 5_000,
               _FIRST * 500, 'Exploring Operation: ' * 10_000):
    for style in arithmetic.STYLES:
      _analyze(body, style)
