# SPDX-License-Identifier: Apache-2.0
"""Word problems: what is asked is what the facts say; splits share nothing."""

import itertools
import re
import string

import pytest

from configs import tasks as tasks_config
from meta_cot import tasks
from meta_cot.settings import config as config_lib
from meta_cot.tasks import stories
from meta_cot.tasks import word_problems

KINDS = dict(
    train=stories.TRAIN, validation=stories.VALIDATION, test=stories.TEST)


def _make(seed=3, **changes):
  values = {**tasks_config.word_problems(), **changes}
  values.pop('kind')
  return word_problems.make(word_problems.Settings(**values), seed)


@pytest.fixture(scope='module', name='problems')
def _problems():
  task = _make(num_train=3_000)
  return {split: [*task.problems(split, 0, task.size(split))]
          for split in task.splits}


def _compute(problem):
  """The answer by the signs, written anew."""
  value = problem.data['facts'][0][0]
  for a, sign, b in problem.data['facts']:
    assert a == value
    value = {'+': value + b, '-': value - b, '*': value * b,
             '/': value / b}[sign]
    assert value == int(value) > 0
  return value


def test_a_question_has_its_numbers_in_order(problems):
  for problem in itertools.chain(*problems.values()):
    facts = problem.data['facts']
    assert [*map(int, re.findall(r'\d+', problem.question))] == [
        facts[0][0], *(b for _, _, b in facts)]
    assert int(problem.answer) == _compute(problem) <= 500
    assert '{' not in problem.question and problem.question.endswith('?')


def test_the_numbers_of_steps_take_turns(problems):
  task = _make()
  for some in problems.values():
    assert [task.states.max_steps(p) for p in some[:6]] == [1, 2, 3] * 2
  only = _make(min_steps=2, max_steps=2)
  assert {len(p.data['facts']) for p in only.problems('train', 0, 50)} == {2}


def _facts(some):
  return {(sign, *(sorted((a, b)) if sign in '+*' else (a, b)))
          for p in some for a, sign, b in p.data['facts']}


def test_no_fact_is_in_two_splits(problems):
  facts = {split: _facts(some) for split, some in problems.items()}
  for one, other in itertools.combinations(facts.values(), 2):
    assert len(one) > 50 and not one & other


def test_no_sentence_is_in_two_splits():
  told = {
      split: {sentence for story in some for sentence in (
          *story.begins, *story.asks, *itertools.chain(*story.tells.values()))}
      for split, some in KINDS.items()}
  for one, other in itertools.combinations(told.values(), 2):
    assert not one & other
  for sentence in set().union(*told.values()):
    fields = {name for _, name, _, _ in string.Formatter().parse(sentence)}
    assert fields <= {'name', 'friend', 'a', 'b', None}
  for story in itertools.chain(*KINDS.values()):
    assert story.tells.keys() == {*'+-*/'}
    assert all('{b}' in x for told in story.tells.values() for x in told)


def test_questions_are_of_the_stories_of_their_split(problems):
  for split, some in problems.items():
    things = {story.things for story in KINDS[split]}
    assert {p.data['things'] for p in some} == things


@pytest.mark.parametrize('answer, is_correct', [
    ('14 + 7 = 21 apples.', True), ('21', True), ('so it is 21 apples', True),
    ('14 + 7 = 21.\nThe answer is 22.', False), ('The answer is 21.', True),
    (r'\boxed{21}', True), ('#### 21', True), ('#### 21.0', True),
    ('21\n22', False), ('22\n21', True), ('', False), ('none', False),
    (r'\boxed{}', False), ('9**9**9**9', False), ('1,021', False)])
def test_free_texts_are_judged_by_their_last_number(answer, is_correct):
  problem = tasks.Problem(
      'p', 'q', '21', dict(facts=[[14, '+', 7]], things='apples'))
  assert tasks.make('word_problems').verify(
      problem, answer).is_correct == is_correct


@pytest.mark.parametrize('step, after', [
    ('14 + 7 = 21 apples.', '14,7,21'), ('Let us see.', '14,7'),
    ('14+7=21 and 21 x 7 = 147', '14,7,21,147'), ('14 ÷ 7 = 2', '14,7,2'),
    ('14 + 7 = 22', None), ('15 + 7 = 22', None), ('7 / 14 = 0', None),
    ('14 - 7 = 7; 7 - 7 = 1', None)])
def test_equations_are_checked(step, after):
  states = word_problems.STATES
  problem = tasks.Problem('p', 'q', '21', dict(facts=[[14, '+', 7]]))
  assert states.after(problem, states.first(problem), step) == after


def test_more_problems_than_there_are_is_one_line():
  task = _make(max_number=9, max_steps=1, num_validation=100_000)
  with pytest.raises(config_lib.ConfigError, match=(
      'num_validation: got 100000; must be at most [0-9]+, all different')):
    task.problems('validation', 0, 1)
  with pytest.raises(config_lib.ConfigError, match='min_steps: got 3; must be'):
    _make(min_steps=3, max_steps=2)
