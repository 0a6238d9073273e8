# SPDX-License-Identifier: Apache-2.0
"""Style `prose`: any task's search in plain words, and back again."""

import dataclasses
import pathlib
import random

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines.tokenizers import sentencepiece
from meta_cot import tasks
from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.solvers import trees
from meta_cot.tasks import countdown
from meta_cot.tasks import game24
from meta_cot.traces import format as format_lib
from meta_cot.traces import prose
from meta_cot.traces.arithmetic import teacher

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'prose.txt'


def _record(nodes, question='q', traversal='expansion', **changes):
  goal = next((i for i, node in enumerate(nodes) if node.is_correct), -1)
  solution = []
  while goal >= 0:
    solution.insert(0, goal)
    goal = nodes[goal].parent
  return traces.TraceRecord(
      problem=Problem('p', question, '', {}), strategy='s', arguments={},
      seed=0, model='m', nodes=tuple(nodes), solution=tuple(solution),
      traversal=traversal, **changes)


def _jugs():
  """Four litres from jugs of three and five; states are what is in them."""
  node = traces.Node
  return _record([
      node(-1, '', '0,0', order=0, value=1.0),
      node(0, 'fill 5', '0,5', order=1, value=0.618),
      node(0, 'fill 3', '3,0', order=2, value=0.3),
      node(1, 'fill 3', '3,5', order=4, value=0.07),
      node(1, 'pour 5 into 3', '3,2', order=5, value=0.804),
      node(2, 'fill 5', '3,5', order=3, value=0.07),
      node(5, 'empty 3 and 5', '0,0', is_terminal=True, value=0.0),
      node(3, 'empty 5', '3,0', is_terminal=True),
      node(4, 'empty 3', '0,2', order=6, value=0.9),
      node(8, 'pour 5 into 3', '2,0', order=7, value=0.95),
      node(9, 'fill 5', '2,5', order=8, value=1.0),
      node(10, 'pour 5 into 3', '3,4', is_terminal=True, is_correct=True,
           value=1.0)], question='jugs of 3 and 5: measure 4')


def test_golden():
  events = traces.linearize(_jugs())
  text = GOLDEN.read_text()
  assert traces.render(events, 'prose') == text
  assert traces.parse(text, 'prose') == events
  assert traces.extract_answer(text, 'prose').startswith('fill 5\npour 5 in')
  assert text.startswith(traces.prompt(_jugs().problem, 'prose'))


def test_every_damaged_character_is_refused_or_read():
  text, num_refused, num_read = GOLDEN.read_text(), 0, 0
  events = traces.parse(text, 'prose')
  for at in range(len(text)):
    for new in ('', 'x', '3', ' ', '\n', ':'):
      damaged = text[:at] + new + text[at + 1:]
      if damaged == text:
        continue
      try:
        read = traces.parse(damaged, 'prose')
      except ValueError as e:
        assert str(e).startswith('position ') and '\n' not in str(e)
        num_refused += 1
      else:
        assert read != events and traces.render(read, 'prose') == damaged
        num_read += 1
  assert num_refused > num_read > 100


@pytest.mark.parametrize('body, message', [
    ('Try a', r"position 12 \(line 2\): 'Try a' is not a whole line: Try, "),
    ('Try a\n', r"position 18 \(line 3\): '' is not This gives and a state"),
    ('Try \nThis gives b\n', 'position 12 .* is not Try, Then or'),
    ('Try a\nTry b\n', 'position 18 .* is not This gives'),
    ('This gives b\n', 'position 12'),
    ('Then a\nThis gives b\n', 'position 12 .* no step is before it'),
    ('Alternatively, a\n', 'position 12 .* no step is before it'),
    ('It looks 50% promising.\n', 'position 12'),
    ('Wait, back to: b\n', 'position 12 .* a state made before'),
    ('Try a\nThis gives b\nIt looks 101% promising.\n', 'position 31'),
    ('Try a\nThis gives b\nIt looks 05% promising.\n', 'position 31'),
    ('Try a\nThis gives b\n' + 'It looks 5% promising.\n' * 2, 'position 54'),
    ('Solved.\n', 'position 12'),
    ('Try a\nThis gives b\n' + 'A dead end.\n' * 2, 'position 43'),
    ('Try a\nThis gives b\nIt looks 5% promising.\nSolved.\n', 'position 54'),
    ('Try a\nThis gives b\nWait, back to number 2: b\n', 'position 31'),
    ('Try a\nThis gives b\nWait, back to number 1: b\n',  # needs no number
     r"position 44 \(line 4\): ' number 1: b"),
    ('Try a\nThis gives b\nWait, back to: b\nTry c\nThis gives d\n',
     "position 31 .* is not 'Then c"),
    ('Answer: ', 'position 20 .* is not a step'),
    ('Answer: a\n', r'position 22 \(line 3\)'),
    ('Answer: a\n\nb', r'position 22 \(line 3\)'),
    ('Try a\nAnswer: a', 'position 18 .* is not This gives'),
    ('Nothing is left to try', 'position 12')])
