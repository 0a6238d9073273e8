# SPDX-License-Identifier: Apache-2.0
"""Arms and tokenize: the text of a record, and which of it is trained."""

import collections
import dataclasses

import numpy as np
import pytest

from data_pipelines import examples as examples_lib
from data_pipelines.tokenizers import sentencepiece
from meta_cot import traces
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces.arithmetic import teacher
from tests import small_arms

TASK = small_arms.TASK
ARMS = small_arms.ARMS
CONFIG = small_arms.CONFIG
REVISIONS = ARMS['revisions']


@pytest.fixture(scope='module')
def tokenizer():
  return sentencepiece.train(['+-*/=,;:>x!S@'], 128, 60)


@pytest.fixture(scope='module')
def sos_records():
  problems = TASK.problems('train', 0, 12)
  strategies = [
      s for s, _ in teacher.STREAM_OF_SEARCH.values()]
  return [
      teacher.search(p, s, i)
      for i, (p, s) in enumerate(zip(problems, strategies))]


@pytest.fixture(scope='module')
def records():
  strategy = dataclasses.replace(teacher.COMPACT, max_value=60)
  problems = TASK.problems('train', 0, 60)
  return [teacher.search(p, strategy, 0) for p in problems]


def test_tokens_and_weights_of_one_trace(tokenizer):
  events = format_lib.parse(
      '4,9,3>24:9-3=6,4;+10-2*24!S9-3=6,6*4=24', 'compact')
  tokens, weights = examples_lib.tokenize(
      events, 'compact', 'procedure_cloning', tokenizer)
  assert (tokens.dtype, weights.dtype) == (np.int32, np.float32)
  assert tokens[-1] == tokenizer.eos_id
  assert tokenizer.decode(tokens) == format_lib.render(events, 'compact')
  prompt = tokenizer.encode('4,9,3>24:')
  assert tokens[:len(prompt)].tolist() == prompt
  np.testing.assert_array_equal(
      weights, [0] * len(prompt) + [1] * (len(tokens) - len(prompt)))


@pytest.mark.parametrize('mask, trained', [
    ('procedure_cloning', '9-3=6,4;+10-2*24!S9-3=6,6*4=24<eos>'),
    ('meta_cot', '9-3=6,4;+10-2*24!')])
def test_masks_choose_the_trained_text(tokenizer, mask, trained):
  text = '4,9,3>24:9-3=6,4;+10-2*24!S9-3=6,6*4=24'
  tokens, weights = examples_lib.tokenize(
      format_lib.parse(text, 'compact'), 'compact', mask, tokenizer)
  shown = tokenizer.decode(tokens[weights == 1], show_control=True)
  assert shown == trained


def test_solution_path_leaves_out_the_failed_branch(tokenizer):
  text = ('20,1,9>28:9+1=10,20;+30-10/2x20+1=21,9;+30-12x9-1=8,20;+28!'
          'S9-1=8,20+8=28')
  tokens, weights = examples_lib.tokenize(
      format_lib.parse(text, 'compact'), 'compact', 'solution_path', tokenizer)
  shown = tokenizer.decode(tokens[weights == 1], show_control=True)
  assert '20+1=21' not in shown
  assert shown.endswith('9-1=8,20;+28!S9-1=8,20+8=28<eos>')


@pytest.mark.parametrize(
    'mask', ['procedure_cloning', 'meta_cot', 'solution_path'])
def test_stream_of_search_trains_whole_lines(sos_records, mask):
  texts = [
      format_lib.render(events_lib.linearize(r), 'stream_of_search')
      for r in sos_records]
  tokenizer = sentencepiece.train(texts, 700)
  for record, text in zip(sos_records, texts):
    events = events_lib.linearize(record)
    tokens, weights = examples_lib.tokenize(
        events, 'stream_of_search', mask, tokenizer)
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
    assert bool(weights[-1]) == (mask != 'meta_cot' or not record.solution)


