# SPDX-License-Identifier: Apache-2.0
"""Style `free_text`: what pretrained models write behind a question."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from data_pipelines import arms
from meta_cot import traces
from meta_cot.problem import Problem, Verdict
from meta_cot.rollouts import judge
from meta_cot.solvers import trees
from meta_cot.tasks import word_problems
from meta_cot.traces import format as format_lib

STYLE = 'free_text'
_TASK = word_problems.make(None, 0)
_PROBLEM = Problem(
    'p', 'Ann has 3 pens and buys 4. How many has she?', '7',
    dict(facts=[[3, '+', 4]], things='pens', names=['Ann', 'Bob']))


@hypothesis.given(st.text(max_size=30), st.text(max_size=60))
def test_any_text_is_read_and_written_again(question, answer):
  question = question.replace('\n', ' ')
  text = f'{question}\n{answer}'
  reading = format_lib.read(text, STYLE)
  assert not any(fault.is_grammar for fault in reading.faults)
  assert reading.answer == (answer if answer.strip() else None)
  if answer.strip():
    assert traces.parse(text, STYLE) == reading.events
    assert traces.render(reading.events, STYLE) == text


def test_what_it_cannot_write_is_named():
  start = traces.Start('q')
  with pytest.raises(ValueError, match='writes no searches'):
    traces.render((start, traces.Step(1, 0, 'a', 'b', '')), STYLE)
  with pytest.raises(ValueError, match='must be one line'):
    traces.prompt((traces.Start('q\nr'),), STYLE)
  assert traces.extract_answer('no line feed', STYLE) is None


def test_arms_that_write_searches_or_marks_are_refused():
  able = {name for name, arm in arms.ARMS.items() if STYLE in arm.styles}
  assert arms.ARMS.keys() - able == {
      'traces', 'verified_traces', 'backtracks', 'resets', 'attempts',
      'attempts_kept', 'checked', 'threads'}


def test_wrong_attempts_are_what_the_verifier_finds_wrong():
  said = ('3 + 4 = 8.', 'Well.\nSo it is 12.', '3 + 4 = 7.', '3 + 4 = 8.')
  record = trees.of_answers(
      _TASK, _PROBLEM, said, [text == said[2] for text in said],
      strategy='samples', arguments={}, seed=0, model='m')
  draw = lambda name, style, seed: [
      answer.text for _, answer in arms.make(name, _TASK, style)(
          record, np.random.default_rng(seed), 3)]
  for style in (STYLE, 'prose'):
    seen = {tuple(draw('revisions', style, seed)) for seed in range(60)}
    assert seen == {
        said[2:3], (said[0], said[2]), (said[1], said[2]),
        (said[0], said[1], said[2]), (said[1], said[0], said[2])}
  # A teacher's has legal steps, as many as a solution.
  record = dataclasses.replace(record, model='symbolic')
  assert all(
      draw('revisions', 'prose', seed) == [said[2]] for seed in range(9))


def test_what_cannot_be_judged_is_no_wrong_attempt(monkeypatch):
  record = trees.of_answers(
      _TASK, _PROBLEM, ['3 + 4 = 8.', '3 + 4 = 7.'], [False, True],
      strategy='samples', arguments={}, seed=0, model='m')
  arm = arms.make('revisions', _TASK, STYLE)
  draws = lambda: {
      len(arm(record, np.random.default_rng(seed), 2)) for seed in range(20)}
  assert draws() == {1, 2}
  monkeypatch.setattr(
      word_problems.WordProblems, 'verify',
      lambda *_: Verdict(False, 'out of time', is_decided=False))
  assert draws() == {1}


@pytest.mark.parametrize('said, is_right', [
    ('She has 3 + 4 = 7 pens.\nThe answer is 7.', True),
    ('3 + 4 = 7', True),
    ('\n\nLet me see.\n\n3 + 4 = 8, so \\boxed{7}', True),
    ('The answer is 8.', False),
    (' \n', False)])
def test_the_final_answer_counts(said, is_right):
  text = traces.prompt(_PROBLEM, STYLE) + said
  claim = judge.of_text(_TASK, _PROBLEM, text, STYLE)
  assert claim.verdict.is_correct == is_right
