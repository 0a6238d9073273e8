# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in and out: every family, bit for bit, and what is refused."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import torch
import transformers

from configs import models
from meta_cot import convert
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.model.pretrained import families
from meta_cot.model.pretrained import shards
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.training import policy as policy_lib
from tests import huggingface_tokenizer_test as tokenizer_test
from tests import transformers_parity_test as parity

TOKENS = np.random.default_rng(0).integers(0, 50, (2, 12))


def _mesh():
  return sharding.make_mesh(sharding.MeshConfig(-1, 1, 2))


def _save(folder: pathlib.Path, name: str, **changes):
  """Their model of a family, saved as they save it."""
  model = parity._their_model(name)
  model.save_pretrained(folder, **changes)
  tokenizer_test._theirs('byte_level').save(str(folder / 'tokenizer.json'))
  (folder / 'generation_config.json').write_text('{"eos_token_id": [1, 0]}')
  return model


def _logits(model) -> np.ndarray:
  with torch.no_grad():
    return model.eval()(torch.tensor(TOKENS)).logits.float().numpy()


def _run(*argv) -> None:
  convert.main([str(x) for x in argv])


def _tensors(folder) -> dict[str, np.ndarray]:
  found = {}
  for path in folder.glob('*.safetensors'):
    with safetensors.safe_open(path, 'numpy') as file:
      found |= {name: file.get_tensor(name) for name in file.keys()}
  return found


_ALIKE = {'llama_tied', 'mistral'}  # others have what they have


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow if name in _ALIKE else ())
    for name in parity.CASES])
def test_logits_and_bits_of_every_family(tmp_path, name):
  theirs = _save(tmp_path / 'in', name)
  _run('import', f'--source={tmp_path / "in"}', f'--output={tmp_path / "p"}')
  policy = policy_lib.read(files.path(tmp_path / 'p'))
  assert policy.tokenizer().eos_ids == (1, 0)
  # Over eight devices, two of which share every matrix.
  params = policy.params(_mesh())
  with sharding.use_mesh(_mesh()):
    output = jax.jit(transformer.forward, static_argnums=0)(
        policy.model, params, jnp.asarray(TOKENS))
  wanted = _logits(theirs)
  assert np.abs(wanted).max() > 0.5
  np.testing.assert_allclose(output.logits, wanted, atol=1e-4)
  assert not np.any(params['value_head']['kernel'])
  _run('export', f'--policy={tmp_path / "p"}', f'--output={tmp_path / "out"}')
  again = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / 'out', attn_implementation='eager')
  np.testing.assert_array_equal(_logits(again), wanted)
  before, after = _tensors(tmp_path / 'in'), _tensors(tmp_path / 'out')
  assert before.keys() == after.keys()
  for key, x in before.items():
    np.testing.assert_array_equal(after[key], x, err_msg=key)
  for file in ('tokenizer.json', 'generation_config.json'):
    assert (tmp_path / 'out' / file).read_bytes() == (
        tmp_path / 'in' / file).read_bytes()


def test_bfloat16_comes_back_bit_for_bit_in_several_files(tmp_path):
  model = parity._their_model('qwen3').to(torch.bfloat16)
  model.save_pretrained(tmp_path / 'in', max_shard_size='8KB')
  tokenizer_test._theirs('byte_level').save(
      str(tmp_path / 'in' / 'tokenizer.json'))
  (tmp_path / 'in' / 'generation_config.json').write_text('{"eos_token_id": 0}')
  assert len([*(tmp_path / 'in').glob('*.safetensors')]) > 3
  for dtype in ('float32', 'bfloat16'):
    policy, out = tmp_path / dtype, tmp_path / f'{dtype}_out'
    _run('import', f'--source={tmp_path / "in"}', f'--output={policy}',
         f'--dtype={dtype}')
    made = policy_lib.read(files.path(policy))
    assert {x.dtype for x in jax.tree.leaves(made.params(_mesh()))} == {
        jnp.dtype(dtype)}
    _run('export', f'--policy={policy}', f'--output={out}')
    before, after = _tensors(tmp_path / 'in'), _tensors(out)
    assert before.keys() == after.keys()
    for key, x in before.items():
      assert after[key].dtype == x.dtype == jnp.bfloat16
      np.testing.assert_array_equal(
          after[key].view(np.uint16), x.view(np.uint16))


