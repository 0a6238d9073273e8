# SPDX-License-Identifier: Apache-2.0
"""How texts reason: expressions in written examples, and any text at all."""

import dataclasses
import time

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot.traces import behaviours


def _counts(text):
  return dataclasses.asdict(behaviours.of_text(text))


@pytest.mark.parametrize('text', [
    'I made a mistake.', 'I have made an arithmetic error in line 2.',
    'Oops, 3 + 4 is 7.', 'No, that is wrong.', 'That’s not right.',
    'Let me reconsider.', 'Sorry, I misread it.'.replace('Sorry, ', ''),
    'This cannot be\ncorrect.', "that can't be right", 'I forgot the tax.'])
def test_regret(text):
  found = _counts(text)
  assert found['regret'] == 1
  assert found['backtracking'] == found['verification'] == 0


@pytest.mark.parametrize('text', [
    'Wait, 12 is even.', '12 / 5\nWait - no.', 'But wait, she has two.',
    'Hmm, wait. ', 'It is 7. Wait a minute', 'Alternatively, use the sum.',
    'Let me try a different order.', 'So I start over.',
    'We go back to step 2.', 'There is another way.', 'That does not work.',
    'Wait, back to node 3, state 4 5'])
def test_backtracking(text):
  found = _counts(text)
  assert found['backtracking'] == 1
  assert found['regret'] == found['verification'] == 0


@pytest.mark.parametrize('text', [
    'Let me check.', "Now let's verify the sum.", 'I will double-check that.',
    'We need to confirm it.', 'Checking: 3 * 4 = 12.', 'A sanity check.',
    'Plugging it back gives 12.', 'Let me\nre-check.', 'I should test it.'])
def test_verification(text):
  found = _counts(text)
  assert found['verification'] == 1
  assert found['regret'] == found['backtracking'] == 0


@pytest.mark.parametrize('text', [
    '', 'Ann has 3 pens and buys 4. How many has she?',
    'They wait for the bus, wait 5 minutes and then wait again.',
    'That makes 12 + 7 = 19 pens.\nThe answer is \\boxed{19}.',
    'He pays by check and makes a few errands.', 'The waiter is right.',
    'She comes back to town with 3 more.', 'It weighs twice as much.'])
def test_a_plain_solution_shows_nothing(text):
  assert not any(_counts(text).values())


def test_repetition():
  found = _counts('12 + 7 = 19\n\nSo 12+7 = 19 again.\n12 +  7 = 19\n1 + 1 = 2')
  assert found['recomputations'] == 2
  assert found['repeated_lines'] == 1 / 4  # blanks do not count
  assert found['repeated_ngrams'] == 4 / 20
  assert _counts('a b c d')['repeated_ngrams'] == 0
  assert _counts('a b c d a b c d')['repeated_ngrams'] == 1 / 5
  assert _counts('112 + 7 = 19 and 12 + 7 = 199')['recomputations'] == 0


@hypothesis.given(st.text())
def test_any_text_has_counts(text):
  found = _counts(text)
  assert tuple(found) == behaviours.NAMES
  assert all(0 <= value <= len(text) for value in found.values())
  for name in ('repeated_lines', 'repeated_ngrams'):
    assert found[name] < 1


@hypothesis.given(st.text(max_size=40), st.text(max_size=40))
def test_lines_add_up(one, other):
  both = _counts(f'{one}\n.\n{other}')
  for name in ('regret', 'backtracking', 'verification'):
    assert both[name] == _counts(one)[name] + _counts(other)[name]


@pytest.mark.parametrize('piece', [
    '1', ' ', '\n', 'wait ', 'let me ', 'i made a ', "'", '1+', '1 + 1 = ',
    'so wait', '1.', 're', 'this is ', 'a\n', '. wait', '(', 'that isn\'t '])
def test_time_is_proportional_to_the_length(piece):
  def seconds(size):
    text = piece * (size // len(piece))
    start = time.process_time()
    behaviours.of_text(text)
    return time.process_time() - start

  # A quadratic pattern would take sixteen times as long, not four.
  small = min(seconds(20_000) for _ in range(3))
  assert min(seconds(80_000) for _ in range(2)) < 10 * small + 0.1
