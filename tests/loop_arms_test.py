# SPDX-License-Identifier: Apache-2.0
"""What loops learn: told searches, visits, the teacher from reached states."""

import collections
import dataclasses
import types

import numpy as np
import pytest

from data_pipelines import arms
from data_pipelines import examples as examples_lib
from data_pipelines.tokenizers import sentencepiece
from meta_cot import tasks
from meta_cot import traces
from meta_cot.settings import config as config_lib
from meta_cot.solvers import trees
from meta_cot.stages import search as search_stage
from meta_cot.tasks import countdown
from meta_cot.traces import telling
from meta_cot.traces.arithmetic import teacher
from tests import small_arms

TASK, STYLE = small_arms.TASK, 'compact'
PROBLEM = countdown.make_problem([4, 9, 3], 24)
ABOUT = dict(strategy='s', arguments={}, seed=0, model='m')


@pytest.fixture(scope='module')
def tokenizer():
  return sentencepiece.train(['+-*/=,;:>x!S@'], 128, 60)


@pytest.fixture(scope='module')
def records():
  strategy = dataclasses.replace(teacher.COMPACT, max_value=60)
  return [
      teacher.search(p, strategy, 0) for p in TASK.problems('train', 0, 60)]


def _arm(name):
  return arms.make(name, TASK, STYLE)


def _node(parent, step, state, **changes):
  return traces.Node(parent, step, state, **changes)


def _tree(*nodes, solution=()):
  root = _node(-1, '', '4,9,3', order=0, visits=10)
  return traces.TraceRecord(
      problem=PROBLEM, nodes=(root, *nodes), solution=solution,
      traversal='expansion', **ABOUT)


def test_a_search_is_read_from_the_text_that_tells_it(records):
  for record in records:
    text = traces.render(traces.linearize(record), style=STYLE)
    found = telling.from_text(record.problem, text, STYLE, **ABOUT)
    assert traces.linearize(found) == traces.linearize(record)
    assert found.is_solved == record.is_solved
  plain = '4,9,3>24:9-3=6,4;*24!S9-3=6,6*4=24'
  by_expansion = dataclasses.replace(telling.from_text(
      PROBLEM, plain, STYLE, **ABOUT), traversal='expansion', nodes=(
          _node(-1, '', '', order=0), _node(0, '9-3=6', '4,6', order=1),
          _node(0, '9+4=13', '3,13'),
          _node(1, '6*4=24', '24', is_terminal=True, is_correct=True)),
      solution=(0, 1, 3))
  text = traces.render(traces.linearize(by_expansion), style=STYLE)
  found = telling.from_text(PROBLEM, text, STYLE, **ABOUT)
  assert found.traversal == 'expansion'
  assert traces.linearize(found) == traces.linearize(by_expansion)
  for text in (
      plain + 'x', plain.replace('*24', '*25'), '4,9,3>24:S9-3=6,6*4=24'):
    assert telling.from_text(PROBLEM, text, STYLE, **ABOUT) is None


def test_the_verified_search_is_told_as_far_as_it_can_be(records):
  arm, rng = _arm('verified_traces'), np.random.default_rng(0)
  solved = _tree(
      _node(0, 'what', '', order=1),  # nothing that the style could write
      _node(0, '9-3=6', '4,6', order=2),
      _node(2, '6*4=24', '24', is_terminal=True, is_correct=True),
      solution=(0, 2, 3))
  (events,) = arm(solved, rng, 1)
  assert traces.render(events, style=STYLE) == (
      '4,9,3>24:9-3=6,4;*24!S9-3=6,6*4=24')
  assert arm(dataclasses.replace(solved, solution=()), rng, 1) is None
  untold = _tree(
      _node(0, '9-3=5', '4,5', order=1), _node(
          1, 'x', '', is_terminal=True, is_correct=True), solution=(0, 1, 2))
  assert arm(untold, rng, 1) is None
  for record in filter(lambda r: r.is_solved, records):
    assert arm(record, rng, 1) == (traces.linearize(record),)


def test_a_right_solution_that_no_style_writes_is_passed_over():
  right = lambda first: _tree(
      _node(0, first, '4,6', order=-1, visits=1),
      _node(1, '6*4=24', '24', order=-1, visits=1, is_terminal=True,
            is_correct=True), solution=(0, 1, 2))
  rng = np.random.default_rng(0)
  for name in ('solution_only', 'revisions'):
    assert _arm(name)(right('9-3=6'), rng, 2)
    assert _arm(name)(right(':S9-3=6'), rng, 2) is None


