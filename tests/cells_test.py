# SPDX-License-Identifier: Apache-2.0
"""Style cells: golden lines, round trips, damage, what is trained."""

import dataclasses
import pathlib
import random

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from configs import sudoku4 as sudoku4_config
from data_pipelines.tokenizers import sentencepiece
from meta_cot import tasks
from meta_cot import traces
from meta_cot.solvers import trees
from meta_cot.solvers import vocabulary
from meta_cot.tasks import sudoku4
from meta_cot.traces import analysis
from meta_cot.traces import format as format_lib

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'cells.txt'
STYLE = 'cells'
TASK = sudoku4.make(sudoku4.Settings(
    min_empty=8, max_empty=12, num_train=200, num_validation=10, num_test=10),
    0)
PROBLEMS = list(TASK.problems('train', 0, 200))
# r1c4=2,r2c3=3,r3c3=4,r4c2=1
SMALL = sudoku4.make_problem([0, 0, 0, 2, 0, 0, 3, 0, 0, 0, 4, 0, 0, 1, 0, 0])
PROMPT = f'{SMALL.question}:'


def _events(problem, strategy='depth_first', seed=0):
  return traces.linearize(TASK.teacher.search(problem, strategy, seed))


def _expanded(made):
  """A search by (step, x behind it for a dead end; parent; order)."""
  nodes = [traces.Node(-1, '', TASK.states.first(SMALL), order=0)]
  for text, parent, order in made:
    step = text.removesuffix('x')
    nodes.append(traces.Node(
        parent, step, TASK.states.after(SMALL, nodes[parent].state, step),
        order=order, is_terminal=step != text))
  return traces.TraceRecord(
      problem=SMALL, strategy='s', arguments={}, seed=0, model='m',
      nodes=tuple(nodes), solution=(), traversal='expansion')


def test_golden_lines():
  search, solution, expansion = GOLDEN.read_text().splitlines()
  events = _events(SMALL)
  assert traces.render(events, STYLE) == search
  assert traces.parse(search, STYLE) == events
  events = events[0], events[-1]
  assert traces.render(events, STYLE) == solution
  assert traces.parse(solution, STYLE) == events
  events = traces.linearize(_expanded([
      ('r1c1=1', 0, 1), ('r1c1=3', 0, 3), ('r1c1=4', 0, -1),
      ('r1c2=3x', 1, -1), ('r1c2=4', 1, 2), ('r2c1=2', 5, 5),
      ('r1c2=4', 2, 4), ('r1c3=1x', 7, -1)]))
  assert traces.render(events, STYLE) == expansion
  assert traces.parse(expansion, STYLE) == events


def test_a_depth_first_search_needs_no_jumps():
  for problem in PROBLEMS[:50]:
    search = traces.render(_events(problem), STYLE).removeprefix(
        f'{problem.question}:').partition('S')[0]
    assert '@' not in search and ',' not in search


@hypothesis.given(
    st.sampled_from(PROBLEMS), st.integers(0, 99),
    st.sampled_from(TASK.teacher.strategies), st.floats(0, 1))
@hypothesis.settings(deadline=None)
def test_round_trips(problem, seed, strategy, keep):
  record = TASK.teacher.search(problem, strategy, seed)
  pruned = traces.prune(record, keep, random.Random(seed))
  for some in (record, pruned, traces.prune(record, 0, random.Random(0))):
    events = traces.linearize(some)
    text = traces.render(events, STYLE)
    assert traces.parse(text, STYLE) == events
    assert text.startswith(traces.prompt(problem, STYLE) + 'r')
    assert traces.extract_answer(text, STYLE) == events[-1].text
    told = analysis.analyze(problem, text, STYLE, True, lambda _: 'none')
    assert not told.errors and told.nodes == len(some.nodes) - 1
  assert TASK.verify(problem, events[-1].text).is_correct
  assert len(some.nodes) == len(some.solution)


