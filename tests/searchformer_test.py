# SPDX-License-Identifier: Apache-2.0
"""Style searchformer: golden lines, round trips, damage, what is trained."""

import dataclasses
import pathlib
import random

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import traces
from meta_cot.tasks import maze
from meta_cot.traces import analysis
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'searchformer.txt'
STYLE = 'searchformer'
TASK = maze.make(maze.Settings(
    sizes=(4, 6), num_train=200, num_validation=10, num_test=10, min_walls=0.2,
    max_walls=0.5, min_plan=1.0), 0)
PROBLEMS = list(TASK.problems('train', 0, 200))
# .G
# S#
TINY = maze.make_problem(2, (0, 0), (1, 1), [(1, 0)])
TEXT = (
    'start 0 0 goal 1 1 wall 1 0 create 0 0 c0 c2 close 0 0 c0 c2 create 0 1 '
    'c1 c1 close 0 1 c1 c1 create 1 1 c2 c0 close 1 1 c2 c0 plan 0 0 plan 0 1 '
    'plan 1 1')
PLAN = ' plan 0 0 plan 0 1 plan 1 1'
SEARCH = TEXT.removesuffix(PLAN)


def _events(problem, strategy='astar', seed=0):
  return traces.linearize(TASK.teacher.search(problem, strategy, seed))


def test_golden_lines():
  search, solution = GOLDEN.read_text().splitlines()
  problem = maze.make_problem(
      5, (3, 4), (0, 2), [(0, 1), (2, 1), (1, 2), (2, 3), (0, 4), (4, 4)],
      has_size=True)
  events = _events(problem)
  assert traces.render(events, STYLE) == search
  assert traces.parse(search, STYLE) == events
  events = events[0], events[-1]
  assert traces.render(events, STYLE) == solution
  assert traces.parse(solution, STYLE) == events


def test_events_of_a_small_maze():
  step, jump = traces.Step, traces.Jump
  events = (
      traces.Start('start 0 0 goal 1 1 wall 1 0'),
      step(1, 0, '0 0', '0 0', ''), jump(1), step(2, 1, '0 1', '0 1', ''),
      jump(2), step(3, 2, '1 1', '1 1', 'goal'), jump(3),
      traces.Answer('0 0\n0 1\n1 1'))
  assert _events(TINY) == events
  assert traces.render(events, STYLE) == TEXT
  assert traces.parse(TEXT, STYLE) == events


@hypothesis.given(st.sampled_from(PROBLEMS), st.integers(0, 99),
                  st.sampled_from(['astar', 'astar_random']), st.floats(0, 1))
@hypothesis.settings(deadline=None)
def test_round_trips(problem, seed, strategy, keep):
  record = TASK.teacher.search(problem, strategy, seed)
  pruned = traces.prune(record, keep, random.Random(seed))
  for some in (record, pruned, traces.prune(record, 0, random.Random(0))):
    events = traces.linearize(some)
    text = traces.render(events, STYLE)
    assert traces.parse(text, STYLE) == events
    assert text.startswith(traces.prompt(problem, STYLE) + ' create ')
    assert traces.extract_answer(text, STYLE) == events[-1].text
    told = analysis.analyze(problem, text, STYLE, True, lambda _: 'none')
    assert not told.errors and told.nodes == len(some.nodes) - 1
  assert TASK.verify(problem, events[-1].text).is_correct
  assert len(some.nodes) == len(some.solution)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=400, deadline=None)
def test_damage_is_refused_or_is_other_events(data):
  problem = data.draw(st.sampled_from(PROBLEMS))
  events = _events(problem)
  if data.draw(st.booleans()):
    events = events[0], events[-1]
  text = valid = traces.render(events, STYLE)
  for _ in range(data.draw(st.integers(1, 3))):
    at = data.draw(st.integers(0, len(text)))
    end = min(len(text), at + data.draw(st.sampled_from([0, 1, 2, 20, 9999])))
    text = text[:at] + data.draw(st.sampled_from([
        '', ' ', '0', '1', 'c', ' plan', ' plan 0 1', ' close 0 0 c0 c2', '\n',
        ' wall 1 1', ' create 1 1 c1 c1', 'start', 'x'])) + text[end:]
  reading = format_lib.read(text, STYLE)
  assert all(0 <= fault.position <= len(text) for fault in reading.faults)
  faults = [fault for fault in reading.faults if fault.is_grammar]
  try:
    read = traces.parse(text, STYLE)
  except ValueError as e:
    assert str(e).startswith(f'position {faults[0].position} (line ')
    assert '\n' not in str(e)
  else:
    assert not faults and traces.render(read, STYLE) == text
    assert (read == events) == (text == valid)