def test_files_of_bounded_size_have_an_index(tmp_path):
  found = {f'x{i}': np.full((4, 8), i, np.float32) for i in range(7)}
  folder = files.path(tmp_path)
  shards.write(folder, iter(found.items()), max_bytes=300)
  assert len([*tmp_path.glob('*.safetensors')]) == 4
  with shards.opened(folder) as source:
    assert source.shapes == dict.fromkeys(found, (4, 8))
    for name, x in found.items():
      np.testing.assert_array_equal(source.read(name), x)


def test_a_tied_embedding_that_is_another_one_is_read_untied(tmp_path):
  _save(tmp_path / 'in', 'llama_tied')
  raw = _tensors(tmp_path / 'in')
  for name, changed in (('same', 0.0), ('other', 1.0)):
    raw['lm_head.weight'] = raw['model.embed_tokens.weight'] + changed
    from safetensors import numpy as writer
    writer.save_file(raw, tmp_path / 'in' / 'model.safetensors')
    _run('import', f'--source={tmp_path / "in"}',
         f'--output={tmp_path / name}')
    model = policy_lib.read(files.path(tmp_path / name)).model
    assert model.tie_embeddings == (name == 'same')


@pytest.mark.parametrize('changes, message', [
    (dict(model_type='gpt2'), "model_type: got 'gpt2'; must be one of llama"),
    (dict(mlp_bias=True), 'mlp_bias: got True; must be False'),
    (dict(new_field=3), 'new_field: got 3; this field of llama is not known'),
    (dict(hidden_act='relu'), "hidden_act: got 'relu'; must be one of silu"),
    (dict(rope_scaling=dict(rope_type='yarn'), rope_parameters=None),
     "rope_scaling: got 'yarn'; must be default, linear or llama3"),
    (dict(num_key_value_heads=3), 'num_heads: got 4; must be a multiple'),
    (dict(intermediate_size=41), r'mlp.gate_proj.weight: got \(40, 24\); must '
     r'be of shape \(41, 24\)'),
    (dict(num_hidden_layers=4), 'no such array; must be of shape'),
    (dict(num_hidden_layers=2), 'layers.2.* has no place in such a model'),
    (dict(vocab_size=None), 'vocab_size')])
def test_what_cannot_be_expressed_is_named(tmp_path, changes, message):
  _save(tmp_path, 'llama_tied')
  path = tmp_path / 'config.json'
  raw = json.loads(path.read_text()) | changes
  path.write_text(json.dumps(
      {k: v for k, v in raw.items() if k != 'vocab_size' or v}))
  with pytest.raises(config_lib.UserError) as error:
    _run('import', f'--source={tmp_path}', f'--output={tmp_path / "p"}')
  assert re.search(message, str(error.value)), error.value
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'p' / 'policy.json').exists()


def test_damaged_and_missing_files_are_named(tmp_path):
  _save(tmp_path, 'llama_tied')
  weights = tmp_path / 'model.safetensors'
  data = weights.read_bytes()
  weights.write_bytes(data[:100])
  with pytest.raises(config_lib.UserError, match='safetensors: no safetensors'):
    _run('import', f'--source={tmp_path}', f'--output={tmp_path / "p"}')
  weights.unlink()
  with pytest.raises(config_lib.UserError, match='safetensors: no such file'):
    _run('import', f'--source={tmp_path}', f'--output={tmp_path / "p"}')
  (tmp_path / 'config.json').unlink()
  with pytest.raises(config_lib.UserError, match='config.json: no such file'):
    _run('import', f'--source={tmp_path}', f'--output={tmp_path / "p"}')


