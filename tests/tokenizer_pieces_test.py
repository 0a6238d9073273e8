# SPDX-License-Identifier: Apache-2.0
"""Pieces, texts that are one token each, against matching in plain Python."""

import hypothesis
from hypothesis import strategies as st
import pytest

from configs import kinds as stage_kinds
from data_pipelines.tokenizers import sentencepiece
from meta_cot.settings import config as config_lib

PROMPT = 'start 1 3 goal 4 5 wall 0 0 wall 2 1'
TRACE = ' create 1 3 c0 c9 close 1 3 c0 c9 create 1 4 c1 c88 plan 1 3 plan 1 4'
WORDS = ('start', ' goal', ' wall', ' create', ' close', ' plan')
# All that mazes of ten by ten are written with.
MAZE = (
    *WORDS, *(f' {i}' for i in range(10)), *(f' c{i}' for i in range(100)))
CONTROL_IDS = set(range(len(sentencepiece.CONTROL_TOKENS)))
_TEXTS = st.text(
    st.characters(codec='utf-8', exclude_characters='\u2581\0'), min_size=1,
    max_size=6)


def _make(texts, vocab_size=256, number_tokens=None, pieces=MAZE):
  return sentencepiece.Settings(
      vocab_size, number_tokens, None, tuple(pieces)).make(texts)


@pytest.fixture(scope='module')
def maze():
  return _make([PROMPT, TRACE])


@pytest.fixture(scope='module')
def mixed():
  """Pieces, numbers and characters; pieces begin and go on as numbers do."""
  letters = 'w r t s p o n l e c a'  # none is learned from within a piece
  return _make([PROMPT, TRACE, letters], number_tokens=20, pieces=MIXED)


MIXED = (' 1', ' c1', ' c10', '0 p', '21', ' plan', ' plan 1', 'n 4')


def _longest_first(text, words):
  """What is one token, by the rule: [(text, whether it is a word)]."""
  found = []
  while text:
    fitting = [w for w in words if text.startswith(w)]
    found.append(max(fitting, key=len) if fitting else text[0])
    text = text[len(found[-1]):]
  return found


def _parts(tokenizer, text):
  return [tokenizer.decode([i]) for i in tokenizer.encode(text)]


def test_every_word_of_a_maze_is_one_token(maze):
  for text in (PROMPT, TRACE):
    parts = _parts(maze, text)
    assert [p.strip() for p in parts] == text.split()
  # Control tokens, the line feed, a blank and the pieces; nothing is learned.
  assert maze.vocab_size == len(CONTROL_IDS) + 2 + len(MAZE)
  assert _parts(maze, ' plan 1 plan c10 ') == [' plan', ' 1', ' plan', ' c10',
                                              ' ']


@hypothesis.given(st.lists(st.sampled_from(
    ['start', ' ', 'c', '1', '0', *WORDS, *MAZE[6:20], ' c10', ' c99'])))
def test_mazes_survive_word_by_word(maze, words):
  text = ''.join(words)
  ids = maze.encode(text)
  known = maze.decode([i for i in ids if i not in CONTROL_IDS])
  assert '\ufffd' in maze.decode(ids) or known == maze.decode(ids) == text
  assert _longest_first(text, {*MAZE, ' '}) == _parts(maze, text) or (
      '\ufffd' in maze.decode(ids))


@hypothesis.settings(max_examples=500)
@hypothesis.given(st.text(alphabet=' 0123456789acelnopstrw', max_size=40))
def test_pieces_and_numbers_are_matched_longest_first(mixed, text):
  words = (*MIXED, *map(str, range(21)))
  ids = mixed.encode(text)
  assert mixed.decode(ids) == text
  assert _parts(mixed, text) == _longest_first(text, words)
  placeholder = sentencepiece.Settings(256, 20, None, MIXED).placeholder()
  assert len(placeholder.encode(text)) == len(ids)


@hypothesis.given(st.integers(0, len(TRACE)), st.integers(0, len(TRACE)))
def test_a_continuation_is_encoded_by_itself(maze, mixed, start, cut):
  prompt, text = PROMPT, TRACE[start:cut]
  for tokenizer in (maze, mixed):
    ids = tokenizer.encode(prompt) + tokenizer.encode(' plan 4 5')
    assert tokenizer.decode(ids) == f'{prompt} plan 4 5'
  ids = mixed.encode(text)
  assert mixed.decode(ids) == text
  assert mixed.decode(mixed.encode(prompt) + ids) == prompt + text


