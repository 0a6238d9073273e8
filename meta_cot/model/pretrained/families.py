# SPDX-License-Identifier: Apache-2.0
"""Families of pretrained models: their config.json <-> `ModelConfig`.

Every field of a config is used, known to have no effect here, or refused by its
name: no model is imported as another one.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from meta_cot.model import config as model_config
from meta_cot.settings import config as config_lib

# Fields that change nothing of the numbers of a forward pass.
_WITHOUT_EFFECT = frozenset((
    '_name_or_path _model_name_or_path _attn_implementation architectures '
    'attention_dropout '
    'attn_implementation bos_token_id cache_implementation dtype eos_token_id '
    'hidden_dropout initializer_range is_llama_config mlp_dropout '
    'output_attentions output_hidden_states pad_token_id pretraining_tp '
    'return_dict rope_interleaved torch_dtype transformers.js_config '
    'transformers_version use_cache chunk_size_feed_forward id2label label2id '
    'is_encoder_decoder problem_type unk_token_id').split())
# Fields that must have one value.
_FIXED = {
    'attention_bias': (False, None), 'mlp_bias': (False, None),
    'use_bidirectional_attention': (False, None),
    'attn_logit_softcapping': (None,), 'final_logit_softcapping': (None,)}
_ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}


@dataclasses.dataclass(frozen=True)
class Family:
  """What one value of `model_type` means."""

  architecture: str
  block: Mapping[str, Any]  # fields of BlockConfig that all of it have
  embed_scale: bool = False
  # Window of a config: (positions or None, every n-th layer is global or None).
  window: Callable[[Mapping[str, Any]], tuple[int | None, int | None]] = (
      lambda raw: (None, None))
  fields: frozenset[str] = frozenset()  # of the config, used or without effect
  tie_embeddings: bool = False  # where the config does not say


def _layers(raw: Mapping[str, Any]) -> tuple[int | None, int | None]:
  """Window and pattern of Gemma and of Qwen."""
  types = raw.get('layer_types') or []
  window = raw.get('sliding_window')
  if 'layer_types' in raw:
    places = [i for i, kind in enumerate(types) if kind == 'full_attention']
    if len(places) == len(types):
      return None, None
    if not places:
      return window, None
    pattern = places[0] + 1
    if pattern < 2 or places != [*range(places[0], len(types), pattern)]:
      raise ValueError(
          f'layer_types: got {types}; must be every n-th full_attention, or '
          'one kind')
    return window, pattern
  return window, raw.get('sliding_window_pattern') or raw.get(
      '_sliding_window_pattern')


def _qwen_window(raw: Mapping[str, Any]) -> tuple[int | None, int | None]:
  return _layers(raw) if raw.get('use_sliding_window') else (None, None)


_GEMMA = dict(norm_plus_one=True, use_post_norms=True)
_WINDOW_FIELDS = frozenset((
    'sliding_window', 'layer_types', 'sliding_window_pattern',
    '_sliding_window_pattern'))
_QWEN_FIELDS = _WINDOW_FIELDS | {'use_sliding_window', 'max_window_layers'}
FAMILIES = {
    'llama': Family('LlamaForCausalLM', {}),
    'mistral': Family(
        'MistralForCausalLM', {},
        window=lambda raw: (raw.get('sliding_window'), None),
        fields=frozenset(('sliding_window',))),
    'qwen2': Family(
        'Qwen2ForCausalLM', dict(use_qkv_bias=True), window=_qwen_window,
        fields=_QWEN_FIELDS),
    'qwen3': Family(
        'Qwen3ForCausalLM', dict(use_qk_norm=True), window=_qwen_window,
        fields=_QWEN_FIELDS),
    'gemma2': Family(
        'Gemma2ForCausalLM', _GEMMA, embed_scale=True, tie_embeddings=True,
        window=lambda raw: _layers({'sliding_window_pattern': 2, **raw}),
        fields=_WINDOW_FIELDS | {
            'query_pre_attn_scalar', 'attn_logit_softcapping',
            'final_logit_softcapping', 'hidden_activation'}),
    'gemma3_text': Family(
        'Gemma3ForCausalLM', _GEMMA | dict(use_qk_norm=True), embed_scale=True,
        tie_embeddings=True,
        window=lambda raw: _layers({'sliding_window_pattern': 6, **raw}),
        fields=_WINDOW_FIELDS | {
            'query_pre_attn_scalar', 'hidden_activation',
            'rope_local_base_freq'}),
}
_SHAPES = {  # ours -> theirs
    'vocab_size': 'vocab_size', 'num_layers': 'num_hidden_layers',
    'embed_dim': 'hidden_size', 'num_heads': 'num_attention_heads',
    'mlp_dim': 'intermediate_size', 'max_length': 'max_position_embeddings'}
_USED = frozenset((
    'model_type num_key_value_heads head_dim rms_norm_eps hidden_act '
    'tie_word_embeddings rope_theta rope_scaling rope_parameters').split())


def family_of(raw: Mapping[str, Any]) -> Family:
  """Finds the family of a config.json.

  Raises:
    UserError: it is none of ours.
  """
  kind = raw.get('model_type')
  if kind not in FAMILIES:
    raise config_lib.UserError(
        f'model_type: got {kind!r}; must be one of {", ".join(FAMILIES)}.')
  return FAMILIES[kind]


def to_model(
    raw: Mapping[str, Any], execution: model_config.ExecutionConfig,
    value_head: str = 'shared',
) -> model_config.ModelConfig:
  """Makes the model that a config.json describes.

  Args:
    raw: the object in the file; of Gemma 3 with images its `text_config`.
    execution: how the model runs, which the file does not say.
    value_head: of the model; its parameters are not in a checkpoint.

  Raises:
    UserError: a field that cannot be expressed here; names it.
  """
  family = family_of(raw)
  try:
    _refuse_unknown(raw, family)
    window, pattern = family.window(raw)
    heads = raw['num_attention_heads']
    head_dim = raw.get('head_dim') or raw['hidden_size'] // heads
    scalar = raw.get('query_pre_attn_scalar')
    scale = None if scalar is None else scalar**-0.5
    activation = raw.get('hidden_activation') or raw.get('hidden_act', 'silu')
    if activation not in _ACTIVATIONS:
      raise ValueError(
          f'hidden_act: got {activation!r}; must be one of '
          f'{", ".join(_ACTIVATIONS)}')
    theta, local_theta, scaling = _rope(raw, window)
    return model_config.ModelConfig(
        **{ours: raw[theirs] for ours, theirs in _SHAPES.items()},
        num_kv_heads=raw.get('num_key_value_heads') or heads,
        head_dim=head_dim, embed_scale=family.embed_scale,
        tie_embeddings=raw.get('tie_word_embeddings', family.tie_embeddings),
        logit_softcap=raw.get('final_logit_softcapping'),
        value_head=value_head, execution=execution,
        rope=model_config.RopeConfig(
            theta=theta, local_theta=local_theta, **scaling),
        block=model_config.BlockConfig(**{**dict(
            activation=_ACTIVATIONS[activation],
            norm_epsilon=raw.get('rms_norm_eps', 1e-6), norm_plus_one=False,
            use_post_norms=False, use_qk_norm=False, use_qkv_bias=False,
            query_scale=None if scale == head_dim**-0.5 else scale,
            attention_softcap=raw.get('attn_logit_softcapping'),
            sliding_window=window, sliding_window_pattern=pattern),
            **family.block}))
  except KeyError as e:
    raise config_lib.UserError(f'config.json: no field {e}.') from e
  except ValueError as e:
    raise config_lib.UserError(f'config.json: {e}.') from e


def _refuse_unknown(raw: Mapping[str, Any], family: Family) -> None:
  for name, value in raw.items():
    if name in _WITHOUT_EFFECT or name in _USED or name in family.fields or (
        name in _SHAPES.values()):
      continue
    if name not in _FIXED:
      raise ValueError(
          f'{name}: got {value!r:.60}; this field of {raw["model_type"]} is '
          'not known here')
    if value not in _FIXED[name]:
      raise ValueError(f'{name}: got {value!r:.60}; must be '
                       f'{" or ".join(map(repr, _FIXED[name]))}')


def _rope(
    raw: Mapping[str, Any], window: int | None
) -> tuple[float, float | None, dict[str, Any]]:
  """Theta, that of windowed layers, and the scaling, of both ways to say it."""
  told = raw.get('rope_parameters') or {}
  theta, local = raw.get('rope_theta'), raw.get('rope_local_base_freq')
  scaling = raw.get('rope_scaling') or {}
  if 'full_attention' in told:
    local = told.get('sliding_attention', {}).get('rope_theta', local)
    told = told['full_attention']
  if told:
    scaling, theta = told, told.get('rope_theta', theta)
  if theta is None:
    theta = 1_000_000.0 if raw['model_type'] == 'gemma3_text' else 10_000.0
  if raw['model_type'] == 'gemma3_text' and local is None:
    local = 10_000.0
  kind = scaling.get('rope_type', scaling.get('type', 'default'))
  names = dict.fromkeys((
      'scaling_factor', 'low_freq_factor', 'high_freq_factor',
      'original_max_length'))
  if kind in ('linear', 'llama3'):
    names['scaling_factor'] = scaling['factor']
  if kind == 'llama3':
    names |= dict(
        low_freq_factor=scaling['low_freq_factor'],
        high_freq_factor=scaling['high_freq_factor'],
        original_max_length=scaling['original_max_position_embeddings'])
  elif kind not in ('default', 'linear'):
    raise ValueError(
        f'rope_scaling: got {kind!r}; must be default, linear or llama3')
  return theta, local if window is not None else None, names


def to_theirs(model: model_config.ModelConfig) -> dict[str, Any]:
  """Writes the config.json of a model, of the family that expresses it.

  Raises:
    UserError: no family does; names what stands in the way.
  """
  kind = _kind_of(model)
  block, rope = model.block, model.rope
  raw = {
      'model_type': kind, 'architectures': [FAMILIES[kind].architecture],
      **{theirs: getattr(model, ours) for ours, theirs in _SHAPES.items()},
      'num_key_value_heads': model.num_kv_heads, 'head_dim': model.head_dim,
      'rms_norm_eps': block.norm_epsilon,
      'tie_word_embeddings': model.tie_embeddings,
      'torch_dtype': model.execution.param_dtype}
  activation = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}[
      block.activation]
  scaling = _scaling(rope)
  if kind.startswith('gemma'):
    raw |= {
        'hidden_activation': activation,
        'query_pre_attn_scalar': round(model.attention_scale**-2),
        'sliding_window': block.sliding_window,
        'layer_types': [
            'full_attention' if model.is_global(i) else 'sliding_attention'
            for i in range(model.num_layers)]}
  else:
    raw['hidden_act'] = activation
  if kind == 'gemma2':
    raw |= {'attn_logit_softcapping': block.attention_softcap,
            'final_logit_softcapping': model.logit_softcap}
  if kind == 'gemma3_text':
    raw['rope_parameters'] = {
        'full_attention': {**scaling, 'rope_theta': rope.theta},
        'sliding_attention': {
            'rope_type': 'default', 'rope_theta': rope.local_theta}}
    return raw
  if kind == 'mistral':
    raw['sliding_window'] = block.sliding_window
  if kind.startswith('qwen'):
    raw['use_sliding_window'] = False
  return raw | {'rope_parameters': {**scaling, 'rope_theta': rope.theta}}


def _scaling(rope: model_config.RopeConfig) -> dict[str, Any]:
  if rope.scaling_factor is None:
    return dict(rope_type='default')
  if rope.low_freq_factor is None:
    return dict(rope_type='linear', factor=rope.scaling_factor)
  return dict(
      rope_type='llama3', factor=rope.scaling_factor,
      low_freq_factor=rope.low_freq_factor,
      high_freq_factor=rope.high_freq_factor,
      original_max_position_embeddings=rope.original_max_length)


def _kind_of(model: model_config.ModelConfig) -> str:
  """The family whose blocks these are, tried in turn."""
  block = model.block
  fixed = dict.fromkeys(
      ('norm_plus_one', 'use_post_norms', 'use_qk_norm', 'use_qkv_bias'), False)
  for kind, family in FAMILIES.items():
    is_gemma, is_mistral = kind.startswith('gemma'), kind == 'mistral'
    if family.embed_scale == model.embed_scale and all(
        getattr(block, name) == value
        for name, value in {**fixed, **family.block}.items()) and (
            is_gemma or is_mistral or block.sliding_window is None) and (
                kind != 'llama' or block.sliding_window is None) and (
                    is_gemma or block.query_scale is None) and (
                        kind == 'gemma2' or (
                            block.attention_softcap is None
                            and model.logit_softcap is None)):
      return kind
  raise config_lib.UserError(
      'the model is none of '
      f'{", ".join(FAMILIES)}: embed_scale {model.embed_scale}, '
      + ', '.join(f'{name} {getattr(block, name)}' for name in (
          *fixed, 'sliding_window', 'query_scale', 'attention_softcap')) + '.')
