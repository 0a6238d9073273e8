# SPDX-License-Identifier: Apache-2.0
"""Same weights, same logits as the transformers library, in float32."""

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from configs import models
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib

_SHAPE = dict(
    vocab_size=50, num_layers=3, embed_dim=24, num_heads=4, num_kv_heads=2,
    head_dim=8, mlp_dim=40, max_length=64, embed_scale=False,
    value_head='none')
_THEIR_SHAPE = dict(
    vocab_size=50, num_hidden_layers=3, hidden_size=24, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, intermediate_size=40,
    max_position_embeddings=64, attn_implementation='eager',
    pad_token_id=None, bos_token_id=None, eos_token_id=None)
_LLAMA3_ROPE = dict(
    rope_type='llama3', rope_theta=1000.0, factor=4.0, low_freq_factor=1.0,
    high_freq_factor=4.0, original_max_position_embeddings=32)
_OUR_LLAMA3_ROPE = {
    'rope.theta': 1000.0, 'rope.scaling_factor': 4.0,
    'rope.low_freq_factor': 1.0, 'rope.high_freq_factor': 4.0,
    'rope.original_max_length': 32}
_GEMMA = {
    'block.activation': 'gelu_tanh', 'block.norm_plus_one': True,
    'block.use_post_norms': True, 'embed_scale': True,
    'block.norm_epsilon': 1e-6, 'block.query_scale': 12 ** -0.5,
    'block.sliding_window': 4, 'block.sliding_window_pattern': 2}

CASES = {  # name: (their model, their config, their settings, our settings)
    'llama3': (
        transformers.LlamaForCausalLM, transformers.LlamaConfig,
        dict(rope_parameters=_LLAMA3_ROPE, rms_norm_eps=1e-5,
             tie_word_embeddings=False),
        _OUR_LLAMA3_ROPE | dict(tie_embeddings=False)),
    'llama_tied': (
        transformers.LlamaForCausalLM, transformers.LlamaConfig,
        dict(rms_norm_eps=1e-5, tie_word_embeddings=True), {}),
    'mistral': (
        transformers.MistralForCausalLM, transformers.MistralConfig,
        dict(rms_norm_eps=1e-5, tie_word_embeddings=True, sliding_window=4),
        {'block.sliding_window': 4}),
    'qwen2': (
        transformers.Qwen2ForCausalLM, transformers.Qwen2Config,
        dict(rms_norm_eps=1e-5, tie_word_embeddings=True, hidden_size=32),
        {'block.use_qkv_bias': True, 'embed_dim': 32}),
    'qwen3': (
        transformers.Qwen3ForCausalLM, transformers.Qwen3Config,
        dict(rms_norm_eps=1e-5, tie_word_embeddings=False),
        {'block.use_qk_norm': True, 'tie_embeddings': False}),
    'gemma2': (
        transformers.Gemma2ForCausalLM, transformers.Gemma2Config,
        dict(query_pre_attn_scalar=12, sliding_window=4,
             attn_logit_softcapping=2.0, final_logit_softcapping=1.5),
        _GEMMA | {'block.attention_softcap': 2.0, 'logit_softcap': 1.5}),
    'gemma3': (
        transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig,
        dict(query_pre_attn_scalar=12, sliding_window=4, layer_types=[
            'sliding_attention', 'full_attention', 'sliding_attention'],
             rope_parameters={
                 'full_attention': dict(
                     rope_type='linear', rope_theta=1000.0, factor=8.0),
                 'sliding_attention': dict(
                     rope_type='default', rope_theta=100.0)}),
        _GEMMA | {
            'block.use_qk_norm': True, 'rope.theta': 1000.0,
            'rope.local_theta': 100.0, 'rope.scaling_factor': 8.0}),
}


