# SPDX-License-Identifier: Apache-2.0
"""Settings of a decoder-only transformer: Llama, Qwen, Gemma and kin."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from meta_cot.settings import config as config_lib

_setting = config_lib.setting


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and options of a model; hashable, so it can be a static argument.

  `None` switches an optional part off. Layer `i` (from 0) attends globally if
  `is_global(i)`, else within the last `sliding_window` positions.
  """

  # Shape.
  vocab_size: int = _setting(low=1)
  num_layers: int = _setting(low=1)
  embed_dim: int = _setting(low=1)
  num_heads: int = _setting(low=1)
  num_kv_heads: int = _setting(low=1)  # divides num_heads
  head_dim: int = _setting(low=2)  # even
  mlp_dim: int = _setting(low=1)
  max_length: int = _setting(low=1)  # positions 0 .. max_length - 1
  # Positions.
  rope_theta: float = _setting(above=0)
  rope_local_theta: float | None = _setting(above=0)  # of windowed layers
  rope_scaling_factor: float | None = _setting(low=1)
  rope_low_freq_factor: float | None = _setting(above=0)  # None: linear scaling
  rope_high_freq_factor: float | None = _setting(above=0)
  rope_original_max_length: int | None = _setting(low=1)
  # Blocks.
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
  # Ends.
  tie_embeddings: bool = _setting()
  embed_scale: bool = _setting()  # embeddings times sqrt(embed_dim) (Gemma)
  logit_softcap: float | None = _setting(above=0)
  value_head: str = _setting(choices=('shared', 'none'))  # shared: same trunk
  # Execution: the same parameters and numbers, another program.
  layer_loop: str = _setting(choices=('scan', 'unroll'), is_free=True)
  remat: str = _setting(
      choices=('none', 'dots', 'outputs', 'full', 'attention'), is_free=True)
  attention: str = _setting(
      choices=('auto', 'dense', 'splash', 'cudnn'), is_free=True)
  compute_dtype: str = _setting(choices=('auto', 'float32', 'bfloat16'))
  param_dtype: str = _setting(choices=('float32', 'bfloat16'))

  def __post_init__(self):
    self._require(
        self.num_heads % self.num_kv_heads == 0,
        'num_heads', f'a multiple of num_kv_heads, {self.num_kv_heads}')
    self._require(self.head_dim % 2 == 0, 'head_dim', 'even, for RoPE')
    if self.sliding_window is None:
      for name in ('sliding_window_pattern', 'rope_local_theta'):
        self._require(
            getattr(self, name) is None, name,
            'None where sliding_window is None')
    if self.rope_scaling_factor is None:
      for name in ('rope_low_freq_factor', 'rope_high_freq_factor',
                   'rope_original_max_length'):
        self._require(
            getattr(self, name) is None, name,
            'None where rope_scaling_factor is None')
    bands = (self.rope_low_freq_factor, self.rope_high_freq_factor,
             self.rope_original_max_length)
    if any(b is not None for b in bands):
      for name in ('rope_low_freq_factor', 'rope_high_freq_factor',
                   'rope_original_max_length'):
        self._require(
            getattr(self, name) is not None, name,
            'set with the other two of rope_low_freq_factor, '
            'rope_high_freq_factor and rope_original_max_length')
      self._require(
          self.rope_high_freq_factor > self.rope_low_freq_factor,
          'rope_high_freq_factor',
          f'greater than rope_low_freq_factor, {self.rope_low_freq_factor}')

  def _require(self, holds: bool, name: str, words: str) -> None:
    if not holds:
      raise config_lib.ConfigError(
          f'{name}: got {getattr(self, name)!r}; must be {words}.')

  def is_global(self, layer: int) -> bool:
    """Whether layer `layer`, counted from 0, sees beyond the window.

    With a window and pattern n it is every n-th layer (n - 1, 2n - 1, ...);
    with a window and no pattern, none (Mistral).
    """
    if self.sliding_window is None:
      return True
    if self.sliding_window_pattern is None:
      return False
    return (layer + 1) % self.sliding_window_pattern == 0

  @property
  def dtype(self) -> jnp.dtype:
    """Type of matrix products; 'auto' is bfloat16 except on the CPU.

    'auto' asks for the default backend: to compile for another platform than
    the one at hand, name the type.
    """
    if self.compute_dtype == 'auto':
      on_cpu = jax.default_backend() == 'cpu'
      return jnp.dtype('float32' if on_cpu else 'bfloat16')
    return jnp.dtype(self.compute_dtype)

  @property
  def attention_scale(self) -> float:
    """What scores of queries and keys are multiplied by."""
    return self.head_dim ** -0.5 if self.query_scale is None else (
        self.query_scale)

  def num_params(self) -> int:
    """Number of parameters, value head included."""
    d, dh, h, k = (
        self.embed_dim, self.head_dim, self.num_heads, self.num_kv_heads)
    block = d * dh * (2 * h + 2 * k) + 3 * d * self.mlp_dim
    block += d * (4 if self.use_post_norms else 2)
    block += 2 * dh if self.use_qk_norm else 0
    block += dh * (h + 2 * k) if self.use_qkv_bias else 0
    tables = self.vocab_size * d * (1 if self.tie_embeddings else 2)
    head = d + 1 if self.value_head == 'shared' else 0
    return self.num_layers * block + tables + d + head

  def flops_per_token(self, length: float) -> float:
    """Floating-point operations of one forward token, 2 per multiply-add.

    Args:
      length: keys that the token attends to on average.
    """
    matrices = self.num_params() - (
        0 if self.tie_embeddings else self.vocab_size * self.embed_dim)
    windows = [
        length if self.is_global(i) else min(length, self.sliding_window)
        for i in range(self.num_layers)]
    return 2.0 * matrices + 4.0 * self.num_heads * self.head_dim * math.fsum(
        windows)
