# SPDX-License-Identifier: Apache-2.0
"""Model-FLOPs utilisation: useful arithmetic over what the chip could do.

  FLOPs per token = 6 * P + 6 * layers * heads * Dh * L        (training)

P counts the parameters used in matrix products (the embedding table once, as
the output projection). The second term is attention: QK^T and the weighted sum
cost 2 * 2 * heads * Dh * L per token and layer forward over a row of L, half of
it under the causal mask, times three for forward and backward. Rematerialised
work does not count. Utilisation = FLOPs per token * tokens per second /
(devices * peak FLOP/s), with all positions of a row counted, padding included,
in neither tokens nor FLOPs.
"""

import time

import jax
import jax.numpy as jnp

PEAK_FLOPS = {  # device_kind -> dense bf16 FLOP/s of one device (vendor data)
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5': 459e12,
    'TPU v5p': 459e12,
    'TPU v6 lite': 918e12,
    'TPU v6e': 918e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H200': 989e12,
}


def per_token(
    *, num_matmul_params: int, num_layers: int, num_heads: int, head_dim: int,
    row_length: int,
) -> float:
  """Training FLOPs of one token; see the module's formula."""
  attention = num_layers * num_heads * head_dim * row_length
  return 6.0 * num_matmul_params + 6.0 * attention


def peak_per_device() -> float:
  """Peak FLOP/s of one device: vendor data, or measured where there is none.

  An unknown device (a CPU) runs float32 matrix products for a moment; all
  local devices that share its cores share the measured rate.
  """
  device = jax.local_devices()[0]
  if device.device_kind in PEAK_FLOPS:
    return PEAK_FLOPS[device.device_kind]
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
