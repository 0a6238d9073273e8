# SPDX-License-Identifier: Apache-2.0
"""Model-FLOPs utilisation: useful arithmetic over what the chip could do.

  FLOPs per token = 6 P + 6 layers heads Dh L        (training)

P counts the parameters used in matrix products (a tied embedding table once, as
the output projection). The second term is attention over a row of L tokens of
which the causal mask leaves half. Both are three times the forward pass, whose
backward costs twice as much; rematerialised work does not count. Utilisation is
FLOPs per token times tokens per second over devices times peak FLOP/s. Padding
counts neither as tokens nor as FLOPs.
"""

import time

import jax
import jax.numpy as jnp

from meta_cot.model import config as model_config
from meta_cot.runtime import hardware


def training_flops_per_token(
    model: model_config.ModelConfig, row_length: int, num_passes: float = 3.0
) -> float:
  """FLOPs of one trained token in rows of `row_length`; see the formula.

  `num_passes` is what it costs in forward passes, `part.Part.num_passes`.
  """
  return num_passes * model.flops_per_token(row_length / 2)


def prefill_flops(
    model: model_config.ModelConfig, num_rows: int, width: int, *,
    num_readouts: int,
) -> float:
  """Counts the forward work on prompts, with logits at some tokens only."""
  readout = 2.0 * model.vocab_size * model.embed_dim
  per_token = model.flops_per_token(width / 2) - readout
  return num_rows * width * per_token + num_readouts * readout


def peak_per_device() -> float:
  """Peak FLOP/s of one device: vendor data, or measured where there is none.

  An unknown device (a CPU) runs float32 matrix products for a moment; all
  local devices that share its cores share the measured rate.
  """
  device = jax.local_devices()[0]
  if device.device_kind in hardware.CHIPS:
    return hardware.CHIPS[device.device_kind].peak_flops
  return _measured() / len(jax.local_devices())


def _measured(size: int = 1024, repeats: int = 4) -> float:
  multiply = jax.jit(lambda a: a @ a)
  a = jnp.full((size, size), 1e-3, jnp.float32)
  multiply(a).block_until_ready()
  best = float('inf')
  for _ in range(repeats):
    start = time.perf_counter()
    multiply(a).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * size**3 / best
