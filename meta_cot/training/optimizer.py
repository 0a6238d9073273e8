# SPDX-License-Identifier: Apache-2.0
"""AdamW with global-norm clipping and a warm-up/cosine learning rate."""

import dataclasses
import re

import jax
import optax

from meta_cot import types
from meta_cot.settings import config as config_lib
from meta_cot.training import part as part_lib

MAX_STEPS = 2**30  # they are counted in 32 bits


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings of `make`."""

  learning_rate: float = config_lib.setting(above=0.0)
  final_fraction: float = config_lib.setting(low=0.0, high=1.0)
  warmup_steps: int = config_lib.setting(low=0)
  b1: float = config_lib.setting(low=0.0, below=1.0)
  b2: float = config_lib.setting(low=0.0, below=1.0)
  epsilon: float = config_lib.setting(above=0.0)
  weight_decay: float = config_lib.setting(low=0.0)
  clip_norm: float = config_lib.setting(above=0.0)
  trained: part_lib.Part  # of the policy; the rest stays


def schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
  """Linear warm-up to the peak, then cosine to `final_fraction` of it.

  A run shorter than the warm-up spends its first half warming up.
  """
  warmup = min(config.warmup_steps, num_steps // 2)
  return optax.warmup_cosine_decay_schedule(
      init_value=0.0,
      peak_value=config.learning_rate,
      warmup_steps=warmup,
      decay_steps=max(num_steps, warmup + 1),
      end_value=config.learning_rate * config.final_fraction)


def describe(config: OptimizerConfig, step: int, num_steps: int) -> str:
  """Says how the learning rate goes on behind `step`."""
  rate = schedule(config, num_steps)
  return (
      f'learning rate {float(rate(step)):.3g} in the next step, '
      f'{float(rate(num_steps)):.3g} at the end')


def make(
    config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
  """The optimiser of a run of `num_steps` updates."""
  return optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.adamw(
          schedule(config, num_steps),
          b1=config.b1,
          b2=config.b2,
          eps=config.epsilon,
          weight_decay=config.weight_decay,
          mask=_is_decayed))


def _is_decayed(params: types.Params) -> types.Params:
  """Matrices decay; norms and biases, named so in the tree, do not."""
  return jax.tree_util.tree_map_with_path(
      lambda path, _: not re.search(
          'norm|bias', jax.tree_util.keystr(path).lower()), params)