@pytest.mark.parametrize('argv, message', [
    ((), 'subcommand: got nothing; must be import or export'),
    (('bring',), "subcommand: got 'bring'"), (('import',), '--source'),
    (('import', '--source=x', '--output=y', '--dtype=int8'), '--dtype: got'),
    (('import', '--source=x', '--output=y', '--style=novel'), '--style: got'),
    (('import', '--source=x', '--output=y', '--prompt=song'), '--prompt: got'),
    (('export', '--policy=/no', '--output=y'), 'policy.json: no such file')])
def test_wrong_usage_is_one_line(argv, message):
  with pytest.raises(config_lib.UserError, match=message) as error:
    _run(*argv)
  assert '\n' not in str(error.value)


def test_nothing_is_overwritten(tmp_path):
  _save(tmp_path, 'llama_tied')
  (tmp_path / 'p').mkdir()
  (tmp_path / 'p' / 'policy.json').write_text('{}')
  with pytest.raises(config_lib.UserError, match='json is there already'):
    _run('import', f'--source={tmp_path}', f'--output={tmp_path / "p"}')


@pytest.mark.parametrize('name', parity.CASES)
def test_configs_are_those_of_hand(name):
  """Fields that the parity tests set by hand."""
  _, config_type, settings, _ = parity.CASES[name]
  raw = config_type(**parity._THEIR_SHAPE | settings).to_dict()
  wanted = parity._our_config(name)
  made = families.to_model(raw, wanted.execution, 'none')
  assert made.rope == wanted.rope and made.tie_embeddings == (
      wanted.tie_embeddings)
  assert made.block == wanted.block
  back = families.to_theirs(made)
  assert families.to_model(back, wanted.execution, 'none') == made


_QWEN25 = dict(
    hidden_size=896, intermediate_size=4864, max_position_embeddings=32_768,
    max_window_layers=24, num_attention_heads=14, num_hidden_layers=24,
    num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1_000_000.0,
    sliding_window=32_768, tie_word_embeddings=True, vocab_size=151_936)
_GEMMA3_27B = dict(  # the rest is what the format of the file takes
    head_dim=128, hidden_size=5376, intermediate_size=21_504,
    num_attention_heads=32, num_hidden_layers=62, num_key_value_heads=16,
    query_pre_attn_scalar=168, sliding_window=1024,
    rope_scaling=dict(factor=8.0, rope_type='linear'))


@pytest.mark.parametrize('name, config_type, published', [
    ('qwen25_0_5b', transformers.Qwen2Config, _QWEN25),
    ('gemma3_27b', transformers.Gemma3TextConfig, _GEMMA3_27B)])
def test_published_configs_are_the_named_models(name, config_type, published):
  wanted = config_lib.parse(model_config.ModelConfig, models.get(name))
  raw = config_type(**published).to_dict()
  assert families.to_model(raw, wanted.execution) == wanted
  back = families.to_theirs(wanted)
  assert families.to_model(back, wanted.execution) == wanted


def test_checkpoints_and_policies_of_a_bucket(bucket, tmp_path):
  theirs = _save(tmp_path / 'in', 'llama3')
  there = f'{bucket}/converted'
  _run('import', f'--source={tmp_path / "in"}', f'--output={there}/p')
  policy = policy_lib.read(files.path(f'{there}/p'))
  params = policy.params(_mesh())
  output = jax.jit(transformer.forward, static_argnums=0)(
      policy.model, params, jnp.asarray(TOKENS))
  np.testing.assert_allclose(output.logits, _logits(theirs), atol=1e-4)
  _run('export', f'--policy={there}/p', f'--output={there}/out')
  _run('import', f'--source={there}/out', f'--output={tmp_path / "again"}')
  again = policy_lib.read(files.path(tmp_path / 'again'))
  assert again.model == policy.model
  jax.tree.map(np.testing.assert_array_equal, again.params(_mesh()), params)
  # What was copied to be read is gone.
  assert not [*files.cache_folder().glob('*.safetensors*')]
  assert not [*files.cache_folder().glob('.*.safetensors*')]
