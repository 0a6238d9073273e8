# SPDX-License-Identifier: Apache-2.0
"""Models in GGUF files, dequantised by transformers.

What it loses of a tokenizer is put back: the vocabulary of SmolLM splits digits
one by one.
"""

import json
from typing import Any, NamedTuple

from etils import epath

from meta_cot.model.pretrained import shards
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

SUFFIX = '.gguf'
_PRE = 'tokenizer.ggml.pre'
_READOUT = 'output.weight'
_SINGLE_DIGITS = ('smollm',)  # of _PRE


class Model(NamedTuple):
  """What a file holds."""

  config: dict[str, Any]  # as in config.json
  arrays: shards.Arrays
  tokenizer: bytes  # tokenizer.json
  chat_template: str | None
  special_tokens: dict[str, str]  # bos_token and so on


def read(path: epath.Path) -> Model:
  """Reads a file; takes a minute and sixteen times its bytes of memory.

  Raises:
    UserError: no such file, a package is missing, or it is no GGUF that
      transformers reads.
  """
  if not path.is_file() or files.is_remote(path):
    raise config_lib.UserError(f'{path}: no such local file.')
  try:
    import gguf
    import torch
    import transformers
  except ImportError as e:
    raise config_lib.UserError(
        f"{path}: needs the package {e.name}; pip install 'meta-cot[hf]' and "
        'torch.') from e
  try:
    reader = gguf.GGUFReader(path)
    place = dict(
        pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    settings = transformers.AutoConfig.from_pretrained(**place)
    if any(tensor.name == _READOUT for tensor in reader.tensors):
      settings.tie_word_embeddings = False  # it may be of another precision
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **place, config=settings, dtype=torch.float32)
  except (ValueError, OSError, KeyError, NotImplementedError) as e:
    raise config_lib.UserError(
        f'{path}: no GGUF file that transformers reads '
        f'({" ".join(str(e).split())[:200]}).') from e
  raw = model.config.to_dict()
  raw.pop('quantization_config', None)  # it is not quantised any more
  for name in ('eos', 'pad'):
    known = raw.get(f'{name}_token_id')
    raw[f'{name}_token_id'] = known if known is not None else getattr(
        tokenizer, f'{name}_token_id')
  field = reader.fields.get(_PRE)
  pre = field and field.contents()
  return Model(
      raw, shards.Arrays({
          name: x.numpy() for name, x in model.state_dict().items()}),
      _tokenizer(tokenizer.backend_tokenizer.to_str(), pre),
      tokenizer.chat_template, {
          name: str(token)
          for name, token in tokenizer.special_tokens_map.items()
          if isinstance(token, str)})


def _tokenizer(text: str, pre: str | None) -> bytes:
  """Puts back what splits digits."""
  raw = json.loads(text)
  if pre in _SINGLE_DIGITS and '"Digits"' not in text:
    digits = dict(type='Digits', individual_digits=True)
    before = raw['pre_tokenizer']
    raw['pre_tokenizer'] = dict(type='Sequence', pretokenizers=[
        digits, *(before['pretokenizers'] if before['type'] == 'Sequence'
                  else [before])])
  return json.dumps(raw, ensure_ascii=False).encode()
