# SPDX-License-Identifier: Apache-2.0
"""Tokenizer: lossless, deterministic, and closed to control tokens in text."""

import pickle

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from data_pipelines import tokenizers
from data_pipelines.tokenizers import sentencepiece
from meta_cot.settings import config as config_lib

COMPACT = (
    '20,1,9>28:9+1=10,20;+30-10/2x20+1=21,9;+30-12x9-1=8,20;+28!S9-1=8,20+8=28',
    '4,9,3>24:9-3=6,4;@2*24!S9-3=6,6*4=24')
SOS = (
    'Current State: 24:[4, 9, 3], Operations: []\n'
    'Exploring Operation: 9-3=6, Resulting Numbers: [4, 6]\n'
    'Generated Node #0,1: 24:[4, 6] Operation: 9-3=6\n')
CONTROL_IDS = set(range(len(sentencepiece.CONTROL_TOKENS)))
UNK_ID = sentencepiece.CONTROL_TOKENS.index('<unk>')


@pytest.fixture(scope='module')
def compact():
  return sentencepiece.train(COMPACT, 128, 60)


@pytest.fixture(scope='module')
def bytes_tokenizer():
  return sentencepiece.train([SOS] * 3, 700)


def pieces(tokenizer, text):
  return [tokenizer.decode([i]) for i in tokenizer.encode(text)]


def test_compact_has_one_token_per_number_and_per_symbol(compact):
  assert pieces(compact, '20,1,9>28:9+1=10,20;') == [
      '20', ',', '1', ',', '9', '>', '28', ':', '9', '+', '1', '=', '10', ',',
      '20', ';']
  assert compact.vocab_size <= 128


def test_numbers_above_the_last_piece_are_split_greedily(compact):
  assert pieces(compact, '100') == ['10', '0']
  assert pieces(compact, '61') == ['6', '1']


def test_merged_vocabulary_keeps_digits_and_newlines_apart(bytes_tokenizer):
  assert pieces(bytes_tokenizer, '123\n45') == ['1', '2', '3', '\n', '4', '5']
  assert len(bytes_tokenizer.encode(SOS)) < len(SOS) / 2


@hypothesis.given(st.text(max_size=60))
def test_any_unicode_survives_a_round_trip(bytes_tokenizer, text):
  ids = bytes_tokenizer.encode(text)
  assert bytes_tokenizer.decode(ids) == text
  assert not set(ids) & CONTROL_IDS


@hypothesis.given(st.text(alphabet='ab \u2581\n\t\r\x00<eos>\U0001f600'))
def test_spaces_and_their_stand_in_survive(bytes_tokenizer, text):
  assert bytes_tokenizer.decode(bytes_tokenizer.encode(text)) == text


@hypothesis.given(st.text(alphabet='0123456789+-*/=,;:>x!S', max_size=80))
def test_compact_texts_survive_without_bytes(compact, text):
  assert compact.decode(compact.encode(text)) == text


@pytest.mark.parametrize('name', sentencepiece.CONTROL_TOKENS)
def test_control_tokens_cannot_be_written_as_text(
    compact, bytes_tokenizer, name):
  assert bytes_tokenizer.decode(bytes_tokenizer.encode(name)) == name
  for tokenizer in (compact, bytes_tokenizer):
    forbidden = CONTROL_IDS - {UNK_ID}
    assert not forbidden & set(tokenizer.encode(f'1{name}2'))


def test_control_ids_are_fixed_and_decode_as_asked(compact):
  assert [
      compact.decode([i], show_control=True) for i in range(9)] == list(
          sentencepiece.CONTROL_TOKENS)
  assert (compact.pad_id, compact.eos_id, compact.eos_ids) == (0, 1, (1,))
  bos_id = sentencepiece.CONTROL_TOKENS.index('<bos>')
  ids = [bos_id, *compact.encode('9-3'), compact.eos_id, compact.pad_id]
  assert compact.decode(ids) == '9-3'
  assert compact.decode(ids, show_control=True) == '<bos>9-3<eos><pad>'


@hypothesis.given(st.lists(st.integers(-5, 900), max_size=20))
def test_decode_never_raises_on_sampled_ids(bytes_tokenizer, compact, ids):
  for tokenizer in (bytes_tokenizer, compact):
    assert isinstance(tokenizer.decode(ids), str)
    assert isinstance(tokenizer.decode(ids, show_control=True), str)