def test_steps_are_drawn_in_proportion_to_their_visits(tokenizer):
  record = _tree(
      _node(0, '9-3=6', '4,6', order=1, visits=6),
      _node(0, '9+4=13', '3,13', visits=3),
      _node(0, '9-4=5', '3,5', visits=0),
      _node(1, '6*4=24', '24', visits=4, is_terminal=True, is_correct=True),
      _node(1, '6+4=10', '10', visits=1, is_terminal=True))
  arm, rng = _arm('visited'), np.random.default_rng(0)
  draws = [arm(record, rng, 1)[0] for _ in range(3_000)]
  counts = collections.Counter(answer.text for _, answer in draws)
  shares = {
      '9+4=13': 1 / 3, '9-3=6\n6*4=24': 2 / 3 * 4 / 5,
      '9-3=6\n6+4=10': 2 / 3 / 5}
  assert set(counts) == set(shares)
  for text, share in shares.items():
    sigma = np.sqrt(3_000 * share * (1 - share))
    assert abs(counts[text] - 3_000 * share) < 5 * sigma
  for events in draws[:50]:
    tokens, weights = examples_lib.tokenize(
        events, STYLE, 'procedure_cloning', tokenizer)
    assert tokens[-1] == tokenizer.eos_id
    assert weights[-1] == ('\n' in events[-1].text)  # else it may go on
  assert arm(_tree(_node(0, 'what', '', visits=1)), rng, 1) is None
  assert arm(_tree(), rng, 1) is None


def test_the_teacher_goes_on_from_what_was_reached(tokenizer):
  record = trees.of_answers(
      TASK, PROBLEM, ['9-3=6\n6+4=10', '9+4=13\n13+3=16'], [False] * 2, **ABOUT)
  arm, rng = _arm('relabelled'), np.random.default_rng(0)
  given = collections.Counter()
  for _ in range(200):
    attempts = arm(record, rng, 1)
    if attempts is None:  # 13 and 3 do not make 24
      given[None] += 1
      continue
    ((_, answer),) = attempts
    assert TASK.verify(PROBLEM, answer.text).is_correct
    tokens, weights = examples_lib.tokenize(
        attempts[0], STYLE, 'procedure_cloning', tokenizer)
    whole = 'S' + answer.text.replace('\n', ',') + '<eos>'
    trained = tokenizer.decode(tokens[weights == 1], show_control=True)
    assert trained == (whole[len('S9-3=6,'):] if answer.num_given else whole)
    assert not answer.num_given or answer.text.startswith('9-3=6\n')
    given[answer.num_given] += 1
  assert set(given) == {None, 0, 1}
  assert all(abs(n - 200 / 3) < 5 * np.sqrt(200 * 2 / 9)
             for n in given.values())


def test_a_task_without_what_is_left_has_no_such_arm():
  with pytest.raises(config_lib.ConfigError, match='rest'):
    arms.make('relabelled', tasks.make('maze'))


@pytest.mark.parametrize('kept, wanted', [
    ('first_text', '4,9,3>24:9+4=13,3;+16-10*39x9-3=6,4;*24!S9-3=6,6*4=24'),
    ('shortest_text', '4,9,3>24:9-3=6,4;*24!S9-3=6,6*4=24')])
def test_the_search_of_one_right_text_is_kept(tokenizer, kept, wanted):
  texts = [
      'S9-3=6,6*4=24',  # right, but no search
      '9-3=6,4;+10x9-4=5,3;*15!S9-4=5,5*3=15',  # wrong
      '9+4=13,3;+16-10*39x9-3=6,4;*24!S9-3=6,6*4=24',
      '9-3=6,4;*24!S9-3=6,6*4=24',
      '9-3=6,4;*25!S9-3=6,6*4=24']  # a fault in the search
  rows = [
      dict(attempt=i, is_correct='=24' in text, num_tokens=len(text),
           details=dict(tokens=[*tokenizer.encode(text), tokenizer.eos_id]))
      for i, text in enumerate(texts)]
  context = types.SimpleNamespace(task=TASK)
  settings = types.SimpleNamespace(kept=kept)
  policy = types.SimpleNamespace(style=STYLE, tokenizer=tokenizer)
  found = search_stage.kept_text(
      context, settings, policy, PROBLEM, rows, ABOUT)
  assert traces.render(traces.linearize(found), style=STYLE) == wanted
  assert found.nodes[0].state == '4,9,3'
  none = search_stage.kept_text(
      context, settings, policy, PROBLEM, rows[:2], ABOUT)
  assert not none.solution and len(none.nodes) == 1
