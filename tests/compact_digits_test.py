# SPDX-License-Identifier: Apache-2.0
"""Style compact_digits: last numbers beside the target, digit by digit."""

import random

import pytest

from meta_cot import traces
from meta_cot.tasks import countdown
from meta_cot.traces.arithmetic import teacher


@pytest.mark.parametrize('target, number, told', [
    (28, 28, "2'8'"), (28, 2, "2'"), (28, 82, '82'), (28, 288, "2'8'8"),
    (128, 28, "28"), (128, 18, "1'8"), (5, 5, "5'"), (5, 55, "5'5")])
def test_digits_of_a_last_number_say_whether_they_are_the_targets(
    target, number, told):
  question = f'{number + 1},1>{target}'
  outcome = 'goal' if number == target else 'dead_end'
  step = traces.Step(
      1, 0, f'{number + 1}-1={number}', str(number), outcome)
  text = traces.render((traces.Start(question), step), 'compact_digits')
  assert text == f'{question}:-{told}' + ('!' if number == target else 'x')
  assert traces.parse(text, 'compact_digits') == (traces.Start(question), step)


def test_digits_differ_from_compact_in_marks_alone():
  rng = random.Random(3)
  for seed in range(50):
    numbers = [rng.randint(1, 20) for _ in range(3)]
    problem = countdown.make_problem(numbers, rng.randint(10, 60))
    events = traces.linearize(teacher.search(problem, teacher.COMPACT, seed))
    text = traces.render(events, 'compact_digits')
    assert text.replace("'", '') == traces.render(events, 'compact')


@pytest.mark.parametrize('text, message', [
    ("4,9>36:+1'3-5*36!S9*4=36", r'position 8 .* not 13\.'),
    ('4,9>36:+13-5*36!S9*4=36', r"position 13 .* not 3'6'\."),
    ("4,9>36:+13-5*3''6'!", 'position 15 .* further value'),
    ("4,9>36:+13-5*3'6!", 'position 13'), ("4,9>3'6:+13", 'position 0')])
def test_wrong_marks_are_refused_with_the_position(text, message):
  with pytest.raises(ValueError, match=message):
    traces.parse(text, 'compact_digits')


def test_other_styles_have_no_marks():
  with pytest.raises(ValueError, match='a further value'):
    traces.parse("4,9>36:+13-5*3'6'!", 'compact')