@st.composite
def _searches(draw):
  """A tree of any legal steps, expanded in any order."""
  problem = draw(st.sampled_from(PROBLEMS))
  rng = random.Random(draw(st.integers(0, 10**9)))
  nodes = [traces.Node(-1, '', TASK.states.first(problem), order=0)]
  for _ in range(rng.randint(0, 12)):
    parent = rng.randrange(len(nodes))
    step = f'r{rng.randint(1, 4)}c{rng.randint(1, 4)}={rng.randint(1, 4)}'
    state = TASK.states.after(problem, nodes[parent].state, step)
    if state is not None and not nodes[parent].is_terminal:
      nodes.append(traces.Node(
          parent, step, state, is_terminal=rng.random() < 0.2))
  parents = {node.parent for node in nodes}
  for i, node in enumerate(nodes[1:], 1):
    if i in parents or (not node.is_terminal and rng.random() < 0.5):
      above = nodes[node.parent].order
      nodes[i] = dataclasses.replace(
          node, order=above + rng.randint(1, 9))
  return traces.TraceRecord(
      problem=problem, strategy='s', arguments={}, seed=0, model='m',
      nodes=tuple(nodes), solution=(),
      traversal=rng.choice(['expansion', 'depth_first']))


@hypothesis.given(_searches())
@hypothesis.settings(deadline=None, max_examples=300)
def test_any_search_round_trips(record):
  events = traces.linearize(record)
  text = traces.render(events, STYLE)
  assert traces.parse(text, STYLE) == events
  assert trees.told(record, STYLE) == (text, 0)


PIECES = (
    '', 'r', '1', '=', ',', ';', 'x', '!', 'S', ':', 'r1c1=1', ',r1c2=4',
    'r2c1=2;', '@', '@0;', '@1;', '@01;', '@99;', '\n', ' ')


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=400, deadline=None)
def test_damage_is_refused_or_is_other_events(data):
  events = _events(data.draw(st.sampled_from(PROBLEMS)))
  if data.draw(st.booleans()):
    events = events[0], events[-1]
  text = valid = traces.render(events, STYLE)
  for _ in range(data.draw(st.integers(1, 3))):
    at = data.draw(st.integers(0, len(text)))
    end = min(len(text), at + data.draw(st.sampled_from([0, 1, 2, 7, 999])))
    text = text[:at] + data.draw(st.sampled_from(PIECES)) + text[end:]
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


AT = len(PROMPT)


@pytest.mark.parametrize('body, kind, position', [
    ('r1c1=1', 'unfinished', 0), ('r1c1=1;r1c', 'unfinished', 7),
    ('r1c1=1;@', 'unfinished', 7), ('r1c1=1;r1c2=3;x', 'format', 14),
    ('r1c1=5;', 'format', 0), (' r1c1=1;', 'format', 0),
    ('r1c1=1;S', 'unfinished', 7), ('Sr1c1=3;', 'unfinished', 7),
    ('Sr1c1=3;r1', 'unfinished', 7), ('Sr1c1=3 r1c2=4', 'format', 7),
    ('@1;r1c1=1;', 'illegal_state', 0), ('@0;r1c1=1;', None, None),
    ('r1c1=1;@1;r1c2=3;', 'format', 7),  # follows anyway
    ('r1c1=1;@0;r1c1=3;', 'format', 7), (',r1c1=1;', 'format', 0),
    ('r1c1=1;@0;,r1c1=3;', 'format', 7), ('r1c1=1;,r1c1=3;', None, None),
    ('r1c1=1;@0;r1c2=3;', None, None), ('r1c1=1;@1;@0;', None, None)])
def test_what_parse_refuses(body, kind, position):
  if kind is None:
    text = PROMPT + body
    assert traces.render(traces.parse(text, STYLE), STYLE) == text
    return
  at = AT + position
  (fault, *_) = format_lib.read(PROMPT + body, STYLE).faults
  assert (fault.kind, fault.position) == (kind, at) and fault.is_grammar
  with pytest.raises(ValueError, match=rf'^position {at} \(line 1\)'):
    traces.parse(PROMPT + body, STYLE)


@pytest.mark.parametrize('body, kind, position', [
    ('r1c1=2;', 'illegal_state', 0), ('r1c1=1;r1c2=1;', 'illegal_state', 7),
    ('r1c4=2;', 'illegal_state', 0), ('r1c1=1!', 'wrong_answer', 6),
    ('r1c1=1;@1;@0;@1;r1c1=3;', 'illegal_state', 16),
    ('Sr1c1=3', 'wrong_answer', 1), ('Sr1c1=3;r1c1=3', 'illegal_state', 8)])
