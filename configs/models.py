# SPDX-License-Identifier: Apache-2.0
"""Named model settings, to load into an experiment:

  c.model.update_from_flattened_dict(
      models.get('llama31_8b') | {'max_length': 4096})

Released checkpoints have their published shapes, read from their model cards'
`config.json`; `tiny`, `small` and `sos_250m` are ours.
"""

import difflib
from typing import Any

_LLAMA = {
    'max_length': 1024, 'tie_embeddings': True, 'embed_scale': False,
    'logit_softcap': None, 'value_head': 'shared',
    'rope.theta': 10_000.0, 'rope.local_theta': None,
    'rope.scaling_factor': None, 'rope.low_freq_factor': None,
    'rope.high_freq_factor': None, 'rope.original_max_length': None,
    'block.activation': 'silu', 'block.norm_epsilon': 1e-5,
    'block.norm_plus_one': False, 'block.use_post_norms': False,
    'block.use_qk_norm': False, 'block.use_qkv_bias': False,
    'block.query_scale': None, 'block.attention_softcap': None,
    'block.sliding_window': None, 'block.sliding_window_pattern': None,
    'execution.layer_loop': 'unroll', 'execution.remat': 'none',
    'execution.attention': 'auto', 'execution.compute_dtype': 'auto',
    'execution.param_dtype': 'float32',
}
_LARGE = {'execution.layer_loop': 'scan', 'execution.remat': 'full'}
_LLAMA3 = _LLAMA | _LARGE | {
    'vocab_size': 128_256, 'max_length': 131_072, 'rope.theta': 500_000.0,
    'rope.low_freq_factor': 1.0, 'rope.high_freq_factor': 4.0,
    'rope.original_max_length': 8192,
}
_GEMMA3 = _LLAMA | _LARGE | {
    'vocab_size': 262_144, 'max_length': 32_768, 'embed_scale': True,
    'rope.theta': 1_000_000.0, 'rope.local_theta': 10_000.0,
    'block.activation': 'gelu_tanh', 'block.norm_epsilon': 1e-6,
    'block.norm_plus_one': True, 'block.use_post_norms': True,
    'block.use_qk_norm': True, 'block.query_scale': 256 ** -0.5,
    'block.sliding_window': 512, 'block.sliding_window_pattern': 6,
}

MODELS = {
    # 0.45 M with 75 tokens: learns three-number Countdown on a laptop.
    'tiny': _LLAMA | dict(
        vocab_size=128, num_layers=4, embed_dim=96, num_heads=4,
        num_kv_heads=4, head_dim=24, mlp_dim=256, max_length=512,
        embed_scale=True),  # tied embeddings learn twice as fast with it
    # 5 M: the size of the CPU benchmarks.
    'small': _LLAMA | dict(
        vocab_size=512, num_layers=6, embed_dim=256, num_heads=8,
        num_kv_heads=4, head_dim=32, mlp_dim=768),
    # The 250 M of Stream of Search (arXiv 2404.03683), with gated MLPs.
    'sos_250m': _LLAMA | _LARGE | dict(
        vocab_size=50_304, num_layers=16, embed_dim=1024, num_heads=16,
        num_kv_heads=16, head_dim=64, mlp_dim=2816, max_length=4096,
    ) | {'execution.remat': 'dots'},
    'smollm2_135m': _LLAMA | _LARGE | dict(
        vocab_size=49_152, num_layers=30, embed_dim=576, num_heads=9,
        num_kv_heads=3, head_dim=64, mlp_dim=1536, max_length=8192,
    ) | {'rope.theta': 100_000.0},
    'qwen3_0_6b': _LLAMA | _LARGE | dict(
        vocab_size=151_936, num_layers=28, embed_dim=1024, num_heads=16,
        num_kv_heads=8, head_dim=128, mlp_dim=3072, max_length=40_960,
    ) | {
        'rope.theta': 1_000_000.0, 'block.norm_epsilon': 1e-6,
        'block.use_qk_norm': True},
    'qwen25_0_5b': _LLAMA | _LARGE | dict(
        vocab_size=151_936, num_layers=24, embed_dim=896, num_heads=14,
        num_kv_heads=2, head_dim=64, mlp_dim=4864, max_length=32_768,
    ) | {
        'rope.theta': 1_000_000.0, 'block.norm_epsilon': 1e-6,
        'block.use_qkv_bias': True},
    'gemma3_270m': _GEMMA3 | dict(
        num_layers=18, embed_dim=640, num_heads=4, num_kv_heads=1,
        head_dim=256, mlp_dim=2048),
    'gemma3_1b': _GEMMA3 | dict(
        num_layers=26, embed_dim=1152, num_heads=4, num_kv_heads=1,
        head_dim=256, mlp_dim=6912),
    # Without its images; 64 rows of the table are theirs.
    'gemma3_27b': _GEMMA3 | dict(
        vocab_size=262_208, num_layers=62, embed_dim=5376, num_heads=32,
        num_kv_heads=16, head_dim=128, mlp_dim=21_504, max_length=131_072,
    ) | {
        'rope.scaling_factor': 8.0, 'block.query_scale': 168 ** -0.5,
        'block.sliding_window': 1024},
    'llama32_1b': _LLAMA3 | dict(
        num_layers=16, embed_dim=2048, num_heads=32, num_kv_heads=8,
        head_dim=64, mlp_dim=8192) | {'rope.scaling_factor': 32.0},
    'llama31_8b': _LLAMA3 | dict(
        num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8,
        head_dim=128, mlp_dim=14_336, tie_embeddings=False,
    ) | {'rope.scaling_factor': 8.0},
    'llama31_70b': _LLAMA3 | dict(
        num_layers=80, embed_dim=8192, num_heads=64, num_kv_heads=8,
        head_dim=128, mlp_dim=28_672, tie_embeddings=False,
    ) | {'rope.scaling_factor': 8.0},
}


def get(name: str) -> dict[str, Any]:
  """A fresh flat dict of all of `ModelConfig`: 'embed_dim', 'rope.theta'.

  Raises:
    ValueError: no such model; lists the names.
  """
  if name not in MODELS:
    near = difflib.get_close_matches(name, MODELS, n=1)
    hint = f'did you mean {near[0]!r}? ' if near else ''
    raise ValueError(
        f'model: got {name!r}; {hint}'
        f'must be one of {", ".join(map(repr, MODELS))}.')
  return dict(MODELS[name])
