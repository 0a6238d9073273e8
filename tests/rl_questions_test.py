# SPDX-License-Identifier: Apache-2.0
"""Which questions are asked: laws of the endless order."""

import json

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot.rl import questions as questions_lib

# What happens: so many are asked, and a share of the answers is right.
_EVENTS = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([0.0, 0.25, 1.0])),
    min_size=1, max_size=20)
_NUMBER, _REST = st.integers(1, 12), st.integers(0, 3)


def _make(number, rest=1, seed=0, low=0.0, high=1.0):
  return questions_lib.Questions(
      number, seed=seed, min_success=low, max_success=high, rest=rest)


def _live(questions, events):
  """What is asked while these events happen."""
  asked = []
  for count, share in events:
    taken = questions.take(count)
    # Even ones are always solved, odd ones as the event says.
    questions.learn(taken, [share if q % 2 else 1.0 for q in taken])
    asked.append((taken, questions.num_resting))
  return asked


def _copy(questions, **settings):
  """Through JSON, as in a checkpoint."""
  copy = _make(**settings)
  copy.set_state(json.loads(json.dumps(questions.get_state())))
  return copy


@hypothesis.given(_NUMBER, _REST, _EVENTS, _EVENTS, st.integers(0, 5))
def test_a_saved_state_has_the_same_future(number, rest, past, future, seed):
  settings = dict(number=number, rest=rest, seed=seed)
  questions = _make(**settings)
  _live(questions, past)
  copy = _copy(questions, **settings)
  assert _live(copy, future) == _live(questions, future)
  assert copy.get_state() == questions.get_state()


@hypothesis.given(_NUMBER, _REST, _EVENTS)
def test_saving_changes_nothing(number, rest, events):
  one, two = _make(number, rest), _make(number, rest)
  for event in events:
    two.get_state()
    assert _live(one, [event]) == _live(two, [event])


@hypothesis.given(_NUMBER, _REST, _EVENTS)
def test_as_many_as_wanted_and_distinct_if_there_are(number, rest, events):
  questions = _make(number, rest)
  for count, share in events:
    taken = questions.take(count)
    assert len(taken) == count
    assert all(type(q) is int and 0 <= q < number for q in taken)
    if rest == 0:
      assert len(set(taken)) == min(count, number)
    questions.learn(taken, [share] * count)


@hypothesis.given(st.integers(4, 12), st.integers(0, 9))
def test_distinct_in_every_call_and_pass(number, seed):
  questions = _make(number, rest=0, seed=seed)
  first = [q for _ in range(number) for q in questions.take(1)]
  assert sorted(first) == list(range(number))
  second = [q for _ in range(number) for q in questions.take(1)]
  assert sorted(second) == list(range(number))
  for _ in range(20):
    assert len(set(questions.take(3))) == 3
  assert len(set(questions.take(3 * number))) == number


def test_orders_differ_by_pass_and_seed():
  questions = _make(40, rest=0)
  one, two = questions.take(40), questions.take(40)
  assert one != two and one != _make(40, rest=0, seed=1).take(40)
  assert one == _make(40, rest=0).take(40)


@pytest.mark.parametrize('rest', [1, 2])
def test_one_that_teaches_nothing_rests_for_so_many_passes(rest):
  questions, asked = _make(6, rest), {}
  for _ in range(60):
    (question,) = questions.take(1)
    number = questions.get_state()['at'][0]
    asked.setdefault(number, set()).add(question)
    questions.learn([question], [0.0 if question == 3 else 0.5])
  asked.pop(number)  # not at its end
  assert len(asked) > 2 * rest + 2
  for number, of_pass in asked.items():
    there = {3} if number % (rest + 1) == 0 else set()
    assert of_pass == {0, 1, 2, 4, 5} | there


@pytest.mark.parametrize('share, rests', [
    (0.0, True), (0.2, True), (0.21, False), (0.79, False), (0.8, True),
    (1.0, True)])
def test_the_limits_belong_to_those_that_rest(share, rests):
  questions = _make(3, low=0.2, high=0.8)
  questions.take(3)
  questions.learn([1], [share])
  assert questions.num_resting == rests


def test_with_all_at_rest_all_are_asked():
  questions = _make(5, rest=3)
  taken = questions.take(5)
  questions.learn(taken, [1.0] * 5)
  assert questions.num_resting == 5
  assert sorted(questions.take(5)) == [0, 1, 2, 3, 4]
  assert questions.num_resting == 0


def test_nobody_rests_where_it_is_switched_off():
  questions = _make(5, rest=0)
  questions.learn(questions.take(5), [1.0] * 5)
  assert questions.num_resting == 0


def test_a_state_of_other_questions_is_refused():
  state = _make(5).get_state()
  with pytest.raises(ValueError, match='got 6; the state that was saved has 5'):
    _make(6).set_state(state)


@hypothesis.given(_EVENTS, st.floats(0, 1))
def test_memory_hands_everything_over(events, coefficient):
  memory = questions_lib.Memory(_make(7), 0.1)
  _live(memory.questions, events)
  memory.kl_coefficient, memory.first = coefficient, dict(entropy=1.5)
  memory.best = dict(iteration=4, success=0.5)
  copy = questions_lib.Memory(_make(7), 0.1)
  copy.set_state(json.loads(json.dumps(memory.get_state())))
  assert list(copy.get_state()) == list(memory.stream_names())
  for name in ('kl_coefficient', 'first', 'best'):
    assert getattr(copy, name) == getattr(memory, name)
  assert _live(copy.questions, events) == _live(memory.questions, events)