def test_arms(sos_records):
  rng = np.random.default_rng(0)
  record = next(r for r in sos_records if r.is_solved)
  (full,) = ARMS['traces'](record, rng, 4)
  assert full == events_lib.linearize(record)
  assert ARMS['solution_only'](record, rng, 4) == ((full[0], full[-1]),)
  orders = set()
  for _ in range(50):
    ((start, answer),) = ARMS['solution_only_permuted'](record, rng, 4)
    assert answer == full[-1]
    numbers, target = start.question.split('>')
    assert target == record.problem.question.split('>')[1]
    assert sorted(numbers.split(',')) == sorted(
        map(str, record.problem.data['numbers']))
    orders.add(numbers)
  assert len(orders) > 2
  failed = dataclasses.replace(record, solution=())
  for name in ('solution_only', 'solution_only_permuted', 'revisions'):
    assert ARMS[name](failed, rng, 4) is None


def _num_failures(record):
  return sum(n.is_terminal and not n.is_correct for n in record.nodes)


def test_revisions_are_wrong_until_the_right_one(records):
  lengths = set()
  for seed, record in enumerate(records):
    attempts = REVISIONS(record, np.random.default_rng(seed), 4)
    assert attempts[-1:] == ARMS['solution_only'](
        record, np.random.default_rng(0), 4)
    assert {start.question for start, _ in attempts} == {
        record.problem.question}
    answers = [answer.text for _, answer in attempts]
    assert len(set(answers)) == len(answers)
    verdicts = [TASK.verify(record.problem, answer) for answer in answers]
    assert [v.is_correct for v in verdicts] == [
        False] * (len(answers) - 1) + [True]
    # All numbers used once, all arithmetic true: only the value is wrong.
    assert all(v.reason.startswith('the value is') for v in verdicts)
    lengths.add(len(answers))
  assert lengths == {1, 2, 3, 4}


def test_the_number_of_revisions_is_uniform_within_the_failures(records):
  by_failures = {_num_failures(r): r for r in records}
  rng = np.random.default_rng(0)
  for num_failures, shares in (
      (0, (1, 0, 0, 0)), (1, (1/4, 3/4, 0, 0)), (max(by_failures), (1/4,) * 4)):
    record = by_failures[num_failures]
    draws = [REVISIONS(record, rng, 4) for _ in range(2000)]
    counts = collections.Counter(map(len, draws))
    for length, share in enumerate(shares, start=1):
      # Five standard deviations; 0 where there is no choice.
      assert abs(counts[length] - 2000 * share) <= 5 * np.sqrt(
          2000 * share * (1 - share))
  # Every failure of the longest search is drawn, and equally often first.
  first = collections.Counter(d[0][1].text for d in draws if len(d) > 1)
  assert len(first) == num_failures
  expected = 1500 / num_failures
  assert all(
      abs(n - expected) < 5 * np.sqrt(expected) for n in first.values())
  one = [REVISIONS(record, rng, 1) for _ in range(20)]
  assert set(map(len, one)) == {1}


def test_a_right_attempt_is_kept(records):
  kept = ARMS['revisions_kept']
  for seed, record in enumerate(records):
    plain = REVISIONS(record, np.random.default_rng(seed), 4)
    assert kept(record, np.random.default_rng(seed), 4) == (
        *plain, *plain[-1:] * (4 - len(plain)))


def test_the_generator_alone_decides_the_revisions(records):
  draw = lambda seed: [
      REVISIONS(r, np.random.default_rng([seed, i]), 4)
      for i, r in enumerate(records)]
  assert draw(0) == draw(0) != draw(1)


def test_what_a_model_got_wrong_is_shown_with_its_false_steps(records):
  record = max(records, key=_num_failures)
  nodes = tuple(
      dataclasses.replace(n, step=n.step.partition('=')[0] + '=59')
      if n.is_terminal and not n.is_correct else n for n in record.nodes)
  false = dataclasses.replace(record, nodes=nodes)
  draw = lambda r: [REVISIONS(r, np.random.default_rng(i), 2)
                    for i in range(20)]
  assert set(map(len, draw(false))) == {1}
  of_model = draw(dataclasses.replace(false, model='sft/solution_only'))
  assert set(map(len, of_model)) == {1, 2}
  assert all(
      attempts[0][1].text.endswith('=59') for attempts in of_model
      if len(attempts) == 2)