def test_what_the_events_tell_is_no_fault_of_grammar(body, kind, position):
  text = PROMPT + body
  (fault, *_) = format_lib.read(text, STYLE).faults
  assert (fault.kind, fault.position) == (kind, AT + position)
  assert not fault.is_grammar
  assert traces.render(traces.parse(text, STYLE), STYLE) == text


@pytest.mark.parametrize('question', [
    '', 'r1c1=1,r1c1=1:', 'r1c1=0:', '4,9,3>24:', 'r1c1=1,:'])
def test_what_is_no_prompt(question):
  reading = format_lib.read(f'{question}Sr1c2=2', STYLE)
  assert reading.events == () and reading.faults[0].position == 0
  with pytest.raises(ValueError, match='this style only writes Sudoku'):
    traces.prompt(dataclasses.replace(SMALL, question=question), STYLE)


STEP = traces.Step(1, 0, 'r1c1=1', '1..2|..3.|..4.|.1..', '')


@pytest.mark.parametrize('events, message', [
    ((traces.Step(1, 0, 'r1c1', '', ''),), 'must fill one cell of the grid'),
    *(((dataclasses.replace(STEP, state=state),), 'must fill one cell')
      for state in ('1...|..3.|..4.|.1..', '')),
    ((dataclasses.replace(STEP, node=2),), 'the next node is 1'),
    ((STEP, dataclasses.replace(STEP, node=2, parent=1)), 'stands at node 0'),
    ((traces.Jump(1),), 'no step has made yet'),
    ((dataclasses.replace(STEP, outcome='goal'), traces.Jump(0)), 'goes on'),
    *(((traces.Answer(text),), 'one step per line') for text in ('', 'r1c1'))])
def test_render_refuses(events, message):
  with pytest.raises(ValueError, match=message) as error:
    traces.render((traces.Start(SMALL.question), *events), STYLE)
  assert '\n' not in str(error.value)


def test_what_is_trained():
  text, ranges = traces.trained_ranges(_events(SMALL), STYLE, 'solution_path')
  trained = ''.join(text[start:end] for start, end in ranges)
  assert 'x' not in trained and 'r1c1=1' not in trained
  assert trained.count('r1c1=3') == 2 and trained.startswith('r1c1=3;r1c2=4;')
  text, ranges = traces.trained_ranges(_events(SMALL), STYLE, 'meta_cot')
  assert 'S' not in ''.join(text[start:end] for start, end in ranges)


def test_backtracks_are_counted():
  text = traces.render(_events(SMALL), STYLE)
  result = traces.analyze(SMALL, text, STYLE, True, lambda _: 'none')
  assert (result.nodes, result.backtracks) == (15, 1)  # of r1c1=1 alone
  assert result.errors == {}


def test_a_long_text_is_read():  # quadratic time would be hours
  text = PROMPT + 'r1c1=1;' + ''.join(
      f'@{i};r1c1=1;@{i + 1};r1c2=1;' for i in range(1, 30_001, 2))
  assert len(format_lib.read(text, STYLE).events) > 60_000


def test_tokens():
  config = sudoku4_config.get_config('tiny')
  tokenizer = sentencepiece.train(
      [traces.render(_events(p), STYLE) for p in PROBLEMS],
      config.tokenizer.vocabulary.vocab_size,
      config.tokenizer.vocabulary.number_tokens,
      config.tokenizer.vocabulary.pieces)
  assert tokenizer.vocab_size <= config.model.vocab_size
  for problem in PROBLEMS:
    events = _events(problem)
    solution = traces.render((events[0], events[-1]), STYLE)
    ids = tokenizer.encode(solution)
    assert tokenizer.decode(ids) == solution
    # A cell, its digit, and what stands behind it; S, but nothing at the end.
    assert len(ids) == 3 * 16
  ends = lambda kind: {
      tokenizer.decode([i]) for i in vocabulary.of(
          tokenizer, tokenizer.vocab_size, STYLE, kind).delimiter_ids}
  assert ends('solution') == {';'} and ends('event') == {';', 'x', '!'}


def test_it_is_read_in_the_graph_in_this_style_alone():
  assert [style for style in format_lib.STYLES if vocabulary.is_in_graph(
      tasks.make('sudoku4'), style, 128)] == [STYLE]
  assert np.array_equal(
      TASK.in_graph.inputs(SMALL)['givens'], SMALL.data['givens'])