@hypothesis.settings(max_examples=200)
@hypothesis.given(
    st.lists(_TEXTS, min_size=1, max_size=8, unique=True), st.data(),
    st.sampled_from([None, 30]), st.sampled_from([128, 700]))
def test_any_pieces(pieces, data, number_tokens, vocab_size):
  numbers = set(map(str, range(31)))
  taken = {' ', '\n', '<0x41>', *numbers, *sentencepiece.CONTROL_TOKENS}
  pieces = [p for p in pieces if p not in taken]
  mine = st.lists(st.one_of(
      st.sampled_from(pieces or ['x']), st.sampled_from(['1', '30', ' ', 'a'])))
  text = ''.join(data.draw(mine))
  first = ''.join(data.draw(mine))
  tokenizer = _make(
      [text or 'a', first + 'a 130'], vocab_size, number_tokens, pieces)
  ids, before = tokenizer.encode(text), tokenizer.encode(first)
  assert tokenizer.decode(ids) == text
  assert tokenizer.decode(before + ids) == first + text
  assert not CONTROL_IDS & {*ids, *before}
  words = {*pieces, *(numbers if number_tokens else ())}
  expected = [p for p in _longest_first(text, words) if p in words]
  assert [p for p in _parts(tokenizer, text) if p in words] == expected
  for piece in pieces:
    assert tokenizer.decode(tokenizer.encode(piece)) == piece
    assert len(tokenizer.encode(piece)) == 1
  assert len(sentencepiece.Settings(
      vocab_size, number_tokens, None, tuple(pieces)).placeholder().encode(
          text)) >= len(ids)


@pytest.mark.parametrize('name', sentencepiece.CONTROL_TOKENS)
def test_control_tokens_cannot_be_written_with_pieces(name):
  inner = (name[1:], name[:-1], f' {name}', f'{name}>')
  tokenizer = _make(['1 2 < >'], pieces=inner)
  for text in (name, f'1{name}2', f' {name}{name}>'):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not CONTROL_IDS & set(tokenizer.encode(text))


def test_the_stand_in_of_blanks_is_no_blank(maze):
  assert _parts(maze, '\u2581plan plan')[-1] == ' plan'
  assert ' plan' not in _parts(maze, '\u2581plan')


@pytest.mark.parametrize('text', [' plan', 'n', '5', '99', 'c9', 'x', '3 4'])
def test_a_placeholder_has_a_text_where_a_piece_has_it(maze, text):
  placeholder = sentencepiece.Settings(256, None, None, MAZE).placeholder()
  is_there = maze.containing(text).any()
  assert placeholder.containing(text).any() == (is_there or len(text) == 1)


def test_pieces_change_the_fingerprint(maze):
  other = _make([PROMPT, TRACE], pieces=MAZE[:-1])
  assert other.fingerprint != maze.fingerprint


@pytest.mark.parametrize('changes, message', [
    (dict(pieces=('a', '')), r"pieces\[1\]: got ''; must be a text that is "),
    (dict(pieces=(' ',)), r"pieces\[0\]: got ' '"),
    (dict(pieces=('\n',)), r"pieces\[0\]: got '\\n'"),
    (dict(pieces=('<eos>',)), r"pieces\[0\]: got '<eos>'"),
    (dict(pieces=('<|step|>',)), r"pieces\[0\]: got '<|step|>'"),
    (dict(pieces=('<0x41>',)), r"pieces\[0\]: got '<0x41>'"),
    (dict(pieces=('a\u2581',)), r"pieces\[0\]: got 'a\u2581'"),
    (dict(pieces=('a\ud800',)), r"pieces\[0\]: got 'a\\ud800'"),
    (dict(pieces=('a\0',)), r"pieces\[0\]: got 'a\\x00'"),
    (dict(pieces=('a', ' 7', '7'), number_tokens=9), r"pieces\[2\]: got '7'"),
    (dict(pieces=('a', 'b', 'a')),
     r"pieces\[2\]: got 'a' a second time; must be there once"),
    (dict(pieces=' plan'), "pieces: got ' plan'; must be a tuple of str"),
    (dict(pieces=(1,)), r'pieces\[0\]: got 1 \(int\); must be str'),
    (dict(pieces=MAZE, vocab_size=126),
     'vocab_size: got 126; must be greater than 126')])
def test_refused_settings(changes, message):
  group = stage_kinds.tokenizer().vocabulary.to_dict()
  del group['kind']
  with pytest.raises(config_lib.ConfigError, match=(
      f'config.tokenizer.{message}')) as error:
    config_lib.parse(
        sentencepiece.Settings, group | changes, 'config.tokenizer')
  assert '\n' not in str(error.value)
