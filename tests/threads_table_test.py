# SPDX-License-Identifier: Apache-2.0
"""What threads begin with and return, against the teacher's own texts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.tokenizers import sentencepiece
from meta_cot import decode
from meta_cot import traces
from meta_cot.rollouts import player
from meta_cot.rollouts import threads
from meta_cot.tasks import countdown
from meta_cot.traces import format as format_lib
from meta_cot.traces import threads as traces_threads
from meta_cot.traces.arithmetic import teacher

STYLE, WINDOW = 'compact_threads', 192
TOKENIZER = sentencepiece.train(['+-*/=,;:>x!S@&'], 128, 60)
RULES = threads.Rules(
    num_joins=4, num_threads=4, window=WINDOW, thread_window=64,
    sampling=decode.Sampling(0.0), stop_ids=TOKENIZER.eos_ids, **{
        f'{name}_id': player.token_of(TOKENIZER, mark)
        for name, mark in format_lib.STYLES[STYLE].MARKS.items()})
_spawn, _join, _deal = (
    jax.jit(f) for f in (
        functools.partial(threads.spawn, RULES),
        functools.partial(threads.join, RULES), threads.deal))


def _tokens(events):
  """What is written behind the question, with its end."""
  text = traces.render(events, STYLE)
  question = traces.prompt(events, STYLE)
  return [*TOKENIZER.encode(text[len(question):]), TOKENIZER.eos_id]


def _written(table, row, tokens):
  """The table with the whole text of a row, which has ended."""
  row_C = np.array(table.tokens[row])
  row_C[:len(tokens)] = tokens
  return table.replace(
      tokens=table.tokens.at[row].set(row_C),
      lengths=table.lengths.at[row].set(len(tokens)),
      status=table.status.at[row].set(threads.DONE))


def _begun(table, row):
  assert table.status[row] == threads.READY
  return table.tokens[row, :int(table.starts[row])].tolist()


def _slots(row):
  return jnp.array([row, 0]), jnp.array([True, False])


@pytest.mark.parametrize('question', ['20,1,9>28', '7,7,12>13', '5,11,8>59'])
def test_what_is_joined_is_what_the_teacher_writes(question):
  numbers, target = question.split('>')
  record = teacher.Teacher(60).search(countdown.make_problem(
      [*map(int, numbers.split(','))], int(target)), 'threads_4', 0)
  parent = _tokens(traces_threads.parent(record))
  children = [
      _tokens(traces_threads.child(record, i))
      for i in range(traces_threads.num_children(record))]
  table, row, done = threads.empty(RULES, RULES.num_rows), 0, 0
  asked = [i + 1 for i, t in enumerate(parent) if t == RULES.spawn_id]
  for end in asked:
    table = _spawn(_written(table, row, parent[:end]), *_slots(row))
    some = children[done:done + RULES.num_threads]
    for c, child in enumerate(some, start=1):
      begun = _begun(table, row + c)
      assert begun == child[:len(begun)]
      assert TOKENIZER.decode(begun).endswith(';')
      assert not threads.is_parent(RULES, row + c)
    assert (table.status == threads.READY).sum() == len(some)
    for c, child in enumerate(some, start=1):
      table = _written(table, row + c, child)
      table = _join(table, *_slots(row + c))  # goes on behind the last alone
      assert table.status[row + RULES.num_threads + 1] == (
          threads.READY if c == len(some) else threads.NONE)
    done, row = done + len(some), row + RULES.num_threads + 1
    begun = _begun(table, row)
    assert begun == parent[:len(begun)] and len(begun) > end
  assert done == len(children)
  table = _written(table, row, parent)
  told = threads.read(
      RULES, *map(np.asarray, (table.tokens, table.starts, table.lengths)))
  assert told.is_finished and told.parent == parent[:-1]
  assert told.threads == [child[:-1] for child in children]
  assert told.num_joins == len(asked)
  assert told.longest == max(map(len, (parent, *children)))


def test_sequential_tokens_are_those_of_the_longest_threads():
  rows = RULES.num_rows
  starts, lengths = np.zeros((2, rows), np.int32)
  lengths[[0, 1, 2, 5, 6, 10]] = 10, 12, 9, 25, 20, 31
  starts[[1, 2, 5, 6, 10]] = 4, 4, 15, 5, 30
  tokens = np.full((rows, WINDOW), RULES.nothing_id, np.int32)
  told = threads.read(RULES, tokens, starts, lengths)
  assert told.num_tokens == 10 + 8 + 5 + 10 + 15 + 1
  assert told.num_sequential == 10 + 8 + 10 + 15 + 1
  assert (told.longest, told.num_joins, len(told.threads)) == (31, 2, 3)
  assert not told.is_finished
  tokens[10, 30] = TOKENIZER.eos_id
  assert threads.read(RULES, tokens, starts, lengths).is_finished


@pytest.mark.parametrize('text, line', [
    ('&9-1=8,20;+28!S9-1=8,20+8=28', '!9-1=8,20+8=28;'),
    ('&9-1=8,20;+30x', 'x'), ('&9-1=8,20;S', '!;'),
    ('&9-1=8,20;S1+1=2S9-1=8', '!9-1=8;')])
def test_lines_of_threads(text, line):
  table = _spawn(_written(
      threads.empty(RULES, RULES.num_rows), 0,
      TOKENIZER.encode('9-1=8,20;&')), *_slots(0))
  for end, wanted in (([TOKENIZER.eos_id], line), ([], 'x')):  # unfinished: no
    joined = _join(
        _written(table, 1, [*TOKENIZER.encode(text), *end]), *_slots(1))
    assert TOKENIZER.decode(_begun(joined, 5)) == '9-1=8,20;&' + wanted


def test_more_messages_than_threads_and_none():
  ask = lambda text: _spawn(_written(
      threads.empty(RULES, RULES.num_rows), 0, TOKENIZER.encode(text)),
                            *_slots(0))
  table = ask('1+1=2,9;' * 6 + '9-1=8&')
  assert (table.status == threads.READY).sum() == RULES.num_threads
  for row in range(1, 5):
    assert TOKENIZER.decode(_begun(table, row)) == '&1+1=2,9;'
  alone = ask('9-1=8&')
  assert TOKENIZER.decode(_begun(alone, 5)) == '9-1=8&'
  assert (alone.status == threads.READY).sum() == 1
  long = ask('+' * 100 + ';&')  # the window of a thread has 64
  assert TOKENIZER.decode(_begun(long, 1)) == '&' + '+' * 62


@pytest.mark.parametrize('size, goes_on', [
    (WINDOW - 2, True), (WINDOW - 1, False)])
def test_a_full_window_does_not_go_on(size, goes_on):
  table = _spawn(_written(
      threads.empty(RULES, RULES.num_rows), 0,
      TOKENIZER.encode('+' * (size - 2) + ';&')), *_slots(0))
  joined = _join(_written(table, 1, [
      *_begun(table, 1), TOKENIZER.eos_id]), *_slots(1))
  assert (joined.status[5] == threads.READY) == goes_on


def test_rows_are_dealt_in_order_to_slots_that_are_free():
  table = threads.empty(RULES, 3 * RULES.num_rows)
  table, rows = _deal(table, jnp.full(4, 3 * RULES.num_rows))
  size = RULES.num_rows
  assert rows.tolist() == [0, size, 2 * size, 3 * size]
  table = table.replace(status=table.status.at[size].set(
      threads.DONE).at[1].set(threads.READY))
  table, rows = _deal(table, rows)
  assert rows.tolist() == [0, 1, 2 * size, 3 * size]
  assert (table.status == threads.RUNNING).sum() == 3
