# SPDX-License-Identifier: Apache-2.0
"""benchmarks/parity.py on small random checkpoints: what holds, what fails."""

import json

import pytest
import torch

from benchmarks import parity
from meta_cot import convert
from meta_cot.settings import config as config_lib
from tests import huggingface_tokenizer_test as tokenizer_test
from tests import transformers_parity_test

_TEXTS = [
    dict(question=f'{i} clips and {2 * i} more: how many?' + ' Say.' * (i % 3),
         answer=f'{i} + {2 * i} = <<{i}+{2 * i}={3 * i}>>{3 * i}\n#### {3 * i}')
    for i in range(8, 14)]


def _checkpoint(folder, name, seed=0):
  """A model with as many tokens as the tokenizer, and the tokenizer."""
  theirs = tokenizer_test._theirs('byte_level')
  model_type, config_type, settings, _ = transformers_parity_test.CASES[name]
  torch.manual_seed(seed)
  model = model_type(config_type(
      **transformers_parity_test._THEIR_SHAPE | settings
      | dict(vocab_size=theirs.get_vocab_size())))
  with torch.no_grad():
    for weight in model.parameters():
      weight.add_(torch.randn_like(weight) * 0.1)
  model.save_pretrained(folder)
  theirs.save(str(folder / 'tokenizer.json'))
  (folder / 'generation_config.json').write_text('{"eos_token_id": [1, 0]}')


def _run(tmp_path, capsys, *flags):
  (tmp_path / 'texts.jsonl').write_text(
      '\n'.join(map(json.dumps, _TEXTS)))
  code = parity.main([
      f'--model={tmp_path / "in"}', f'--texts={tmp_path / "texts.jsonl"}',
      '--num-texts=4', '--length=20', '--long-length=40', '--new-tokens=8',
      *flags])
  rows = map(json.loads, capsys.readouterr().out.splitlines())
  return code, {row['law']: row for row in rows}


@pytest.mark.parametrize('name', [
    pytest.param('llama_tied', marks=pytest.mark.slow), 'gemma3'])
def test_all_laws_hold(tmp_path, capsys, name):
  (tmp_path / 'in').mkdir()
  _checkpoint(tmp_path / 'in', name)
  code, rows = _run(tmp_path, capsys)
  assert [*rows] == [
      'ids', 'round_trip', 'control', 'forward', 'cached', 'long',
      'long_cached', 'greedy']
  assert code == 0 and all(row['holds'] for row in rows.values())
  assert rows['ids']['texts'] == 2 * len(_TEXTS)
  assert 0 < rows['cached']['largest_difference'] < 1e-4
  assert rows['greedy']['shortest_prompt'] < rows['greedy']['longest_prompt']


def test_another_model_fails(tmp_path, capsys):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'other').mkdir()
  _checkpoint(tmp_path / 'in', 'llama_tied')
  _checkpoint(tmp_path / 'other', 'llama_tied', seed=1)
  convert.main([
      'import', f'--source={tmp_path / "other"}', f'--output={tmp_path / "p"}'])
  code, rows = _run(tmp_path, capsys, f'--policy={tmp_path / "p"}')
  failed = {law for law, row in rows.items() if not row['holds']}
  assert code == 1 and failed == {
      'forward', 'cached', 'long', 'long_cached', 'greedy'}
  with pytest.raises(config_lib.UserError, match='has 0 texts of 2000 tokens'):
    _run(tmp_path, capsys, f'--policy={tmp_path / "p"}', '--length=2000')
