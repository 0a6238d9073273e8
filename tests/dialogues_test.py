# SPDX-License-Identifier: Apache-2.0
"""Dialogues with a model whose words are given."""

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot.solvers import dialogues
from meta_cot.solvers import instructions

YES, NO = 'Fine.\nVerdict: confident', 'Hm.\nVerdict: not confident'


def _reply(text):
  """A text; one that ends with ... is cut off."""
  return dialogues.Reply(text, not text.endswith('...'))


def _verify(*words, max_attempts=6):
  """The result, and every prompt with the reply to it."""
  told, said = [], iter(words)

  def write(prompts, number):
    assert number == len(told) and prompts.keys() == {0}
    told.append((prompts[0].write(*prompts[0].written), next(said)))
    return {0: _reply(told[-1][1])}

  (result,) = dialogues.play([dialogues.verify(
      lambda: 'think of 1 + 1', '1 + 1', max_attempts)], write)
  assert next(said, None) is None  # nothing is left to say
  return result, told


def test_two_confident_checks_end_it():
  result, told = _verify('It is 2.', YES, YES)
  assert result.attempt.text == 'It is 2.'
  assert (result.num_attempts, result.is_confident) == (1, True)
  assert [reply.text for reply in result.replies] == ['It is 2.', YES, YES]
  first, check, second = (prompt for prompt, _ in told)
  assert first == 'think of 1 + 1'
  assert 'It is 2.' in check and YES not in check
  assert 'It is 2.' in second and YES in second
  assert all('1 + 1' in prompt for prompt in (check, second))


@pytest.mark.parametrize('checks', [(NO,), (YES, NO), ('Well.',), ('...',)])
def test_a_doubt_is_another_attempt(checks):
  result, told = _verify('It is 3.', *checks, 'It is 2.', YES, YES)
  assert result.attempt.text == 'It is 2.'
  assert (result.num_attempts, result.is_confident) == (2, True)
  retry, check = told[1 + len(checks)][0], told[2 + len(checks)][0]
  assert 'It is 3.' in retry and checks[-1] in retry and '1 + 1' in retry
  assert 'It is 2.' in check and 'It is 3.' not in check


def test_six_attempts_at_most_and_the_last_one_counts():
  words = [w for i in range(5) for w in (f'It is {i}.', NO)] + ['It is 9.']
  result, _ = _verify(*words)
  assert result.attempt.text == 'It is 9.'
  assert (result.num_attempts, result.is_confident) == (6, False)
  assert len(result.replies) == 11
  result, _ = _verify('It is 1.', max_attempts=1)
  assert (result.attempt.text, len(result.replies)) == ('It is 1.', 1)


def test_what_is_cut_off_is_not_checked():
  result, told = _verify('Let me ...', 'It is 2.', YES, YES)
  assert result.num_attempts == 2 and len(result.replies) == 4
  assert instructions.CUT_OFF in told[1][0] and 'Let me ...' in told[1][0]


@pytest.mark.parametrize('text, is_confident', [
    (YES, True), (NO, False), ('', False), ('I am confident.', False),
    ('**Verdict:** Confident', True), ('VERDICT:  not\nconfident', False),
    ('Verdict: confident? No.\nVerdict: not confident', False),
    ('Verdict: not confident at first.\nVerdict - confident.', True),
    ('Verdict: confidently wrong', False), ('verdict' * 1000, False)])
def test_the_last_verdict_counts(text, is_confident):
  assert dialogues.is_confident(_reply(text)) == is_confident
  assert not dialogues.is_confident(_reply(text + ' ...'))


@hypothesis.given(
    st.lists(st.lists(st.sampled_from(['1', '2...', YES, NO]), min_size=16,
                      max_size=16), min_size=1, max_size=5),
    st.integers(1, 6))
def test_dialogues_do_not_see_each_other(scripts, max_attempts):
  def play(numbers):
    rounds = []

    def write(prompts, number):
      rounds.append([*prompts])
      return {i: _reply(scripts[numbers[i]][number]) for i in prompts}

    results = dialogues.play([
        dialogues.ask(lambda: 'q') if i % 2 else
        dialogues.verify(lambda: 'q', 'q', max_attempts) for i in numbers],
        write)
    assert all(rounds) and rounds[0] == [*range(len(numbers))]
    return results

  together = play(range(len(scripts)))
  assert together == [play([i])[0] for i in range(len(scripts))]
  for i, result in enumerate(together):
    assert result.attempt in result.replies
    assert len(result.replies) <= (1 if i % 2 else 3 * max_attempts - 2)
    assert 1 <= result.num_attempts <= max_attempts


def test_prompts_say_what_they_are_given():
  text = instructions.solve(
      instructions.THINK, [('q1', 's1'), ('q2', 's2')], 'q3')
  assert text.startswith(instructions.THINK)
  places = [text.index(part) for part in ('q1', 's1', 'q2', 's2', 'q3')]
  assert places == sorted(places) and text.endswith('Solution:\n')
  for write, own in ((instructions.verify, 1), (instructions.confirm, 2),
                     (instructions.retry, 2)):
    text = write('q{}', *('{0} \\boxed{1}',) * own)
    assert text.count('{0} \\boxed{1}') == own and 'q{}' in text
    assert text.endswith(':\n')
