# SPDX-License-Identifier: Apache-2.0
"""One search as a serial text, and as a parent with threads."""

import dataclasses

import numpy as np
import pytest

from data_pipelines import arms
from data_pipelines import examples as examples_lib
from data_pipelines.tokenizers import sentencepiece
from meta_cot import traces
from meta_cot.tasks import countdown
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import masks
from meta_cot.traces import threads
from meta_cot.traces.arithmetic import teacher
from tests import small_arms

TASK, STYLE = small_arms.TASK, 'compact_threads'
STYLES = (STYLE, 'compact_digits_threads')
TEACHER = teacher.Teacher(max_value=60)
PROBLEMS = tuple(TASK.problems('train', 0, 100))
FOUR = [
    countdown.make_problem(numbers, target) for numbers, target in (
        ((3, 5, 7, 2), 24), ((9, 8, 1, 4), 31), ((6, 6, 6, 6), 59))]


@pytest.fixture(scope='module')
def tokenizer():
  return sentencepiece.train(['+-*/=,;:>x!S@&'], 128, 60)


def _children(record):
  """The texts of all threads."""
  return [threads.child(record, i) for i in range(threads.num_children(record))]


def _texts(record):
  return [
      traces.render(events, STYLE)
      for events in (threads.parent(record), *_children(record))]


def test_known_texts():
  record = TEACHER.search(
      countdown.make_problem([20, 1, 9], 28), 'threads_4', 0)
  parent, *children = _texts(record)
  assert parent == (
      '20,1,9>28:9+1=10,20;20+1=21,9;9*1=9,20;9/1=9,20;&xxxx'
      '20*1=20,9;20/1=20,9;9-1=8,20;20-1=19,9;&'
      'xx!9-1=8,20+8=28;!20-1=19,19+9=28;S9-1=8,20+8=28')
  assert children[:2] == [
      '20,1,9>28:&9+1=10,20;+30-10/2x', '20,1,9>28:&20+1=21,9;+30-12x']
  assert children[6:] == [
      '20,1,9>28:&9-1=8,20;+28!S9-1=8,20+8=28',
      '20,1,9>28:&20-1=19,9;+28!S20-1=19,19+9=28']
  assert traces.render([*_children(record)][-1], STYLES[1]) == (
      "20,1,9>28:&20-1=19,9;+2'8'!S20-1=19,19+9=28")


@pytest.mark.parametrize('problem', [*PROBLEMS[:40], *FOUR], ids=str)
@pytest.mark.parametrize('number', [2, 4, 24])
def test_both_tell_the_same_search(problem, number):
  serial = TEACHER.search(problem, 'compact', 0)
  record = TEACHER.search(problem, f'threads_{number}', 0)
  assert traces.linearize(record) == traces.linearize(serial)
  size = len(serial.nodes)
  for ours, theirs in zip(record.nodes, serial.nodes):
    assert ours == theirs
  parent, *children = (threads.parent(record), *_children(record))
  steps = lambda events: [e for e in events if isinstance(e, traces.Step)]
  told = [step for events in children for step in steps(events)]
  assert [(s.text, s.state) for s in told] == [
      (node.step, node.state) for node in record.nodes[1:]]
  # What is more is next to the thread that found the solution.
  firsts = [i for i, n in enumerate(record.nodes) if n.parent == 0]
  late = [i for i in firsts if i >= size]
  assert len(late) < number and (record.is_solved or not late)
  joins = [e.lines for e in parent if isinstance(e, events_lib.Join)]
  assert [len(lines) for lines in joins[:-1]] == [number] * (len(joins) - 1)
  lines = [line for some in joins for line in some]
  assert len(lines) == len(steps(parent)) == len(children)
  for line, events in zip(lines, children):
    answers = [e.text for e in events if isinstance(e, traces.Answer)]
    assert answers == [line] * bool(line)
    assert not line or TASK.verify(problem, line).is_correct
  assert not any(line for some in joins[:-1] for line in some)
  assert any(joins[-1]) == record.is_solved


@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('problem', [*PROBLEMS, *FOUR], ids=str)
def test_texts_are_read_again(problem, style):
  record = TEACHER.search(problem, 'threads', 3)
  for events in (threads.parent(record), *_children(record)):
    text = traces.render(events, style)
    assert traces.parse(text, style) == events
    reading = format_lib.read(text, style)
    assert not reading.faults
    assert (reading.answer or '') == (
        events[-1].text if isinstance(events[-1], traces.Answer) else '')