def test_ends_that_are_no_solutions_are_not_shown(records):
  record = max(records, key=_num_failures)
  target = str(record.problem.data['target'])
  nodes, kept, changed = [], set(), 0
  for node in record.nodes:
    if node.is_terminal and not node.is_correct:
      if changed >= _num_failures(record) - 2:
        kept.add(node.step)
      elif changed % 3 == 0:  # unreadable
        node = dataclasses.replace(node, step='what now')
      elif changed % 3 == 1:  # unfinished
        node = dataclasses.replace(
            record.nodes[node.parent], is_terminal=True)
      else:  # false arithmetic
        left = node.step.partition('=')[0]
        node = dataclasses.replace(node, step=f'{left}={target}')
      changed += 1
    nodes.append(node)
  record = dataclasses.replace(record, nodes=tuple(nodes))
  draws = [REVISIONS(record, np.random.default_rng(i), 9) for i in range(60)]
  assert {len(d) for d in draws} == {1, 2, 3}
  shown = {answer.text.split('\n')[-1] for d in draws for _, answer in d[:-1]}
  assert shown <= kept


@pytest.mark.parametrize('trained, shown', [
    ('final', 'S9-3=6,6*4=24<eos>'),
    ('all', 'S9+3=12,12+4=16<eos>S9-4=5,5*3=15<eos>S9-3=6,6*4=24<eos>')])
def test_attempts_follow_one_another_and_each_ends(tokenizer, trained, shown):
  question = events_lib.Start('9,3,4>24')
  attempts = tuple(
      (question, events_lib.Answer(text))
      for text in ('9+3=12\n12+4=16', '9-4=5\n5*3=15', '9-3=6\n6*4=24'))
  tokens, weights = examples_lib.tokenize_attempts(
      attempts, dataclasses.replace(CONFIG, trained_attempts=trained),
      tokenizer, 'compact')
  assert (tokens.dtype, weights.dtype) == (np.int32, np.float32)
  assert tokenizer.decode(tokens, show_control=True) == (
      '9,3,4>24:S9+3=12,12+4=16<eos>S9-4=5,5*3=15<eos>S9-3=6,6*4=24<eos>')
  assert tokenizer.decode(tokens[weights == 1], show_control=True) == shown
  assert set(weights.tolist()) == {0.0, 1.0}


def test_every_attempt_reads_back_as_an_episode(records, tokenizer):
  for seed, record in enumerate(records):
    attempts = REVISIONS(record, np.random.default_rng(seed), 4)
    tokens, _ = examples_lib.tokenize_attempts(
        attempts, CONFIG, tokenizer, 'compact')
    prompt = format_lib.prompt(record.problem, 'compact')
    behind = tokens[len(tokenizer.encode(prompt)):]
    ends = np.flatnonzero(behind == tokenizer.eos_id)
    assert ends[-1] == len(behind) - 1
    episodes = np.split(behind, ends[:-1] + 1)
    assert [
        traces.extract_answer(prompt + tokenizer.decode(e), 'compact')
        for e in episodes] == [answer.text for _, answer in attempts]


@pytest.mark.parametrize('arm', ['traces', 'solution_only'])
def test_one_attempt_is_the_plain_sequence(records, tokenizer, arm):
  for record in records[:5]:
    attempts = ARMS[arm](record, np.random.default_rng(0), 4)
    plain = examples_lib.tokenize(
        attempts[0], 'compact', 'procedure_cloning', tokenizer)
    for found, wanted in zip(
        examples_lib.tokenize_attempts(
        attempts, CONFIG, tokenizer, 'compact'), plain,
        strict=True):
      np.testing.assert_array_equal(found, wanted)


def test_trained_attempts_say_how_much_is_trained(records, tokenizer):
  made = {
      trained: [
          examples_lib.Texts(
              REVISIONS, dataclasses.replace(CONFIG, trained_attempts=trained),
              tokenizer, 'compact')(record, np.random.default_rng(i))
          for i, record in enumerate(records)]
      for trained in ('final', 'all')}
  for i, (final, every) in enumerate(zip(*made.values(), strict=True)):
    np.testing.assert_array_equal(final['tokens'], every['tokens'])
    # S, 2 operations of 6 tokens but for the comma, and the end.
    assert final['weights'].sum() == 13
    attempts = REVISIONS(records[i], np.random.default_rng(i), 4)
    assert every['weights'].sum() == 13 * len(attempts)
