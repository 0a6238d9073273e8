# SPDX-License-Identifier: Apache-2.0
"""Trees of a language model read as records, judged and told."""

import functools
import types

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.tokenizers import sentencepiece
from meta_cot import tasks
from meta_cot import traces
from meta_cot.rollouts import judge as judge_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import host as host_lib
from meta_cot.solvers import trees
from meta_cot.solvers import vocabulary
from meta_cot.tasks import countdown
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib

PROBLEM = countdown.make_problem([5, 17, 1], 23)
TEXT = '5,17,1>23:5-1=4,17;+21@0;S5+1=6,17+6=23*/!x'
EOS = sentencepiece.EOS
STYLE = 'compact'


@functools.cache
def _tokenizer():
  return sentencepiece.train([TEXT], 128, 60)


def _tokens(text):
  """Token ids; a text that ends with EOS ends the sequence."""
  ids = _tokenizer().encode(text.removesuffix(EOS))
  return ids + [_tokenizer().eos_id] * text.endswith(EOS)


def _tree(nodes, order):
  """Arrays of (parent, text) per slot, None for a slot without a node."""
  tokens = [[] if n is None else _tokens(n[1]) for n in nodes]
  width = max(map(len, tokens))
  num = len(nodes)
  tree = types.SimpleNamespace(
      parents=np.array([-1 if n is None else n[0] for n in nodes]),
      is_valid=np.array([n is not None for n in nodes]),
      is_terminal=np.array([
          n is not None and n[1].endswith(EOS) for n in nodes]),
      expansion_order=np.array([order.get(i, -1) for i in range(num)]),
      visit_counts=np.arange(num), values=np.linspace(0, 1, num),
      log_probs=-np.arange(num, dtype=float))
  padded = np.array([t + [0] * (width - len(t)) for t in tokens])
  return tree, padded, np.array([len(t) for t in tokens])


def _judge():
  return judge_lib.Judge(tasks.make('countdown'), _tokenizer(), STYLE)


def _read(nodes, order, solution, kind='solution'):
  """The record of a search, and the text that is its answer."""
  return trees.read(
      _judge(), kind, PROBLEM, *_tree(nodes, order), solution,
      strategy='best_first', arguments={'branching': 2}, seed=3, model='tiny')


NODES = [
    (-1, ''), (0, 'S5+1=6,'), None, (0, 'S5-1=4,'),  # below the root
    (3, f'17+4=21{EOS}'), (3, '17-4=13,'),  # below S5-1=4
    (1, f'17+6=23{EOS}'), (1, f'17+5=22{EOS}')]
ORDER = {0: 0, 3: 1, 1: 2}


def test_a_record_leaves_out_slots_without_a_node():
  record, text = _read(NODES, ORDER, 6)
  assert [(n.parent, n.step, n.state) for n in record.nodes] == [
      (-1, '', '5,17,1'), (0, '5+1=6', '17,6'), (0, '5-1=4', '17,4'),
      (2, '17+4=21', '21'), (2, '17-4=13', '13'), (1, '17+6=23', '23'),
      (1, '17+5=22', '')]  # 5 is used up
  assert [n.order for n in record.nodes] == [0, 2, 1, -1, -1, -1, -1]
  assert [n.is_terminal for n in record.nodes] == [
      False, False, False, True, False, True, True]
  assert [n.is_correct for n in record.nodes].index(True) == 5
  assert record.solution == (0, 1, 5) and record.is_solved
  assert text == '5,17,1>23:S5+1=6,17+6=23'
  assert record.nodes[5].visits == 6 and record.nodes[5].log_prob == -6.0
  assert record.nodes[5].tokens == tuple(_tokens(f'17+6=23{EOS}'))
  assert record_lib.from_json(record_lib.to_json(record)) == record


def test_a_wrong_answer_is_no_solution():
  record, text = _read(NODES, ORDER, 4)
  assert record.solution == () and not record.is_solved
  assert text == '5,17,1>23:S5-1=4,17+4=21'
  assert any(n.is_correct for n in record.nodes)
  record, text = _read(NODES[:6], {0: 0, 3: 1}, -1)
  assert not any(n.is_correct for n in record.nodes) and text == ''


def test_the_text_of_a_search():
  text, left_out = trees.told(_read(NODES, ORDER, 6)[0], STYLE)
  # 17-4=13 does not end although one number is left; 17+5=22 is illegal.
  assert left_out == 2
  assert text == '5,17,1>23:5+1=6,17;5-1=4,17;+21x@1;+23!S5+1=6,17+6=23'


@pytest.mark.parametrize('step', [
    '5+1=6,', 'S', f'S5+1=6{EOS}', 'S5+1=,', 'S5+2=7,', 'S6+1=7,',
    f'S{EOS}', EOS, 'S5+1=6,17+6=23'])
def test_steps_without_words_are_left_out_with_what_is_below(step):
  nodes = [
      (-1, ''), (0, step), (0, 'S17-1=16,'), (1, f'17+6=23{EOS}'),
      (2, f'16+5=21{EOS}')]
  record, _ = _read(nodes, {0: 0, 2: 1, 1: 2}, 4)
  text, left_out = trees.told(record, STYLE)
  assert left_out == 2
  assert text == '5,17,1>23:17-1=16,5;+21x'


def test_a_parent_that_is_no_node_is_refused():
  nodes = [(-1, ''), None, (1, f'17+6=23{EOS}')]
  tree, _, _ = _tree(nodes, {0: 0})
  texts = {
      i: from_tree.NodeText('', '', False, ()) for i in range(len(nodes))}
  with pytest.raises(ValueError, match='slot 2 has parent 1'):
    from_tree.from_tree(
        PROBLEM, tree, texts, -1, strategy='beam', arguments={}, seed=0,
        model='')


