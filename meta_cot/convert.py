# SPDX-License-Identifier: Apache-2.0
"""Brings pretrained models in, and policies out.

  python -m meta_cot.convert import --source=DIR|FILE.gguf
      --output=POLICY_FOLDER [--style=free_text] [--prompt=text]
      [--control=NAME,...] [--dtype=float32]
  python -m meta_cot.convert export --policy=POLICY_FOLDER --output=DIR
      [--dtype=...]

DIR has config.json, tokenizer.json and safetensors, as Hugging Face has them:
Llama 2 and 3, SmolLM2, Mistral, Qwen 2.5 and 3, Gemma 2 and 3 (text). A policy
folder is what stages train; either may be in a bucket. `--prompt` says how
questions are put: text, or chat (as the checkpoint's chat template has what a
user says). `--control` names control tokens that the vocabulary is given, for
settings such as `rl.episodes.reset`. `--dtype` is that of the parameters
(float32, bfloat16); of an export by default the one that was imported, so that
it gives back the same bits.
"""

from collections.abc import Mapping, Sequence
import json
import logging
from typing import Any

from etils import epath
import jax

from data_pipelines import tokenizers
from data_pipelines.tokenizers import controls
from data_pipelines.tokenizers import huggingface
from data_pipelines.tokenizers import templates
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model.pretrained import families
from meta_cot.model.pretrained import gguf
from meta_cot.model.pretrained import shards
from meta_cot.model.pretrained import vocabulary
from meta_cot.runtime import files
from meta_cot.settings import command_line
from meta_cot.settings import config as config_lib
from meta_cot.traces import format as format_lib
from meta_cot.training import checkpoint
from meta_cot.training import policy as policy_lib

_DTYPES = ('float32', 'bfloat16')
_EXECUTION = dict(
    layer_loop='scan', remat='none', attention='auto', compute_dtype='auto')
_CONFIG = 'config.json'
# Of the source, kept beside the tokenizer and exported again.
_BESIDE = ('generation_config.json', huggingface.SETTINGS,
           templates.FILE, 'special_tokens_map.json')


def main(argv: Sequence[str]) -> None:
  """Runs one subcommand.

  Raises:
    UserError: wrong usage, or a checkpoint that cannot be expressed.
  """
  commands = dict(zip(('import', 'export'), (_import, _export), strict=True))
  if not argv or argv[0] not in commands:
    received = repr(argv[0]) if argv else 'nothing'
    raise config_lib.UserError(
        f'subcommand: got {received}; must be import or export, as in python '
        '-m meta_cot.convert import --source=DIR --output=POLICY_FOLDER')
  flags, _ = command_line.split(
      argv[1:], ('source', 'policy', 'output', 'style', 'prompt', 'control',
                 'dtype'))
  if flags.get('prompt', 'text') not in huggingface.PROMPTS:
    raise config_lib.UserError(
        f'--prompt: got {flags["prompt"]!r}; must be '
        f'{" or ".join(huggingface.PROMPTS)}.')
  if flags.get('dtype', _DTYPES[0]) not in _DTYPES:
    raise config_lib.UserError(
        f'--dtype: got {flags["dtype"]!r}; must be {" or ".join(_DTYPES)}.')
  with files.named_errors():
    commands[argv[0]](flags)


def _import(flags: Mapping[str, str]) -> None:
  source = files.path(command_line.required(flags, 'source'))
  output = files.path(command_line.required(flags, 'output'))
  style = flags.get('style', 'free_text')
  if style not in format_lib.STYLES:
    raise config_lib.UserError(
        f'--style: got {style!r}; must be one of '
        f'{", ".join(format_lib.STYLES)}.')
  _check_free(output, policy_lib.NAME)
  import_checkpoint(
      source, output, style=style, prompt=flags.get('prompt', 'text'),
      control=flags['control'].split(',') if 'control' in flags else (),
      dtype=flags.get('dtype', _DTYPES[0]))


def import_checkpoint(
    source: epath.Path, output: epath.Path, *, style: str, prompt: str,
    dtype: str, control: Sequence[str] = (),
) -> None:
  """Makes a policy folder of a checkpoint's folder, or of a GGUF file.

  Raises:
    UserError: the checkpoint cannot be expressed; names the field or file.
  """
  if source.suffix == gguf.SUFFIX:
    _import_gguf(source, output, style, prompt, control, dtype)
    return
  if not (source / _CONFIG).is_file():
    raise config_lib.UserError(
        f'{source / _CONFIG}: no such file; --source must be the folder of a '
        'checkpoint.')
  raw = files.read_json(source / _CONFIG)
  raw = raw.get('text_config', raw)
  tokenizer = huggingface.of_checkpoint(source, prompt, control)
  with shards.opened(source) as arrays:
    model, params = _load(raw, arrays, dtype, tokenizer if control else None)
  for name in _BESIDE:
    if (source / name).is_file():
      files.write_atomic(
          output / policy_lib.ORIGINAL / name, (source / name).read_bytes())
  told = output / policy_lib.ORIGINAL / huggingface.SETTINGS
  if control and told.is_file():
    files.write_json(told, controls.named(
        files.read_json(told),
        {name: tokenizer.control_ids[name] for name in control}))
  write(output, model, params, tokenizer, style, dict(
      imported=raw.get('torch_dtype') or raw.get('dtype') or 'float32',
      model_type=raw['model_type']))


