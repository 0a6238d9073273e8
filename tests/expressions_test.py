# SPDX-License-Identifier: Apache-2.0
"""Task `expressions`: what is read, said, hidden and dealt to splits."""

import random

import hypothesis
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tasks as task_config
from data_pipelines import arms
from data_pipelines.tokenizers import sentencepiece
from meta_cot import tasks
from meta_cot.rollouts import feedback as feedback_lib
from meta_cot.settings import config as config_lib
from meta_cot.tasks.worlds import expressions

SETTINGS = expressions.Settings(3, 400, 60, 5, 5, 3)
TASK = tasks.make('expressions', SETTINGS, 1)


def _text(depth):
  leaf = st.one_of(st.just('x'), st.integers(0, 99).map(str))
  if not depth:
    return leaf
  inner = _text(depth - 1)
  return st.one_of(leaf, st.tuples(inner, st.sampled_from('+-*'), inner).map(
      ''.join), inner.map('({})'.format))


@hypothesis.given(_text(3), st.integers(0, 9))
def test_expressions_have_the_value_that_python_gives_them(text, x):
  found = expressions.value(text, x)
  # The text is digits, x, +, -, *, and parentheses, made above.
  want = _by_hand(text.replace('x', f'({x})'))
  if found is None:
    assert len(text) > 40 or abs(want) > 10**6 or text.count('(') > 6 or (
        '*' in text)  # some product on the way is too large
  else:
    assert found == want


def _by_hand(text):
  """Sums of products by splitting at signs outside parentheses."""
  for signs in ('+-', '*'):
    depth = 0
    for i in range(len(text) - 1, 0, -1):
      depth += (text[i] == ')') - (text[i] == '(')
      if not depth and text[i] in signs:
        left, right = _by_hand(text[:i]), _by_hand(text[i + 1:])
        return dict(zip('+-*', (left + right, left - right, left * right)))[
            text[i]]
  return _by_hand(text[1:-1]) if text[0] == '(' else int(text)


@pytest.mark.parametrize('text', [
    '', 'x+', '+x', 'x x', 'y', '2x', 'x**9', '(' * 30 + 'x' + ')' * 30, '(x',
    'x)', '9' * 9, '999*999*999', 'x' * 41, '\0', 'x\n', '__import__', '１'])
def test_what_is_no_expression_is_said(text):
  assert expressions.value(text, 3) is None
  problem = next(TASK.problems('test', 0, 1))
  assert TASK.say(problem.question, problem.answer, text) == ('?', False)
  assert not TASK.verify(problem, text).is_correct


def test_functions_are_in_one_split_each():
  seen = {}
  for split in TASK.splits:
    for problem in TASK.problems(split, 0, 400):
      values = tuple(
          expressions.value(problem.answer, x) for x in range(30))
      assert seen.setdefault(values, split) == split
      for pair in problem.question.split(','):
        x, y = map(int, pair.split('>'))
        assert expressions.value(problem.answer, x) == y
      assert TASK.verify(problem, problem.answer).is_correct
  assert set(seen.values()) == set(TASK.splits)


def test_another_form_of_the_same_function_is_right():
  verdict = lambda text: TASK.say('1>6,2>8', '2*x+4', text)
  assert verdict('2*(x+2)') == ('0,0', True)
  assert verdict('x+x+4') == ('0,0', True)
  assert verdict('2*x*x+4') == ('0,-4', False)
  assert verdict('x') == ('5,6', False)
  # It fits what is shown, and not what decides.
  assert verdict('2*x+4+(x-1)*(x-2)') == ('0,0', False)


def test_what_is_said_depends_on_the_question():
  """Else the answer to another question would be no control."""
  problems = list(TASK.problems('test', 0, 50))
  said = [TASK.say(p.question, p.answer, '2*x+4')[0] for p in problems]
  assert len(set(said)) > 25


def test_demonstrations_end_with_what_fits_all_that_is_shown():
  arm, right = arms.make('episodes', TASK, 'free_text'), 0
  for problem in TASK.problems('train', 0, 60):
    record = TASK.teacher.search(problem, 'reader', 0)
    attempts = arm(record, np.random.default_rng(0), 3)
    assert len(attempts) == 3
    *_, (start, answer, _) = attempts
    assert start.question == problem.question
    for pair in problem.question.split(','):
      x, y = map(int, pair.split('>'))
      assert expressions.value(answer.text, x) == y
    right += TASK.verify(problem, answer.text).is_correct
  assert right > 30


def test_it_is_answered_on_the_host():
  tokenizer = sentencepiece.train(
      ['0123456789x>*()+-,?'], 64, 9, tuple('x>*()+-,?'))
  said = feedback_lib.make('task', 8, TASK, tokenizer, 'free_text')
  assert isinstance(said, feedback_lib.OnHost)
  problems = list(TASK.problems('test', 0, 8))
  rng, rows = random.Random(0), []
  for problem in problems:
    text = rng.choice((problem.answer, 'x+1', '(x'))
    rows.append((problem, text, [
        *tokenizer.encode(text), tokenizer.eos_id]))
  width = max(len(ids) for *_, ids in rows)
  tokens, lengths, rewards = said(
      jnp.stack([said.hidden(problem) for problem, *_ in rows]),
      jnp.array([ids + [0] * (width - len(ids)) for *_, ids in rows]),
      jnp.array([len(ids) for *_, ids in rows]))
  for s, (problem, text, _) in enumerate(rows):
    want, is_right = TASK.say(problem.question, problem.answer, text)
    assert tokenizer.decode(np.asarray(tokens)[s, :lengths[s]]) == want
    assert rewards[s] == is_right


def test_settings_are_checked():
  group = task_config.expressions()
  group.largest = 1
  with pytest.raises(config_lib.ConfigError, match='largest: got 1'):
    config_lib.parse(expressions.Settings, {
        k: v for k, v in group.items() if k != 'kind'})
