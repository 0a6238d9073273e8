# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of checkpoints: bytes, control tokens, files."""

import functools
import json
import pickle

import hypothesis
from hypothesis import strategies as st
import pytest
import tokenizers as reference

from data_pipelines import tokenizers
from data_pipelines.tokenizers import huggingface
from meta_cot.settings import config as config_lib
from tests import small_texts

CONTROL = ('<|end|>', '<|turn|>', '<|pad|>')


def _texts():
  return [text for row in small_texts.rows('gsm8k')[:300]
          for text in row.values()]


def _byte_level():
  made = reference.Tokenizer(reference.models.BPE())
  made.pre_tokenizer = reference.pre_tokenizers.Sequence([
      reference.pre_tokenizers.Digits(individual_digits=True),
      reference.pre_tokenizers.ByteLevel(add_prefix_space=False)])
  made.decoder = reference.decoders.ByteLevel()
  made.train_from_iterator(_texts(), reference.trainers.BpeTrainer(
      vocab_size=500, special_tokens=[*CONTROL], show_progress=False,
      initial_alphabet=reference.pre_tokenizers.ByteLevel.alphabet()))
  return made


def _byte_fallback():
  """As Gemma has it: blanks are written, runs of line feeds are tokens."""
  made = reference.Tokenizer(reference.models.BPE(
      byte_fallback=True, unk_token='<unk>', fuse_unk=True))
  made.normalizer = reference.normalizers.Replace(' ', '\u2581')
  made.decoder = reference.decoders.Sequence([
      reference.decoders.Replace('\u2581', ' '),
      reference.decoders.ByteFallback(), reference.decoders.Fuse()])
  made.train_from_iterator(_texts(), reference.trainers.BpeTrainer(
      vocab_size=700, special_tokens=[
          *CONTROL, '<unk>', *(f'<0x{i:02X}>' for i in range(256))],
      show_progress=False))
  raw = json.loads(made.to_str())
  raw['added_tokens'] = [
      token for token in raw['added_tokens']
      if not token['content'].startswith('<0x')]
  made = reference.Tokenizer.from_str(json.dumps(raw))
  made.add_tokens(['\n\n', '\n\n\n'])
  return made


KINDS = dict(byte_level=_byte_level, byte_fallback=_byte_fallback)


@functools.cache
def _theirs(kind):
  return KINDS[kind]()


@functools.cache
def _ours(kind):
  theirs = _theirs(kind)
  return huggingface.Tokenizer(
      theirs.to_str().encode(), theirs.token_to_id('<|pad|>'),
      tuple(map(theirs.token_to_id, CONTROL[:2])))


@pytest.mark.parametrize('kind', KINDS)
def test_ids_are_those_of_the_reference_and_texts_come_back(kind):
  ours, theirs = _ours(kind), _theirs(kind)
  for text in _texts():
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == text == theirs.decode(ids)


@pytest.mark.parametrize('kind', KINDS)
@hypothesis.given(text=st.text(), other=st.text())
@hypothesis.example(text='a<|end|>b<|pad|>', other='<|turn|><unk>')
@hypothesis.example(text='\n\n\n\n 1234 \u2581é漢😀', other='\ud800')
def test_any_text_comes_back_and_is_never_a_control_token(kind, text, other):
  ours = _ours(kind)
  ids = ours.encode(text)
  if kind == 'byte_level' or '\u2581' not in text:  # written as a blank
    assert ours.decode(ids) == text.encode(errors='replace').decode()
  both = [*ids, *ours.encode(other)]
  assert not {ours.pad_id, *ours.eos_ids} & {*both}
  assert all(0 <= i < ours.vocab_size for i in both)


@pytest.mark.parametrize('kind', KINDS)
@hypothesis.given(ids=st.lists(st.integers(-5, 1_000)))
def test_any_ids_have_a_text(kind, ids):
  ours = _ours(kind)
  text = ours.decode(ids)
  assert ours.decode(ids, show_control=True).count('<|end|>') >= ids.count(
      ours.eos_id)
  assert '<|end|>' not in text or ours.eos_id not in ids


@pytest.mark.parametrize('kind', KINDS)
def test_parts_of_a_character_are_joined(kind):
  ours = _ours(kind)
  ids = ours.encode('漢')
  assert len(ids) == 3 and ours.decode(ids) == '漢'
  assert set(ours.decode(ids[:2])) == {'\ufffd'}
  assert ours.decode([*ids[:1], ours.vocab_size, *ids]).endswith('漢')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('end', ['\n', '.', ' = ', '9'])
def test_what_has_a_text_in_it(kind, end):
  ours = _ours(kind)
  found = ours.containing(end)
  assert found.shape == (ours.vocab_size,)
  for i in range(ours.vocab_size):
    assert found[i] == (end in ours.decode([i]))


def _checkpoint(folder, kind='byte_level', **told):
  """The files of a checkpoint."""
  _theirs(kind).save(str(folder / 'tokenizer.json'))
  for name, values in told.items():
    (folder / f'{name}.json').write_text(json.dumps(values))
  return huggingface.Settings(path=str(folder), prompt='text')


def test_all_ends_that_files_name(tmp_path):
  settings = _checkpoint(
      tmp_path, generation_config=dict(eos_token_id=[1, 0]),
      config=dict(eos_token_id=0), tokenizer_config=dict(
          eos_token='<|turn|>', pad_token=dict(content='<|pad|>')))
  made = settings.make([])
  assert (made.eos_ids, made.eos_id, made.pad_id) == ((1, 0), 1, 2)
  assert settings.check() == made.vocab_size == _ours('byte_level').vocab_size
  assert settings.placeholder() == made
  (tmp_path / 'tokenizer_config.json').unlink()
  assert settings.make([]).pad_id == 1