def test_delimiters():
  ends = lambda *kind: [
      _tokenizer().decode([i])
      for i in vocabulary.of(_tokenizer(), 128, *kind).delimiter_ids]
  assert ends(STYLE, 'solution') == [',']
  assert set(ends(STYLE, 'event')) <= {';', 'x', '!'} and ';' in ends(
      STYLE, 'event')
  other = sentencepiece.train(['5+1=6'], 128, 60)
  with pytest.raises(ValueError, match="no token has ',' in it"):
    vocabulary.of(other, 128, STYLE, 'solution')
  with pytest.raises(ValueError, match="no token has ';' or 'x' or '!' in it"):
    vocabulary.of(other, 128, STYLE, 'event')


_pieces = st.lists(st.sampled_from(
    ['S', '5', '17', '1', '6', '23', '+', '-', '=', ',', '5+1=6', ',17+6=23',
     'S5+1=6', '@']), max_size=6)


@functools.cache
def _verdict():
  return jax.jit(tasks.make('countdown').in_graph.outcome(
      vocabulary.of(_tokenizer(), 200, STYLE).texts))


@hypothesis.settings(max_examples=400)
@hypothesis.given(_pieces)
@hypothesis.example(['S5+1=6', ',17+6=23'])
@hypothesis.example(['@', 'S', '5', '+', '1', '=', '6', ',17+6=23'])
def test_the_verdict_on_tokens_is_that_on_text(pieces):
  tokens = _tokens(''.join(pieces) + EOS)
  row = np.full(64, 199, np.int32)  # behind the length anything
  row[:len(tokens)] = tokens
  right = _verdict()(
      dict(numbers=jnp.array([5, 17, 1]), target=jnp.int32(23)), row,
      len(tokens))
  for claim in (
      _judge().claim(PROBLEM, tokens),
      judge_lib.of_text(
          tasks.make('countdown'), PROBLEM,
          traces.prompt(PROBLEM, style=STYLE) + _tokenizer().decode(tokens),
          STYLE)):
    assert float(right) == claim.verdict.is_correct


def test_an_event_of_a_trace_is_a_step_without_a_state():
  nodes = [(-1, ''), (0, '5-1=4,17;'), (1, '+21@0;'), (1, '5+1=6,17;'),
           (3, '+23!'), (4, f'S5+1=6,17+6=23{EOS}')]
  record, text = _read(nodes, {0: 0, 1: 1, 3: 2, 4: 3}, 5, 'event')
  assert [n.step for n in record.nodes] == [
      text.removesuffix(EOS) for _, text in nodes]
  assert not any(n.state for n in record.nodes)
  assert record.is_solved and record.solution == (0, 1, 3, 4, 5)
  assert text == '5,17,1>23:5-1=4,17;5+1=6,17;+23!S5+1=6,17+6=23'


def _host(judge):
  made = host_lib.Host(
      judge, vocabulary.of(judge.tokenizer, 200, judge.style))
  made.ask_about({7: PROBLEM})
  return made


def test_the_verdict_on_the_host_is_that_on_text():
  judge = _host(_judge()).verdict
  texts = [f'S5+1=6,17+6=23{EOS}', 'S5+1=6,17+6=23', f'S5+1=6{EOS}', EOS, '']
  rows = np.zeros((len(texts), 16), np.int32)
  lengths = [len(_tokens(text)) for text in texts]
  for row, text in zip(rows, texts):
    row[:len(_tokens(text))] = _tokens(text)
  found = jax.jit(jax.vmap(judge, (None, 0, 0)))(
      dict(index=jnp.int32(7)), rows, jnp.array(lengths))
  assert found.tolist() == [1, 0, 0, 0, 0]


def test_a_verifier_that_raises_is_told_behind_the_program():
  class Broken:
    def verify(self, problem, answer):
      raise config_lib.UserError(f'task broken: {answer!r}')

  host = _host(judge_lib.Judge(Broken(), _tokenizer(), STYLE))
  row = jnp.array(_tokens(f'S5+1=6,17+6=23{EOS}'))
  assert jax.jit(host.verdict)(dict(index=jnp.int32(7)), row, len(row)) == 0
  assert str(host.error) == "task broken: '5+1=6\\n17+6=23'"


@pytest.mark.parametrize('text, is_right', [
    (f'S5+1=6,17+6=23{EOS}', True),
    (f'S5+1=6,17+5=22{EOS}S5+1=6,17+6=23{EOS}', True),
    (f'S5+1=6,17+6=23{EOS}S5+1=6,17+5=22{EOS}', False),
    (f'S{EOS}S{EOS}S5+1=6,17+6=23{EOS}', True)])
def test_the_last_of_several_attempts_counts(text, is_right):
  tokens = [i for part in text.split(EOS)[:-1] for i in _tokens(part + EOS)]
  row = np.zeros(32, np.int32)
  row[:len(tokens)] = tokens
  outcome = vocabulary.of_last_text(
      tasks.make('countdown').in_graph.outcome(
          vocabulary.of(_tokenizer(), 128, STYLE).texts), _tokenizer().eos_ids)
  problem = dict(numbers=jnp.array([5, 17, 1]), target=jnp.int32(23))
  assert outcome(problem, jnp.array(row), len(tokens)) == is_right
  last = judge_lib.last_text(tokens, _tokenizer().eos_ids)
  assert last == _tokens(text.split(EOS)[-2] + EOS)
