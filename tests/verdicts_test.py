# SPDX-License-Identifier: Apache-2.0
"""Verdicts of states as sequences: what is asked, said and trained."""

import collections
import dataclasses

import numpy as np
import pytest

from data_pipelines import examples
from data_pipelines import verdicts
from meta_cot.settings import config as config_lib
from tests import small_arms
from tests import small_labels

_TARGETS = (0.25, 0.5, 1.0, 0.0, None, 0.0)
_PLAIN = examples.VerdictConfig(ask='@', right='!', wrong='x', chain=None)


def _record(targets=_TARGETS):
  reader = small_labels.reader()
  merged = reader.merged(small_labels.ANSWERED)
  return dataclasses.replace(
      merged, arguments=dict(
          base_rate=0.3, tokenizer=reader.tokenizer.fingerprint),
      nodes=tuple(
          dataclasses.replace(n, value=v)
          for n, v in zip(merged.nodes, targets, strict=True)))


def _texts(number, config=_PLAIN, arm='solution_only'):
  example = verdicts.Verdicts(
      small_arms.ARMS[arm], config, small_labels.reader().tokenizer,
      small_labels.STYLE)
  rng = np.random.default_rng(0)
  for x in (example(_record(), rng) for _ in range(number)):
    if x is not None:
      tokens = [*x['tokens'], x['targets'][-1]]
      np.testing.assert_array_equal(x['targets'], tokens[1:])
      text = example.tokenizer.decode(tokens, show_control=True)
      start = example.tokenizer.decode(
          tokens[:1 + int(np.argmax(x['weights']))], show_control=True)
      assert set(x['weights'][np.argmax(x['weights']):]) == {1.0}
      assert start.endswith('@')
      yield start[:-1], text[len(start):]


def test_verdicts_are_as_often_right_as_targets_say():
  said = collections.defaultdict(list)
  for asked, text in _texts(3_000):
    assert text in ('!<eos>', 'x<eos>')
    said[asked.removeprefix('4,9,3>24:')].append(text[0] == '!')
  # Ends of attempts 1, 2 and 3; of the third the first step has no target.
  assert said.keys() == {
      '', 'S9-3=6,', 'S9-3=6,4*6=24<eos>', 'S9-3=6,4+6=10<eos>',
      'S9-3=7,4*7=24<eos>'}
  for state, target in (('', 0.25), ('S9-3=6,', 0.5)):
    number = len(said[state])
    assert np.mean(said[state]) == pytest.approx(
        target, abs=5 * 0.5 / number**0.5)
  assert set(said['S9-3=6,4*6=24<eos>']) == {True}
  assert set(said['S9-3=6,4+6=10<eos>']) == {False}
  # Two attempts of four are the right one, and of each every state counts.
  assert len(said['S9-3=6,4*6=24<eos>']) / 3_000 == pytest.approx(
      1 / 6, abs=0.04)


def test_a_verification_recomputes_the_states():
  chained = dataclasses.replace(_PLAIN, chain=';')
  seen = {
      asked.removeprefix('4,9,3>24:'): text[:-len('?<eos>')]
      for asked, text in _texts(300, chained)}
  assert seen == {
      '': '', 'S9-3=6,': '4,6;', 'S9-3=6,4*6=24<eos>': '4,6;24;',
      'S9-3=6,4+6=10<eos>': '4,6;10;', 'S9-3=7,4*7=24<eos>': ''}


def test_the_question_is_put_otherwise():
  questions = {
      asked.partition(':')[0]
      for asked, _ in _texts(60, arm='solution_only_permuted')}
  assert len(questions) == 6


@pytest.mark.parametrize('name', ['ask', 'right', 'wrong'])
@pytest.mark.parametrize('text', ['24', '#'])  # two tokens, an unknown one
def test_a_mark_that_is_not_one_token_is_one_line(name, text):
  with pytest.raises(config_lib.UserError, match=(
      f"data.verdict.{name}: got '{text}'; must be one token")):
    next(_texts(1, dataclasses.replace(_PLAIN, **{name: text})))


def test_a_verification_that_cannot_be_written_is_one_line():
  with pytest.raises(config_lib.UserError, match=(
      "data.verdict.chain: the tokenizer cannot write '4,6#")):
    list(_texts(20, dataclasses.replace(_PLAIN, chain='#')))


def test_equal_verdicts_are_refused():
  with pytest.raises(config_lib.ConfigError, match="right: got 'x', as wrong"):
    dataclasses.replace(_PLAIN, right='x')