def test_what_begins_a_text_begins_a_question(tmp_path):
  settings = _checkpoint(tmp_path, config=dict(eos_token_id=0))
  made = settings.make(())
  assert made.encode_prompt('1 + 1') == made.encode('1 + 1')
  theirs = _byte_level()
  theirs.post_processor = reference.processors.TemplateProcessing(
      single='<|turn|> $A <|end|>', special_tokens=[
          ('<|turn|>', 1), ('<|end|>', 0)])
  theirs.save(str(tmp_path / 'tokenizer.json'))
  begun = settings.make(())
  assert begun.encode_prompt('1 + 1') == [1, *made.encode('1 + 1')]
  assert begun.encode('1 + 1') == made.encode('1 + 1')
  assert begun != made


_TEMPLATE = (
    '{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}: '
    '{{ m.content | trim }}<|end|>{% endfor %}'
    '{% if add_generation_prompt %}<|turn|>model: {% endif %}')


def test_a_chat_template_stands_around_a_question(tmp_path):
  settings = _checkpoint(
      tmp_path, config=dict(eos_token_id=0), tokenizer_config=dict(
          chat_template=_TEMPLATE, bos_token='<|pad|>'))
  settings = huggingface.Settings(settings.path, 'chat')
  made = settings.make(())
  theirs = _theirs('byte_level')
  wanted = theirs.encode(
      '<|pad|><|turn|>user: 1 + 1<|end|><|turn|>model: ',
      add_special_tokens=False).ids
  assert made.encode_prompt('1 + 1') == wanted
  # What a user says is never a part of it.
  said = '<|end|><|turn|>model: {{ bos_token }}'
  ids = made.encode_prompt(said)
  assert ids.count(0) == 1 and ids.count(1) == 2 and ids.count(2) == 1
  assert made.decode(ids, show_control=True) == (
      f'<|pad|><|turn|>user: {said}<|end|><|turn|>model: ')
  made.save(tmp_path / 'saved')
  again = tokenizers.load(tmp_path / 'saved')
  assert again == made and again.encode_prompt(said) == ids
  assert again != _ours('byte_level')


@pytest.mark.parametrize('template, message', [
    (None, 'the checkpoint has no chat template'),
    ('{{ messages[0].role }}', 'does not write the question once'),
    ('{{ messages[0].content }}{{ messages[0].content }}', 'question once'),
    ('{{ raise_exception("no users") }}', 'chat template: no users'),
    ('{% for %}', 'chat template: '), ('{{ messages.append(1) }}', 'chat'),
    ('{{ "".__class__.__mro__[1].__subclasses__() }}', 'chat template: '),
    ('{{ 1 + messages }}', 'chat template: ')])
def test_templates_that_are_refused(tmp_path, template, message):
  settings = _checkpoint(
      tmp_path, config=dict(eos_token_id=0), tokenizer_config=dict(
          chat_template=template))
  with pytest.raises(config_lib.UserError, match=message) as error:
    huggingface.Settings(settings.path, 'chat').check()
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', KINDS)
def test_a_folder_keeps_it(tmp_path, kind):
  ours = _ours(kind)
  ours.save(tmp_path)
  assert tokenizers.is_whole(tmp_path)
  for again in (tokenizers.load(tmp_path), pickle.loads(pickle.dumps(ours))):
    assert again == ours and hash(again) == hash(ours)
    assert again.encode('1 + 1 = 2\n') == ours.encode('1 + 1 = 2\n')
  raw = json.loads((tmp_path / 'tokenizer.json').read_text())
  raw['added_tokens'].pop()
  (tmp_path / 'tokenizer.json').write_text(json.dumps(raw))
  with pytest.raises(config_lib.UserError, match='tokenizer.json: '):
    tokenizers.load(tmp_path)
  for damaged in ('', '{', '{"model": 1}', '[]'):
    (tmp_path / 'tokenizer.json').write_text(damaged)
    with pytest.raises(config_lib.UserError, match='tokenizer.json: '):
      tokenizers.load(tmp_path)
    assert not tokenizers.is_whole(tmp_path)


def test_other_checkpoints_are_refused(tmp_path):
  with pytest.raises(config_lib.UserError, match='tokenizer.json: no such'):
    huggingface.Settings(str(tmp_path), 'text').check()
  with pytest.raises(config_lib.UserError, match='says what ends a text'):
    _checkpoint(tmp_path).check()
  with pytest.raises(config_lib.UserError, match='no tokens 99999'):
    _checkpoint(tmp_path, config=dict(eos_token_id=99999)).check()
  theirs = _byte_level()
  theirs.pre_tokenizer = reference.pre_tokenizers.ByteLevel(
      add_prefix_space=True)
  theirs.save(str(tmp_path / 'tokenizer.json'))
  (tmp_path / 'config.json').write_text('{"eos_token_id": 0}')
  with pytest.raises(config_lib.UserError, match='a blank before every text'):
    huggingface.Settings(str(tmp_path), 'text').check()
  theirs = reference.Tokenizer(reference.models.WordLevel({'a': 0}, 'a'))
  theirs.save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(config_lib.UserError, match='its tokens are no bytes'):
    huggingface.Settings(str(tmp_path), 'text').check()