def _changes(text):
  """Every character left out, and every one replaced."""
  for i in range(len(text)):
    for new in ('', '0', '1', '7', 'c', ' '):
      if text[i:i + 1] != new:
        yield text[:i] + new + text[i + 1:]


def test_one_character_wrong_is_refused_or_read_as_something_else():
  events, num_read = _events(TINY), 0
  for text in _changes(TEXT):
    try:
      read = traces.parse(text, STYLE)
    except ValueError:
      continue
    num_read += 1
    assert read != events and traces.render(read, STYLE) == text
  assert 0 < num_read < 40  # other walls, other cells of the plan


@pytest.mark.parametrize('text, message', [
    ('', r"position 0 \(line 1\): '' is not start x y goal"),
    ('start 0 0 goal 1 01', 'position 0'), (TEXT[1:], 'position 0'),
    (TEXT + ' ', f'position {len(TEXT)} .* no more than that'),
    (TEXT + ' close 1 1 c2 c0', f'position {len(TEXT)} '),
    (SEARCH + ' plan', f'position {len(SEARCH)} .* plan x y'),
    (SEARCH + ' create 0 1 c1 c1', f'position {len(SEARCH)} .* not plan'),
    (SEARCH + '\n' + PLAN, 'position 110 '),
    (TEXT.replace('c1 c1 close', 'c1 c2 close'), 'position 72 .* not c1 c1'),
    (TEXT.replace('close 0 1 c1', 'close 0 1 c3'), 'not c1 c1'),
    (TEXT.replace('close 0 1', 'close 1 0'), 'was created and not closed'),
    (TEXT.replace('create 1 1', 'create 0 0'), 'not created before'),
    (TEXT.replace('create 0 1', 'create  0 1'), 'not create, close or plan'),
    (TEXT.replace('create 0 1', 'creates 0 1'), 'not create, close or plan')])
def test_parse_refuses(text, message):
  with pytest.raises(ValueError, match=message) as error:
    traces.parse(text, STYLE)
  assert '\n' not in str(error.value)


def _steps(*steps):
  return (traces.Start(TINY.question), *steps)


@pytest.mark.parametrize('events, message', [
    ((traces.Start('4,6>24'),), 'only writes mazes'),
    (_steps(traces.Step(1, 3, '0 0', '0 0', '')), 'the search stands at'),
    (_steps(traces.Step(2, 0, '0 0', '0 0', '')), 'the next node is 1'),
    (_steps(traces.Step(1, 0, 'up', '0 0', '')), 'must be the same cell'),
    (_steps(traces.Step(1, 0, '0 0', '0 1', '')), 'must be the same cell'),
    (_steps(traces.Step(1, 0, '0 0', '0 0', 'dead_end')), 'has outcome'),
    (_steps(traces.Step(1, 0, '1 1', '1 1', '')), "has outcome ''"),
    (_steps(traces.Jump(1)), 'no step has made yet'),
    (_steps(traces.Jump(0)), 'no step has made yet'),
    (_steps(traces.Step(1, 0, '0 0', '0 0', ''),
            traces.Step(2, 0, '0 0', '0 0', '')), 'no greater cost'),
    (_steps(traces.Step(1, 0, '1 1', '1 1', 'goal'), traces.Jump(1),
            traces.Step(2, 1, '0 1', '0 1', '')), 'goes on'),
    (_steps(traces.Answer('0 0\nup')), 'one cell per line')])
