# SPDX-License-Identifier: Apache-2.0
"""Arms and tokenize: the text of a record, and which of it is trained."""

import dataclasses

import numpy as np
import pytest

from data_pipelines import arms
from data_pipelines import pipelines
from data_pipelines import tokenizer as tokenizer_lib
from meta_cot.tasks import countdown_problems
from meta_cot.tasks import countdown_search
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib

PROBLEMS = countdown_problems.CountdownConfig(
    num_numbers=3, min_number=1, max_number=12, min_target=10, max_target=40,
    max_value=60, enumerate_all=True, num_train=0, num_heldout=50,
    heldout_target_fraction=0.1, heldout_numbers_fraction=0.1)


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizer_lib.Tokenizer(tokenizer_lib.train(
      ['+-*/=,;:>x!S@'], tokenizer_lib.TokenizerConfig(128, 60, None)))


@pytest.fixture(scope='module')
def sos_records():
  problems = countdown_problems.problems(PROBLEMS, 0)['train'][:12]
  strategies = [
      s for s, _ in countdown_search.STREAM_OF_SEARCH.values()]
  return [
      countdown_search.search(p, s, i)
      for i, (p, s) in enumerate(zip(problems, strategies))]


def test_tokens_and_weights_of_one_trace(tokenizer):
  events = format_lib.parse(
      '4,9,3>24:9-3=6,4;+10-2*24!S9-3=6,6*4=24', 'compact')
  tokens, weights = pipelines.tokenize(
      events, 'compact', 'procedure_cloning', tokenizer)
  assert (tokens.dtype, weights.dtype) == (np.int32, np.float32)
  assert tokens[-1] == tokenizer.eos_id
  assert tokenizer.decode(tokens) == format_lib.render(events, 'compact')
  prompt = tokenizer.encode('4,9,3>24:')
  assert tokens[:len(prompt)].tolist() == prompt
  np.testing.assert_array_equal(
      weights, [0] * len(prompt) + [1] * (len(tokens) - len(prompt)))


@pytest.mark.parametrize('objective, trained', [
    ('procedure_cloning', '9-3=6,4;+10-2*24!S9-3=6,6*4=24<eos>'),
    ('meta_cot', '9-3=6,4;+10-2*24!')])
def test_objectives_choose_the_trained_text(tokenizer, objective, trained):
  text = '4,9,3>24:9-3=6,4;+10-2*24!S9-3=6,6*4=24'
  tokens, weights = pipelines.tokenize(
      format_lib.parse(text, 'compact'), 'compact', objective, tokenizer)
  shown = tokenizer.decode(tokens[weights == 1], show_control=True)
  assert shown == trained


def test_solution_path_leaves_out_the_failed_branch(tokenizer):
  text = ('20,1,9>28:9+1=10,20;+30-10/2x20+1=21,9;+30-12x9-1=8,20;+28!'
          'S9-1=8,20+8=28')
  tokens, weights = pipelines.tokenize(
      format_lib.parse(text, 'compact'), 'compact', 'solution_path', tokenizer)
  shown = tokenizer.decode(tokens[weights == 1], show_control=True)
  assert '20+1=21' not in shown
  assert shown.endswith('9-1=8,20;+28!S9-1=8,20+8=28<eos>')


@pytest.mark.parametrize(
    'objective', ['procedure_cloning', 'meta_cot', 'solution_path'])
def test_stream_of_search_trains_whole_lines(sos_records, objective):
  texts = [
      format_lib.render(events_lib.linearize(r), 'stream_of_search')
      for r in sos_records]
  tokenizer = tokenizer_lib.Tokenizer(tokenizer_lib.train(
      texts, tokenizer_lib.TokenizerConfig(700, None, None)))
  for record, text in zip(sos_records, texts):
    events = events_lib.linearize(record)
    tokens, weights = pipelines.tokenize(
        events, 'stream_of_search', objective, tokenizer)
    assert tokenizer.decode(tokens) == text
    # Training and inference split the prompt into the same tokens.
    prompt = tokenizer.encode(
        format_lib.prompt(record.problem, 'stream_of_search'))
    assert tokens[:len(prompt)].tolist() == prompt
    assert not weights[:len(prompt)].any()
    lines = text.splitlines(keepends=True)
    trained = tokenizer.decode(tokens[weights == 1])
    assert all(
        line in lines for line in trained.splitlines(keepends=True))
    assert bool(weights[-1]) == (objective != 'meta_cot' or not record.solution)


def test_arms(sos_records):
  rng = np.random.default_rng(0)
  record = next(r for r in sos_records if r.is_solved)
  full = arms.ARMS['traces'](record, rng)
  assert full == events_lib.linearize(record)
  assert arms.ARMS['solution_only'](record, rng) == (
      full[0], full[-1])
  orders = set()
  for _ in range(50):
    start, answer = arms.ARMS['solution_only_permuted'](record, rng)
    assert answer == full[-1]
    numbers, target = start.question.split('>')
    assert target == record.problem.question.split('>')[1]
    assert sorted(numbers.split(',')) == sorted(
        map(str, record.problem.data['numbers']))
    orders.add(numbers)
  assert len(orders) > 2
  failed = dataclasses.replace(record, solution=())
  for name in ('solution_only', 'solution_only_permuted'):
    assert arms.ARMS[name](failed, rng) is None
