# SPDX-License-Identifier: Apache-2.0
"""A policy folder as an import of a small chat model leaves it; random."""

import json
import pathlib

import numpy as np
from safetensors import numpy as writer
import tokenizers as reference

from meta_cot import convert
from tests import huggingface_tokenizer_test as tokenizer_test

MAX_LENGTH = 4_096
_NUM_ENDS = 40  # more tokens that end a text: an end is drawn soon
_DIM = 16
_TEMPLATE = (
    '{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content | trim }}<|end|>'
    '{% endfor %}{% if add_generation_prompt %}<|turn|>model\n{% endif %}')


def write(
    folder: pathlib.Path, *, style: str = 'free_text', prompt: str = 'chat',
    max_length: int = MAX_LENGTH,
) -> pathlib.Path:
  """Writes the checkpoint and the policy folder; returns the latter."""
  source, policy = folder / 'checkpoint', folder / 'policy'
  source.mkdir()
  tokenizer = reference.Tokenizer.from_str(
      tokenizer_test._theirs('byte_level').to_str())
  ends = [f'<|end{i}|>' for i in range(_NUM_ENDS)]
  tokenizer.add_special_tokens(ends)
  tokenizer.save(str(source / 'tokenizer.json'))
  size = tokenizer.get_vocab_size()
  values = dict(
      config=dict(
          model_type='llama', vocab_size=size, num_hidden_layers=1,
          hidden_size=_DIM, num_attention_heads=2, num_key_value_heads=1,
          intermediate_size=_DIM, max_position_embeddings=max_length,
          rms_norm_eps=1e-5, hidden_act='silu', tie_word_embeddings=True),
      generation_config=dict(
          eos_token_id=[0, 1, *map(tokenizer.token_to_id, ends)]),
      tokenizer_config=dict(chat_template=_TEMPLATE, pad_token='<|pad|>'))
  for name, value in values.items():
    (source / f'{name}.json').write_text(json.dumps(value))
  writer.save_file(_arrays(size), source / 'model.safetensors')
  convert.main([
      'import', f'--source={source}', f'--output={policy}',
      f'--style={style}', f'--prompt={prompt}'])
  return policy


def _arrays(vocab_size: int) -> dict[str, np.ndarray]:
  draws, half = np.random.default_rng(0), _DIM // 2
  shapes = {
      'self_attn.q_proj': (_DIM, _DIM), 'self_attn.k_proj': (half, _DIM),
      'self_attn.v_proj': (half, _DIM), 'self_attn.o_proj': (_DIM, _DIM),
      'mlp.gate_proj': (_DIM, _DIM), 'mlp.up_proj': (_DIM, _DIM),
      'mlp.down_proj': (_DIM, _DIM), 'input_layernorm': (_DIM,),
      'post_attention_layernorm': (_DIM,)}
  shapes = {f'layers.0.{name}': shape for name, shape in shapes.items()} | {
      'embed_tokens': (vocab_size, _DIM), 'norm': (_DIM,)}
  return {
      f'model.{name}.weight': (
          np.ones(shape) if len(shape) == 1 else 0.1 * draws.normal(size=shape)
      ).astype(np.float32) for name, shape in shapes.items()}