def test_render_refuses(events, message):
  with pytest.raises(ValueError, match=message) as error:
    traces.render(events, STYLE)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('text, is_finished, errors, primary', [
    (TEXT, True, {}, 'none'), (TINY.question + PLAN, True, {}, 'none'),
    (SEARCH, True, {'no_answer': 1}, 'no_answer'),
    (SEARCH, False, {'unfinished': 1}, 'unfinished'),
    (SEARCH[:-1], False, {'unfinished': 1}, 'unfinished'),
    (SEARCH[:-4], True, {'format': 1, 'no_answer': 1}, 'no_answer'),
    (SEARCH + ' plan 0', False, {'unfinished': 1}, 'unfinished'),
    (SEARCH + ' plan 0', True, {'format': 1}, 'format'),
    (TEXT.replace('c1 c1', 'c2 c1'), True, {
        'arithmetic': 2}, 'none'),
    (TEXT.replace(PLAN, ' plan 0 0 plan 1 1'), True, {'illegal_state': 1},
     'illegal_state'),
    (TEXT.removesuffix(' plan 1 1'), True, {'wrong_answer': 1},
     'wrong_answer'),
    (TEXT.replace('create 0 1', 'create 1 0'), True, {
        'illegal_state': 3, 'arithmetic': 2}, 'none'),
    (TINY.question + ' x' + PLAN, True, {'format': 1}, 'none')])
def test_faults(text, is_finished, errors, primary):
  answer = traces.extract_answer(text, STYLE)
  kind = TASK.verify(TINY, answer).reason.replace('right', 'none')
  told = analysis.analyze(TINY, text, STYLE, is_finished, lambda _: kind)
  assert (told.errors, told.primary_error) == (errors, primary)


@hypothesis.given(st.text(alphabet='01c creatlospn', max_size=60))
def test_reading_never_raises(text):
  for prefix in ('', TINY.question, SEARCH):
    reading = format_lib.read(prefix + text, STYLE)
    assert not reading.faults or reading.faults[0].position <= len(
        prefix + text)


def test_long_text_takes_bounded_time():
  for body in (' create 0 1 c1 c1' * 50_000, ' close 0 0 c0 c2' * 50_000,
               ' plan 0 0' * 50_000, ' plan' * 50_000, ' ' * 500_000,
               ' create 0 ' + '0' * 500_000):
    format_lib.read(SEARCH[:57] + body, STYLE)


@pytest.mark.parametrize('mask, trained', [
    ('procedure_cloning', SEARCH.removeprefix(TINY.question) + PLAN),
    ('meta_cot', SEARCH.removeprefix(TINY.question)),
    ('solution_path', SEARCH.removeprefix(TINY.question) + PLAN)])
def test_what_is_trained(mask, trained):
  text, ranges = traces.trained_ranges(_events(TINY), STYLE, mask)
  assert text == TEXT
  assert ''.join(text[a:b] for a, b in ranges) == trained


def test_the_path_leaves_out_what_the_plan_does_not_use():
  problem = maze.make_problem(3, (1, 0), (1, 2), [(1, 1)])
  text, ranges = traces.trained_ranges(
      _events(problem), STYLE, 'solution_path')
  on_path = ''.join(text[a:b] for a, b in ranges)
  for cell in problem.answer.split('\n'):
    for verb in ('create', 'close', 'plan'):
      assert f' {verb} {cell}' in on_path
  assert on_path.count(' create') == on_path.count(' plan') == 5
  assert on_path.count(' close') == 5 < text.count(' close')


def test_marks_cut_the_steps_of_a_solution():
  module = format_lib.STYLES[STYLE]
  assert PLAN.startswith(module.OPENING)
  assert PLAN.removeprefix(module.OPENING).split(module.STEP_END) == [
      ' 0 0', ' 0 1', ' 1 1']


def test_how_a_goal_ends_the_search_is_a_field():
  record = TASK.teacher.search(TINY, 'astar', 0)
  made = traces.linearize(dataclasses.replace(record, traversal='expansion'))
  assert made == _events(TINY)[:-2] + _events(TINY)[-1:]
  assert sum(events_lib.on_path(made)) == 6
