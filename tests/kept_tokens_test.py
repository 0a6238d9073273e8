# SPDX-License-Identifier: Apache-2.0
"""What a policy wrote is learned in the tokens in which it was written."""

import dataclasses

import numpy as np
import pytest

from configs import kinds
from data_pipelines import arms
from data_pipelines import examples
from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.solvers import states
from meta_cot.solvers import trees
from meta_cot.solvers import vocabulary
from tests import huggingface_tokenizer_test as tokenizer_test

LINES = ('There are 12 eggs.', 'She sells 7.', '#### 5')
PROBLEM = Problem('p', 'How many are left?', '5', {})


@dataclasses.dataclass(frozen=True)
class _States:
  """Those of a task in which all lines may follow all lines."""

  def first(self, problem):
    return 'begun'

  def after(self, problem, state, step):
    return f'{state} {step}'


@dataclasses.dataclass(frozen=True)
class _Task:
  states: _States = _States()


TOKENIZER = tokenizer_test._ours('byte_level')


def _apart(text: str) -> list[int]:
  """Tokens of a text that nobody would choose who encodes it."""
  return [i for char in text for i in TOKENIZER.encode(char)]


def _written(lines, is_finished=True) -> list[int]:
  return _apart('\n'.join(lines)) + [TOKENIZER.eos_id] * is_finished


def _record(written, lines=LINES):
  words = vocabulary.of(TOKENIZER, TOKENIZER.vocab_size, 'free_text')
  return trees.of_answers(
      _Task(), PROBLEM, ['\n'.join(lines)], [True], [words.cut(written)],
      strategy='samples', arguments={}, seed=0, model='m')


def _example(record):
  data = config_lib.parse(examples.DataConfig, kinds.train(
      arms=('solution_only',)).data)
  texts = examples.Texts(
      arms.ARMS['solution_only'], data, TOKENIZER, 'free_text')
  return texts(record, np.random.default_rng(0))


def test_a_solution_keeps_its_tokens():
  written = _written(LINES)
  assert written != [*TOKENIZER.encode('\n'.join(LINES)), TOKENIZER.eos_id]
  made = _example(_record(written))
  asked = TOKENIZER.encode_prompt(f'{PROBLEM.question}\n')
  assert made['tokens'].tolist() == [*asked, *written][:-1]
  assert made['targets'].tolist() == [*asked, *written][1:]
  assert made['weights'].tolist() == (
      [0] * (len(asked) - 1) + [1] * len(written))


@pytest.mark.parametrize('other', [
    ('There are 12 eggs.', 'She sells 7.'),  # of another number of steps
    ('There are 12 eggs.', 'She sells 8.', '#### 5')])  # of another text
def test_tokens_of_another_text_are_not_taken(other):
  made = _example(_record(_written(other)))
  plain = _example(trees.of_answers(
      _Task(), PROBLEM, ['\n'.join(LINES)], [True], strategy='samples',
      arguments={}, seed=0, model='m'))
  np.testing.assert_array_equal(made, plain)
  assert TOKENIZER.decode(plain['tokens']).endswith('\n'.join(LINES))


def test_states_of_samples_have_their_tokens():
  words = vocabulary.of(TOKENIZER, TOKENIZER.vocab_size, 'free_text')
  reader = states.Reader(TOKENIZER, 'free_text', words)
  written = _written(LINES)
  found = states.written(reader.merged(_record(written)))
  assert [*map(len, found)] == [0, *np.cumsum([*map(len, words.cut(written))])]
  assert list(found[-1]) == written
  encoded = states.written(reader.merged(dataclasses.replace(
      _record(written), nodes=tuple(
          dataclasses.replace(n, tokens=()) for n in _record(written).nodes))))
  assert TOKENIZER.decode(encoded[-1]) == TOKENIZER.decode(written)
  assert len(encoded[-1]) < len(written)


def test_a_solution_that_ends_with_a_line_feed_keeps_it():
  written = _written((*LINES, ''))
  made = _example(_record(written, (*LINES, '')))
  assert made['targets'].tolist()[-len(written):] == written


def test_the_tree_of_a_search_has_an_answer_in_tokens():
  record = _record(_written(LINES))
  *_, answer = traces.linearize(record)
  assert answer.text == '\n'.join(LINES)
  assert list(answer.tokens) == _written(LINES)