def _from_torch(config, weights):
  """Weights of their model, by name, as our parameter tree."""
  d, h, k, dh = (config.embed_dim, config.num_heads, config.num_kv_heads,
                 config.head_dim)
  post = config.block.use_post_norms

  def stack(name, shape=None):
    each = [weights[f'model.layers.{i}.{name}']
            for i in range(config.num_layers)]
    return np.stack([x if shape is None else x.T.reshape(shape) for x in each])

  def project(name, shape, bias_shape=None):
    kernel = {'kernel': stack(f'{name}.weight', shape)}
    if bias_shape is None or not config.block.use_qkv_bias:
      return kernel
    return kernel | {'bias': stack(f'{name}.bias', bias_shape)}

  norm = lambda name: {'scale': stack(f'{name}.weight')}
  heads = dict(q_proj=h, k_proj=k, v_proj=k)
  layers = {
      'attention': {
          name: project(f'self_attn.{name}', (d, n, dh), (n, dh))
          for name, n in heads.items()
      } | {'o_proj': project('self_attn.o_proj', (h, dh, d))},
      'mlp': {
          name: project(f'mlp.{name}', shape) for name, shape in (
              ('gate_proj', (d, config.mlp_dim)),
              ('up_proj', (d, config.mlp_dim)),
              ('down_proj', (config.mlp_dim, d)))},
      'attention_norm': norm('input_layernorm'),
      'mlp_norm': norm(
          'pre_feedforward_layernorm' if post else 'post_attention_layernorm'),
  }
  if post:
    layers['attention_post_norm'] = norm('post_attention_layernorm')
    layers['mlp_post_norm'] = norm('post_feedforward_layernorm')
  if config.block.use_qk_norm:
    layers['attention'] |= {
        n: norm(f'self_attn.{n}') for n in ('q_norm', 'k_norm')}
  embedder = {'embedding': weights['model.embed_tokens.weight']}
  if not config.tie_embeddings:
    embedder['readout'] = weights['lm_head.weight'].T
  return jax.tree.map(jnp.asarray, {
      'embedder': embedder, 'layers': layers,
      'final_norm': {'scale': weights['model.norm.weight']}})


def _their_model(name):
  model_type, config_type, settings, _ = CASES[name]
  torch.manual_seed(0)
  model = model_type(config_type(**_THEIR_SHAPE | settings)).eval()
  with torch.no_grad():
    for weight in model.parameters():
      weight.add_(torch.randn_like(weight) * 0.15)
  return model


def _our_config(name):
  return config_lib.parse(
      model_config.ModelConfig,
      models.get('tiny') | _SHAPE | CASES[name][3] | {
          'execution.layer_loop': 'scan'})


@pytest.mark.parametrize('name', CASES)
def test_logits_equal_those_of_transformers(name):
  theirs = _their_model(name)
  tokens_BxL = np.random.default_rng(0).integers(0, 50, (2, 12))
  with torch.no_grad():
    want_BxLxV = theirs(torch.tensor(tokens_BxL)).logits.numpy()
  weights = {k: v.numpy() for k, v in theirs.state_dict().items()}
  params = _from_torch(_our_config(name), weights)
  tokens_BxL = jnp.asarray(tokens_BxL)
  positions_BxL = jnp.broadcast_to(jnp.arange(12), (2, 12))
  assert np.abs(want_BxLxV).max() > 0.5
  config = _our_config(name)
  shapes = jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
      jnp.shape, meta.unbox(shapes))
  output = jax.jit(transformer.forward, static_argnums=0)(
      config, params, tokens_BxL)
  np.testing.assert_allclose(output.logits, want_BxLxV, atol=1e-4)
  decode = jax.jit(transformer.decode, static_argnums=0)
  cache, logits = cache_lib.create(config, 2, 14), []
  for start in range(0, 12, 4):
    output = decode(
        config, params, tokens_BxL[:, start:start + 4], cache,
        positions_BxL=positions_BxL[:, start:start + 4])
    cache = output.cache
    logits.append(output.logits)
  np.testing.assert_allclose(np.concatenate(logits, 1), want_BxLxV, atol=1e-4)