def test_parse_refuses(body, message):
  with pytest.raises(ValueError, match=message) as error:
    traces.parse(f'Question: q\n{body}', 'prose')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('events, message', [
    ((traces.Start('a\nb'),), r"question 'a\\nb' .* must be one line"),
    ((traces.Step(1, 0, '', 's', ''),), 'node 1: step .* one line, not empty'),
    ((traces.Step(1, 0, 'a', 's\n', ''),), 'node 1: state .* one line'),
    ((traces.Answer(''),), 'answer line 1: .* not empty'),
    ((traces.Answer('a\n'),), 'answer line 2: .* not empty'),
    ((traces.Answer('a'), traces.Exhausted()), 'Answer the last one'),
    ((traces.Value(0, 0.5),), 'behind the step'),
    *(((traces.Step(1, 0, 'a', 's', ''), traces.Value(1, value)),
       r'in 0\.\.1, with two') for value in (0.123, -0.1, 1.2, float('nan')))])
def test_render_refuses(events, message):
  if not isinstance(events[0], traces.Start):
    events = (traces.Start('q'), *events)
  with pytest.raises(ValueError, match=message) as error:
    traces.render(events, 'prose')
  assert '\n' not in str(error.value)


_PIECES = (
    '', ' ', ',', 'Try a', 'This gives ', 'Answer: ', 'Question: q',
    ' number 2', ': ', 'Wait, back to', ' the start',
    'It looks 50% promising.', '\r', '\u2028', 'Nothing is left to try.')
_LINES = st.one_of(
    st.text().map(lambda text: text.replace('\n', '')),
    st.lists(st.sampled_from(_PIECES), max_size=3).map(''.join))
_VALUES = st.none() | st.floats(0, 1)


@st.composite
def _records(draw):
  """Any tree of any texts, told in either way."""
  nodes = [traces.Node(-1, '', draw(_LINES), value=draw(_VALUES))]
  states = draw(st.lists(_LINES, min_size=1, max_size=3))  # many are equal
  for i in range(draw(st.integers(0, 7))):
    nodes.append(traces.Node(
        draw(st.integers(0, i)), draw(_LINES.filter(bool)),
        draw(st.sampled_from(states) | _LINES),
        is_terminal=draw(st.booleans()), value=draw(_VALUES)))
  parents = {node.parent for node in nodes}
  for i, node in enumerate(nodes):
    if i in parents or draw(st.booleans()):
      above = nodes[node.parent].order if i else -1
      nodes[i] = dataclasses.replace(
          node, order=draw(st.integers(above + 1, above + 9)))
  if draw(st.booleans()):
    nodes[-1] = dataclasses.replace(
        nodes[-1], is_correct=len(nodes) > 1, is_terminal=True)
  return _record(
      nodes, question=draw(_LINES), is_exhausted=draw(st.booleans()),
      traversal=draw(st.sampled_from(['depth_first', 'expansion'])))


@hypothesis.given(_records())
@hypothesis.settings(max_examples=300)
def test_any_search_round_trips(record):
  events = traces.linearize(record)
  text = traces.render(events, 'prose')
  assert traces.parse(text, 'prose') == events
  assert text.startswith(traces.prompt(record.problem, 'prose'))


@hypothesis.given(_records(), st.data())
@hypothesis.settings(max_examples=300)
def test_any_damage_is_refused_or_read(record, data):
  text = traces.render(traces.linearize(record), 'prose')
  for _ in range(data.draw(st.integers(1, 3))):
    at = data.draw(st.integers(0, len(text)))
    end = at + data.draw(st.sampled_from([0, 1, 9]))
    text = text[:at] + data.draw(
        st.sampled_from([*_PIECES, '\n'])) + text[end:]
  reading = format_lib.read(text, 'prose')
  assert all(0 <= fault.position <= len(text) for fault in reading.faults)
  if reading.faults:
    with pytest.raises(ValueError, match='^position '):
      traces.parse(text, 'prose')
  else:
    assert traces.render(reading.events, 'prose') == text


@hypothesis.given(st.lists(_LINES.filter(bool), min_size=1), _LINES)
def test_solutions_round_trip(steps, question):
  events = traces.Start(question), traces.Answer('\n'.join(steps))
  text = traces.render(events, 'prose')
  assert text == (
      f'Question: {question}\n{prose.OPENING}{prose.STEP_END.join(steps)}')
  assert traces.parse(text, 'prose') == events
  assert traces.extract_answer(text, 'prose') == '\n'.join(steps)


def _puzzles(task):
  if task == 'countdown':
    rng = random.Random(0)
    return [
        countdown.make_problem([rng.randint(1, 25) for _ in range(size)], 24)
        for size in (2, 3, 3, 3, 4)]
  settings = game24.Settings(
      rank_file=None, num_train=0, num_validation=9, num_test=9, max_value=100,
      operands='listed')
  return list(tasks.make('game24', settings).problems('validation', 0, 3))