def _import_gguf(
    source: epath.Path, output: epath.Path, style: str, prompt: str,
    control: Sequence[str], dtype: str,
) -> None:
  found = gguf.read(source)
  ends, pad = (found.config[f'{name}_token_id'] for name in ('eos', 'pad'))
  ends = tuple(ends) if isinstance(ends, list) else (ends,)
  template = found.chat_template and templates.Template(
      found.chat_template, found.special_tokens)
  try:
    tokenizer = huggingface.of_parts(
        controls.add(found.tokenizer, control),
        ends[0] if pad is None else pad, ends, prompt, template)
  except ValueError as e:
    raise config_lib.UserError(f'{source}: {e}.') from e
  model, params = _load(
      found.config, found.arrays, dtype, tokenizer if control else None)
  if template:
    files.write_atomic(
        output / policy_lib.ORIGINAL / templates.FILE, template.text)
  write(output, model, params, tokenizer, style, dict(
      imported='float32', model_type=found.config['model_type']))


def _load(
    raw: Mapping[str, Any], arrays: shards.Source, dtype: str,
    tokenizer: tokenizers.Tokenizer | None,
) -> tuple[model_config.ModelConfig, types.Params]:
  """Makes the model of a config, and its parameters.

  Those of all tokens, where a tokenizer is given.
  """
  execution = model_config.ExecutionConfig(**_EXECUTION, param_dtype=dtype)
  if not shards.is_tied(arrays):
    raw = {**raw, 'tie_word_embeddings': False}
  model = families.to_model(raw, execution)
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 1))
  params = shards.load(arrays, model, policy_lib.abstract(model, mesh))
  if tokenizer is None:
    return model, params
  return vocabulary.grown(model, params, tokenizer.vocab_size)


def write(
    output: epath.Path, model: model_config.ModelConfig, params: Any,
    tokenizer: tokenizers.Tokenizer, style: str, about: Mapping[str, Any],
) -> None:
  """Writes a policy folder; policy.json comes last."""
  # One array after the other: nothing goes on meanwhile.
  largest = max(
      shard.data.nbytes for x in jax.tree.leaves(params)
      for shard in x.addressable_shards)
  saved = checkpoint.Checkpoints(
      output / 'checkpoints', None, host_bytes=largest + 1)
  saved.save_params(params, tokenizer=tokenizer.fingerprint)
  saved.close()
  policy_lib.write(output, model, tokenizer, style, about)
  logging.info('%s: %s, %d parameters, %d tokens', output,
               about['model_type'], model.num_params(), tokenizer.vocab_size)


def _export(flags: Mapping[str, str]) -> None:
  policy = policy_lib.read(files.path(command_line.required(flags, 'policy')))
  output = files.path(command_line.required(flags, 'output'))
  _check_free(output, _CONFIG)
  raw = families.to_theirs(policy.model)
  dtype = flags.get('dtype', policy.about.get('imported', 'float32'))
  tokenizer = policy.tokenizer()
  if not isinstance(tokenizer, huggingface.Tokenizer):
    raise config_lib.UserError(
        f'{policy.directory}: its tokenizer is not one of a checkpoint, and '
        'cannot be exported.')
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.local_devices()[:1])
  shards.write(output, shards.arrays(policy.model, policy.params(mesh), dtype))
  for path in files.matching(policy.directory / policy_lib.ORIGINAL, '*'):
    files.write_atomic(output / path.name, path.read_bytes())
  files.write_atomic(output / huggingface.FILE, tokenizer.data)
  ends = list(tokenizer.eos_ids)
  files.write_atomic(output / _CONFIG, json.dumps({
      **raw, 'torch_dtype': dtype, 'pad_token_id': tokenizer.pad_id,
      'eos_token_id': ends if len(ends) > 1 else ends[0]}, indent=1))
  logging.info('%s: %s, %s', output, raw['model_type'], dtype)


def _check_free(output: epath.Path, name: str) -> None:
  if (output / name).exists():
    raise config_lib.UserError(
        f'--output: {output / name} is there already; use another folder, or '
        'delete it.')


if __name__ == '__main__':
  logging.basicConfig(level=logging.INFO, format='%(message)s')
  command_line.run(main, __doc__)
