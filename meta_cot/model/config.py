# SPDX-License-Identifier: Apache-2.0
"""Settings of a decoder-only transformer: Llama, Qwen, Gemma and kin."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from meta_cot.settings import config as config_lib

_setting = config_lib.setting
_BANDS = ('low_freq_factor', 'high_freq_factor', 'original_max_length')


@dataclasses.dataclass(frozen=True)
class RopeConfig:
  """Rotary position embeddings, with the scalings of Llama 3 and Gemma 3."""

  theta: float = _setting(above=0)
  local_theta: float | None = _setting(above=0)  # of windowed layers
  scaling_factor: float | None = _setting(low=1)
  low_freq_factor: float | None = _setting(above=0)  # None: linear scaling
  high_freq_factor: float | None = _setting(above=0)
  original_max_length: int | None = _setting(low=1)

  def __post_init__(self):
    bands = {name: getattr(self, name) for name in _BANDS}
    are_all_none = set(bands.values()) == {None}
    for name, value in bands.items():
      _require(
          value is None or self.scaling_factor is not None, name, value,
          'None where scaling_factor is None')
      _require(
          value is not None or are_all_none, name, value,
          f'set with the other two of {", ".join(_BANDS)}')
    _require(
        are_all_none or self.high_freq_factor > self.low_freq_factor,
        'high_freq_factor', self.high_freq_factor,
        f'greater than low_freq_factor, {self.low_freq_factor}')


@dataclasses.dataclass(frozen=True)
class BlockConfig:
  """What the layers of a family do; `None` switches an optional part off."""

  activation: str = _setting(choices=('silu', 'gelu_tanh'))
  norm_epsilon: float = _setting(above=0)
  norm_plus_one: bool = _setting()  # scale by 1 + w (Gemma) instead of w
  use_post_norms: bool = _setting()  # norm after attention and MLP (Gemma)
  use_qk_norm: bool = _setting()  # norm of queries and keys (Qwen 3, Gemma 3)
  use_qkv_bias: bool = _setting()  # Qwen 2 and 2.5
  query_scale: float | None = _setting(above=0)  # None: head_dim ** -0.5
  attention_softcap: float | None = _setting(above=0)
  sliding_window: int | None = _setting(low=1)  # positions, own one included
  sliding_window_pattern: int | None = _setting(low=2)  # every n-th is global

  def __post_init__(self):
    pattern = self.sliding_window_pattern
    _require(
        pattern is None or self.sliding_window is not None,
        'sliding_window_pattern', pattern,
        'None where sliding_window is None')


@dataclasses.dataclass(frozen=True)
class ExecutionConfig:
  """How a model runs: the same parameters and numbers, another program."""

  layer_loop: str = _setting(choices=('scan', 'unroll'), is_free=True)
  remat: str = _setting(
      choices=('none', 'dots', 'outputs', 'full', 'attention'), is_free=True)
  attention: str = _setting(
      choices=('auto', 'dense', 'splash', 'cudnn'), is_free=True)
  compute_dtype: str = _setting(choices=('auto', 'float32', 'bfloat16'))
  param_dtype: str = _setting(choices=('float32', 'bfloat16'))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and options of a model; hashable, so it can be a static argument."""

  vocab_size: int = _setting(low=1)
  num_layers: int = _setting(low=1)
  embed_dim: int = _setting(low=1)
  num_heads: int = _setting(low=1)
  num_kv_heads: int = _setting(low=1)  # divides num_heads
  head_dim: int = _setting(low=2)  # even
  mlp_dim: int = _setting(low=1)
  max_length: int = _setting(low=1)  # positions 0 .. max_length - 1
  tie_embeddings: bool = _setting()
  embed_scale: bool = _setting()  # embeddings times sqrt(embed_dim) (Gemma)
  logit_softcap: float | None = _setting(above=0)
  value_head: str = _setting(choices=('shared', 'none'))  # shared: same trunk
  rope: RopeConfig
  block: BlockConfig
  execution: ExecutionConfig

  def __post_init__(self):
    _require(
        self.num_heads % self.num_kv_heads == 0, 'num_heads', self.num_heads,
        f'a multiple of num_kv_heads, {self.num_kv_heads}')
    _require(
        self.head_dim % 2 == 0, 'head_dim', self.head_dim, 'even, for RoPE')
    _require(
        self.rope.local_theta is None or self.block.sliding_window is not None,
        'rope.local_theta', self.rope.local_theta,
        'None where block.sliding_window is None')

  def is_global(self, layer: int) -> bool:
    """Whether layer `layer`, counted from 0, sees beyond the window, if any.

    With pattern n it is every n-th layer (n - 1, 2n - 1, ...); without, none
    (Mistral).
    """
    window, pattern = (
        self.block.sliding_window, self.block.sliding_window_pattern)
    return window is None or (
        pattern is not None and (layer + 1) % pattern == 0)

  @property
  def dtype(self) -> jnp.dtype:
    """Type of matrix products; 'auto' is bfloat16 except on the CPU.

    'auto' asks for the default backend: to compile for another platform than
    the one at hand, name the type.
    """
    name = self.execution.compute_dtype
    if name == 'auto':
      name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return jnp.dtype(name)

  @property
  def attention_scale(self) -> float:
    """What scores of queries and keys are multiplied by."""
    scale = self.block.query_scale
    return self.head_dim ** -0.5 if scale is None else scale

  def num_params(self) -> int:
    """Number of parameters, value head included."""
    d, dh, h, k = (
        self.embed_dim, self.head_dim, self.num_heads, self.num_kv_heads)
    block = d * dh * (2 * h + 2 * k) + 3 * d * self.mlp_dim
    block += d * (4 if self.block.use_post_norms else 2)
    block += 2 * dh if self.block.use_qk_norm else 0
    block += dh * (h + 2 * k) if self.block.use_qkv_bias else 0
    tables = self.vocab_size * d * (1 if self.tie_embeddings else 2)
    head = d + 1 if self.value_head == 'shared' else 0
    return self.num_layers * block + tables + d + head

  def flops_per_token(self, length: float) -> float:
    """Operations, 2 per multiply-add, of a forward token with `length` keys."""
    matrices = self.num_params() - (
        0 if self.tie_embeddings else self.vocab_size * self.embed_dim)
    num_seen = math.fsum(
        length if self.is_global(i) else min(length, self.block.sliding_window)
        for i in range(self.num_layers))
    return 2.0 * matrices + 4.0 * self.num_heads * self.head_dim * num_seen


def _require(holds: bool, name: str, value: object, words: str) -> None:
  if not holds:
    raise config_lib.ConfigError(f'{name}: got {value!r}; must be {words}.')
