# SPDX-License-Identifier: Apache-2.0
"""Control tokens by name: of settings, and added to a checkpoint."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from configs import kinds
from data_pipelines import tokenizers
from data_pipelines.tokenizers import controls
from data_pipelines.tokenizers import huggingface
from data_pipelines.tokenizers import sentencepiece
from meta_cot import sharding
from meta_cot.model import transformer
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import revising
from meta_cot.training import policy as policy_lib
from tests import convert_test
from tests import huggingface_tokenizer_test as tokenizer_test

AGAIN, STOP = '<|again|>', '<|give_up|>'


def _data(kind: str, reserved: tuple[str, ...] = ()) -> bytes:
  """Their tokenizer, with the last tokens reserved."""
  theirs = tokenizer_test.KINDS[kind]()
  theirs.add_special_tokens([*reserved])
  return theirs.to_str().encode()


@pytest.mark.parametrize('kind', tokenizer_test.KINDS)
@pytest.mark.parametrize('reserved, taken', [
    ((), (0, 1)), (('<unused7>',), (0, 1)),
    (('<unused7>', '<unused9>'), (0, 1)),
    (('<|reserved_special_token_0|>', '<|not_reserved|>'), (0, 2)),
    (('<|not_reserved|>',), (1, 2))])
def test_reserved_tokens_are_taken_before_ids_behind_all(kind, reserved, taken):
  before, data = _data(kind), _data(kind, reserved)
  plain = huggingface.Tokenizer(before, 2, (0,))
  made = huggingface.Tokenizer(controls.add(data, (AGAIN, STOP)), 2, (0,))
  ids = [i - plain.vocab_size for i in (
      made.control_ids[AGAIN], made.control_ids[STOP])]
  assert tuple(ids) == taken
  assert made.vocab_size == plain.vocab_size + max(taken[1] + 1, len(reserved))
  for text in (AGAIN, f'3{STOP}4', *tokenizer_test._texts()[:20]):
    assert made.encode(text) == plain.encode(text)
    assert made.decode(made.encode(text)) == text
  end = made.control_ids[AGAIN]
  assert (made.decode([end]), made.decode([end], show_control=True)) == (
      '', AGAIN)
  assert not made.containing('again')[end]


def test_names_that_cannot_be_added():
  data = _data('byte_level')
  assert controls.add(data, ()) == data
  for names in (('',), ('<|end|>',), (AGAIN, AGAIN), ('a',)):
    with pytest.raises(ValueError, match='must be a text that is no token yet'):
      controls.add(data, names)


def test_settings_name_control_tokens_and_texts_do_not():
  made = huggingface.Tokenizer(
      controls.add(_data('byte_level'), (AGAIN, STOP)), 2, (0, 1))
  mark, stop = made.control_ids[AGAIN], made.control_ids[STOP]
  assert [*made.control_ids] == [AGAIN, STOP]  # ends and padding have no name
  assert tokenizers.of_setting(made, AGAIN) == [mark]
  for text in (f'{AGAIN}\n', '<|end|>', 'again'):
    assert tokenizers.of_setting(made, text) == made.encode(text)
  small = sentencepiece.train(['1+2=3'], 64, 9)
  assert tokenizers.of_setting(small, sentencepiece.EPISODE) == [
      sentencepiece.CONTROL_TOKENS.index(sentencepiece.EPISODE)]
  assert tokenizers.of_setting(small, sentencepiece.EOS) == small.encode(
      sentencepiece.EOS)
  group = kinds.rl(start='sft/a').episodes
  group.update(dict(reset=AGAIN, give_up=STOP, num_episodes=2))
  rules = revising.rules(
      config_lib.parse(revising.Rules, {
          key: group[key] for key in revising.Rules.__dataclass_fields__}),
      made, None, 'free_text')
  assert (rules.reset_ids, rules.give_up_id) == ((mark,), stop)


@pytest.mark.parametrize('rows, name', [  # rows that no token has
    (0, 'qwen3'), (5, 'llama_tied'),
    pytest.param(0, 'llama_tied', marks=pytest.mark.slow),
    pytest.param(5, 'qwen3', marks=pytest.mark.slow)])
def test_an_import_adds_control_tokens(tmp_path, name, rows):
  theirs = convert_test._save(tmp_path / 'in', name)
  tokens = tokenizer_test._ours('byte_level').vocab_size
  theirs.resize_token_embeddings(tokens + rows, mean_resizing=False)
  theirs.generation_config.eos_token_id = [1, 0]
  theirs.save_pretrained(tmp_path / 'in')
  (tmp_path / 'in' / huggingface.SETTINGS).write_text(json.dumps(dict(
      tokenizer_class='PreTrainedTokenizerFast')))
  convert_test._run(
      'import', f'--source={tmp_path / "in"}', f'--output={tmp_path / "p"}',
      f'--control={AGAIN},{STOP}')
  policy = policy_lib.read(files.path(tmp_path / 'p'))
  tokenizer = policy.tokenizer()
  ids = [tokenizer.control_ids[text] for text in (AGAIN, STOP)]
  assert ids == [tokens, tokens + 1]
  assert policy.model.vocab_size == (
      tokens + rows if rows else -(-(tokens + 2) // 64) * 64)
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  with sharding.use_mesh(mesh):
    logits = jax.jit(transformer.forward, static_argnums=0)(
        policy.model, policy.params(mesh), jnp.asarray(convert_test.TOKENS)
    ).logits
  wanted = convert_test._logits(theirs)
  np.testing.assert_allclose(logits[..., :tokens + rows], wanted, atol=1e-4)
  np.testing.assert_allclose(
      logits[..., tokens + rows:], np.broadcast_to(
          wanted.mean(-1, keepdims=True), logits[..., tokens + rows:].shape),
      atol=1e-4)
  convert_test._run(
      'export', f'--policy={tmp_path / "p"}', f'--output={tmp_path / "out"}')
  again = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / 'out', attn_implementation='eager')
  np.testing.assert_allclose(convert_test._logits(again), logits, atol=1e-4)
  read = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  assert read.convert_tokens_to_ids([AGAIN, STOP]) == ids


def test_an_import_refuses_names_of_tokens(tmp_path):
  convert_test._save(tmp_path / 'in', 'llama_tied')
  with pytest.raises(config_lib.UserError, match="control token '<.end.>'"):
    convert_test._run(
        'import', f'--source={tmp_path / "in"}', f'--output={tmp_path / "p"}',
        '--control=<|end|>')