@pytest.mark.parametrize('task', ['countdown', 'game24'])
@pytest.mark.parametrize('name', teacher.Teacher.strategies)
def test_searches_of_number_puzzles_round_trip(task, name):
  for problem in _puzzles(task)[name.startswith('threads'):]:  # of 3 numbers
    events = traces.linearize(teacher.Teacher(100).search(problem, name, 1))
    assert not any(isinstance(event, traces.Value) for event in events)
    text = traces.render(events, 'prose')
    assert traces.parse(text, 'prose') == events


@pytest.mark.parametrize('mask', ['meta_cot', 'solution_path'])
def test_what_is_trained(mask):
  text, ranges = traces.trained_ranges(
      traces.linearize(_jugs()), 'prose', mask)
  trained = ''.join(text[start:end] for start, end in ranges)
  search, answer = text.split('Answer: ')
  if mask == 'meta_cot':
    assert trained == search.partition('\n')[2]
  else:
    assert trained.endswith(
        f'3,4\nSolved.\nIt looks 100% promising.\nAnswer: {answer}')
    assert trained.startswith(
        'Try fill 5\nThis gives 0,5\nIt looks 62% promising.\n'
        'Wait, back to: 0,5\nTry pour 5 into 3\nThis gives 3,2\nIt looks 80%')
    assert 'dead end' not in trained and '7%' not in trained


def test_values_follow_their_steps_and_others_leave_them_out():
  record = _jugs()
  values = [e for e in traces.linearize(record) if isinstance(e, traces.Value)]
  assert values[:2] == [traces.Value(1, 0.62), traces.Value(2, 0.3)]
  assert len(values) == 10  # not the root's, none where there is none
  search = teacher.search(
      countdown.make_problem([20, 1, 9], 28), teacher.COMPACT, 0)
  valued = dataclasses.replace(search, nodes=tuple(
      dataclasses.replace(node, value=0.5) for node in search.nodes))
  for style in ('compact', 'stream_of_search'):
    told = [traces.trained_ranges(traces.linearize(r), style, 'solution_path')
            for r in (search, valued)]
    assert told[0] == told[1]
    assert trees.told(valued, style) == (told[0][0], 0)
  assert 'It looks 50% promising.' in trees.told(valued, 'prose')[0]


def test_analysis_of_any_task():
  def analyze(text, is_finished=True):
    return traces.analyze(
        _jugs().problem, text, 'prose', is_finished,
        lambda answer: 'none' if answer.startswith('fill 5\n') else 'spilt')

  text = GOLDEN.read_text()
  result = analyze(text)
  assert (result.nodes, result.backtracks, result.errors) == (11, 3, {})
  assert result.primary_error == 'none'
  assert analyze(text.replace('Answer: fill 5', 'Answer: fill 3')
                 ).primary_error == 'spilt'
  cut = analyze(text[:200], is_finished=False)
  assert (cut.primary_error, cut.errors) == ('unfinished', {'unfinished': 1})
  lost = analyze(text.replace('number 1: 3,5', 'number 8: 3,5'))
  assert lost.errors == {'illegal_state': 1} and lost.primary_error == 'none'


def test_a_long_text_is_read():  # quadratic time would be hours
  lines = 'Try a\nThis gives b\nWait, back to the start\n'
  reading = format_lib.read('Question: q\n' + lines * 50_000, 'prose')
  assert len(reading.events) == 100_001


# Not those of other records (loop_arms_test.py) or styles (drafts_test.py,
# threads_test.py).
@pytest.mark.parametrize('name', [
    name for name, arm in arms.ARMS.items() if not (
        arm.is_played or arm.is_visited or arm.is_relabelled or arm.draft
        or arm.is_threaded)])
def test_every_arm_is_written(name):
  task = countdown.make(None, 0)
  arm = arms.make(name, task)
  assert 'prose' in arm.styles
  record = teacher.search(
      countdown.make_problem([4, 9, 3], 24), teacher.COMPACT, 0)
  tokenizer = sentencepiece.train(
      [traces.render(traces.linearize(record), 'prose')], 128)
  config = examples.DataConfig(
      sequence_length=64, mask='procedure_cloning', num_records=None,
      packing_bins=1, num_workers=0, num_streams=1, prune_fraction=0.0,
      max_attempts=3, trained_attempts='all', backtrack_rate=0.0,
      opening='none', openings=(),
      value=examples.ValueConfig(1.0, 0.0, None),
      verdict=examples.VerdictConfig('?', '!', 'x', None),
      pairs=examples.PairsConfig(0.1, 0.25))
  written = examples.Texts(arm, config, tokenizer, 'prose')(
      record, np.random.default_rng(3))
  text = tokenizer.decode(
      [*written['tokens'][:1], *written['targets']], show_control=True)
  question, *attempts, end = text.replace('\n', '<eos>', 1).split('<eos>')
  assert question.startswith('Question: ') and end == ''
  assert len(attempts) == (3 if arm.is_revised else 1)
  for attempt in attempts:
    answer = traces.extract_answer(f'{question}\n{attempt}', 'prose')
    assert len(answer.split('\n')) == 2
  assert arm.is_permuted or task.verify(record.problem, answer).is_correct