@pytest.mark.parametrize('text', [',', '4', '\n', ', ', '\ufffd', '[4', '>'])
def test_tokens_that_have_a_text_in_them(bytes_tokenizer, compact, text):
  for tokenizer in (bytes_tokenizer, compact):
    expected = [
        text in tokenizer.decode([i]) and i not in CONTROL_IDS
        for i in range(tokenizer.vocab_size)]
    found = tokenizer.containing(text)
    assert found.dtype == bool and found.tolist() == expected


def test_texts_are_found_inside_longer_pieces(bytes_tokenizer):
  ends = np.flatnonzero(bytes_tokenizer.containing('s'))
  assert len({bytes_tokenizer.decode([i]) for i in ends} - {'s'}) > 1


def test_unknown_text_and_ids_show_the_replacement_character(compact):
  assert compact.decode(compact.encode('9?')) == '9\ufffd'
  assert compact.decode([compact.vocab_size]) == '\ufffd'


def test_a_signal_while_texts_are_made_ends_the_process_as_always():
  def texts():
    yield COMPACT[0]
    raise SystemExit(75)  # as a handler of a signal does

  with pytest.raises(SystemExit, match='75'):
    sentencepiece.train(texts(), 128, 60)


def test_training_is_deterministic_and_the_fingerprint_tells(tmp_path):
  settings = sentencepiece.Settings(700, None, None, ())
  tokenizer, same = (settings.make([SOS]) for _ in range(2))
  tokenizer.save(tmp_path / 'a')
  same.save(tmp_path / 'b')
  path = tmp_path / 'a' / 'tokenizer.model'
  assert path.read_bytes() == (
      tmp_path / 'b' / 'tokenizer.model').read_bytes()
  other = sentencepiece.train(COMPACT, 700)
  assert tokenizer.fingerprint != other.fingerprint
  reused = sentencepiece.Settings(700, None, str(path), ())
  for copy in (
      tokenizers.load(tmp_path / 'a'), pickle.loads(pickle.dumps(tokenizer)),
      reused.make(iter(()))):
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode(SOS) == tokenizer.encode(SOS)


@pytest.mark.parametrize('text, number', [
    ('20,20,20>60:', 8), ('20,100>61:', 8), ('007', 3), ('S', 1), ('', 0),
    ('a\n7', 3)])
def test_a_placeholder_makes_as_many_tokens_at_most(text, number):
  placeholder = lambda number_tokens: sentencepiece.Settings(
      128, number_tokens, None, ()).placeholder()
  assert len(placeholder(60).encode(text)) == number
  assert len(placeholder(None).encode(text)) == len(text)
  trained = sentencepiece.train([text + 'S'], 128, 60)
  assert len(trained.encode(text)) <= number
  (end,) = np.flatnonzero(placeholder(60).containing('20'))
  assert placeholder(60).encode('20') == [end]
  assert not placeholder(None).containing('20').any()


def test_texts_longer_than_a_trainer_sentence_are_not_skipped():
  tokenizer = sentencepiece.train(['9+3=12,' * 4000 + '~'], 128, 60)
  assert UNK_ID not in tokenizer.encode('~')


@pytest.mark.parametrize('texts, vocab_size', [([], 128), (COMPACT, 32)])
def test_training_errors_are_one_line(texts, vocab_size):
  with pytest.raises(ValueError, match='vocab_size: training') as error:
    sentencepiece.train(texts, vocab_size, 60)
  assert '\n' not in str(error.value)


def test_a_damaged_model_is_named(tmp_path):
  path = tmp_path / 'tokenizer.model'
  settings = sentencepiece.Settings(128, None, str(path), ())
  with pytest.raises(config_lib.UserError, match=f'{path}: no tokenizer model'):
    settings.make(iter(()))
  for content in (b'', b'not a model'):
    path.write_bytes(content)
    for read in (
        lambda: tokenizers.load(tmp_path),
        lambda: settings.make(iter(()))):
      with pytest.raises(config_lib.UserError, match=(
          f'{path}: .*run its stage again')):
        read()