def test_a_text_cut_in_a_line_is_unfinished():
  text = '20,1,9>28:9+1=10,20;20+1=21,9;&x!20-1=19,19'
  assert [f.kind for f in format_lib.read(text, STYLE).faults] == [
      'unfinished']
  assert [f.kind for f in format_lib.read(text, 'compact').faults] == [
      'format']


def test_any_text_is_read():
  rng = np.random.default_rng(0)
  for _ in range(2_000):
    text = ''.join(rng.choice([*'0123456789S,&x!=+;@'], 14))
    for start in ('', '9-3=6,4;', '9-3=6,4;&x'):
      format_lib.read(f'4,9,3>24:{start}{text}', STYLE)


def test_joins_stand_where_they_can_be_read():
  rng = np.random.default_rng(1)
  pieces = ('9-3=6,4;', '+10', '-2', 'x', '*24!', '&', '@1;', '@0;', ',',
            '!9-3=6,6*4=24;', 'S9-3=6,6*4=24', '9+3=12,4;')
  kept = 0
  for _ in range(3_000):
    text = '4,9,3>24:' + ''.join(rng.choice(pieces, 6))
    reading = format_lib.read(text, STYLE)
    if not any(f.is_grammar for f in reading.faults):
      kept += '&' in text
      assert traces.render(reading.events, STYLE) == text
  assert kept > 10


def test_other_styles_refuse_threads():
  record = TEACHER.search(PROBLEMS[0], 'threads_2', 0)
  for style in ('compact', 'compact_digits'):
    with pytest.raises(ValueError, match='compact_threads'):
      traces.render(threads.parent(record), style)
  assert arms.ARMS['threads'].styles == STYLES
  with pytest.raises(ValueError, match='at least three'):
    TEACHER.search(countdown.make_problem([3, 4], 12), 'threads_2', 0)
  with pytest.raises(ValueError, match='num_threads'):
    dataclasses.replace(teacher.STREAM_OF_SEARCH['bfs_sum_2'][0],
                        num_threads=2)


def _trained(events, mask='procedure_cloning'):
  text, ranges = masks.trained_ranges(events, STYLE, mask)
  return ''.join(text[start:end] for start, end in ranges)


def test_messages_and_lines_are_not_trained():
  record = TEACHER.search(
      countdown.make_problem([20, 1, 9], 28), 'threads_4', 0)
  assert _trained(threads.parent(record)) == (
      '9+1=10,20;20+1=21,9;9*1=9,20;9/1=9,20;&'
      '20*1=20,9;20/1=20,9;9-1=8,20;20-1=19,9;&S9-1=8,20+8=28')
  children = [_trained(events) for events in _children(record)]
  assert children[:2] == ['+30-10/2x', '+30-12x']
  assert children[6:] == ['+28!S9-1=8,20+8=28', '+28!S20-1=19,19+9=28']
  assert _trained(threads.parent(record), 'solution_path') == (
      'S9-1=8,20+8=28')


def test_rows_are_texts_with_masks(tokenizer):
  record = TEACHER.search(
      countdown.make_problem([20, 1, 9], 28), 'threads_4', 0)
  make = examples_lib.Texts(
      arms.make('threads', TASK, STYLE), small_arms.CONFIG, tokenizer, STYLE)
  assert make.is_random
  seen = {}
  for seed in range(60):
    row = make(record, np.random.default_rng(seed))
    text = tokenizer.decode([int(row['tokens'][0]), *row['targets'].tolist()])
    trained = row['targets'][row['weights'] > 0].tolist()
    assert trained[-1] == tokenizer.eos_id
    seen.setdefault(text, []).append(tokenizer.decode(trained[:-1]))
  assert seen.keys() == set(_texts(record))
  (parents,) = (len(v) for k, v in seen.items() if ':&' not in k)
  assert 10 <= parents <= 30
  answered = threads.child(record, threads.found_by(record))
  assert 10 <= len(seen[traces.render(answered, STYLE)]) <= 30
  for events in (threads.parent(record), *_children(record)):
    assert {*seen[traces.render(events, STYLE)]} == {_trained(events)}
  plain = TEACHER.search(PROBLEMS[0], 'compact', 0)
  assert make(plain, np.random.default_rng(0)) is None
