# SPDX-License-Identifier: Apache-2.0
"""The models and the workloads that the benchmarks run.

Llama shapes with random weights: what is measured is speed.
"""

import dataclasses
import functools

from flax.linen import meta
import jax
import numpy as np

from configs import kinds
from configs import models as named
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib
from meta_cot.training import optimizer

_SMALL = named.get('small')
MODELS = {
    # 0.03 M: for tests.
    'toy': _SMALL | dict(
        num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8,
        mlp_dim=64, vocab_size=64),
    # 5.0 M.
    'S': _SMALL,
    # 29.4 M.
    'M': _SMALL | dict(
        num_layers=8, embed_dim=512, head_dim=64, mlp_dim=1536,
        vocab_size=4096),
    # 134.5 M: the shapes of SmolLM2.
    '135M': named.get('smollm2_135m') | {
        'max_length': 1024, 'execution.layer_loop': 'scan',
        'execution.remat': 'none'},
    # 100 M, for an accelerator.
    '100M': _SMALL | dict(
        num_layers=12, embed_dim=768, num_heads=12, num_kv_heads=4,
        head_dim=64, mlp_dim=2048, vocab_size=32_000, max_length=4096),
    # 1.2 G, for an accelerator: the shapes of Llama 3.2, plain positions.
    '1B': _SMALL | {
        'num_layers': 16, 'embed_dim': 2048, 'num_heads': 32, 'num_kv_heads': 8,
        'head_dim': 64, 'mlp_dim': 8192, 'vocab_size': 128_256,
        'max_length': 4096, 'rope.theta': 500_000.0,
        'execution.layer_loop': 'scan', 'execution.remat': 'full'},
}


@dataclasses.dataclass(frozen=True)
class Training:
  """Size of one AdamW update."""

  rows: int = 16
  length: int = 256

  @property
  def tokens(self) -> int:
    return self.rows * self.length


@dataclasses.dataclass(frozen=True)
class Decoding:
  """Size of one call of the sampler; no row ends early."""

  rows: int = 64
  prompt: int = 32
  new_tokens: int = 128
  samples: int = 1  # of every prompt; divides rows

  @property
  def tokens(self) -> int:
    return self.rows * self.new_tokens


def get(name: str, dtype: str, **changes: str) -> model_config.ModelConfig:
  """The settings of model `name` with `changes` of its execution."""
  changes['compute_dtype'] = dtype
  settings = MODELS[name] | {f'execution.{k}': v for k, v in changes.items()}
  return config_lib.parse(model_config.ModelConfig, settings, 'model')


def adamw() -> optimizer.OptimizerConfig:
  """AdamW as experiments run it, with a constant learning rate."""
  settings = dict(kinds.train().optimizer) | dict(
      learning_rate=1e-3, final_fraction=1.0, warmup_steps=0)
  return config_lib.parse(optimizer.OptimizerConfig, settings, 'optimizer')


@functools.cache
def _jitted_init(model):
  return jax.jit(lambda rng: meta.unbox(transformer.init(model, rng)))


def init(model: model_config.ModelConfig, seed: int) -> types.Params:
  """Unboxed parameters: those that `state.create` draws with key(seed)."""
  return _jitted_init(model)(jax.random.split(jax.random.key(seed))[0])


def training_batch(
    model: model_config.ModelConfig, size: Training
) -> dict[str, np.ndarray]:
  """Fields of `types.Batch` on the host; one segment fills every row."""
  shape = (size.rows, size.length)
  tokens_BxL = np.random.default_rng(0).integers(
      0, model.vocab_size, shape).astype(np.int32)
  return dict(
      tokens=tokens_BxL,
      targets=np.roll(tokens_BxL, -1, axis=1),
      positions=np.tile(np.arange(size.length, dtype=np.int32), (size.rows, 1)),
      segment_ids=np.ones(shape, np.int32),
      loss_mask=np.ones(shape, np.float32))


def prompts(model: model_config.ModelConfig, size: Decoding) -> np.ndarray:
  """[B, P] int32 on the host; rows of one prompt follow each other."""
  shape = size.rows // size.samples, size.prompt
  return np.random.default_rng(0).integers(
      0, model.vocab_size, shape).astype(np.int32).repeat(size.samples, axis=0)
