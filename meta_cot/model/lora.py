# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters of all projections (LoRA, arXiv 2106.09685).

A projection W [I, O] that has one gives x W + (x A) B, with A [I, r] and
B [r, O] beside its kernel. An adapter is a tree of its own, {'layers': ...}
with `lora_a` and `lora_b` where the blocks have `kernel`; B begins at zero.
What it adds counts `scale` times, alpha / r.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from meta_cot.model import transformer
from meta_cot.model.config import ModelConfig
from meta_cot.types import Params, PRNGKey

_AXIS = 'lora'  # logical axis of the rank
# The axes that a kernel maps from, behind that of the layers; others have one.
_NUM_IN = {'o_proj': 2}


def init(config: ModelConfig, rng: PRNGKey, rank: int) -> Params:
  """Makes the adapter of a model, boxed with logical axis names.

  A is uniform within 1 / sqrt(fan in), as usual, and B is zero.
  """
  boxed = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
  count = iter(range(2**31))

  def walk(name: str, branch: Mapping[str, Any]) -> Params:
    found = {}
    if 'kernel' in branch:
      found = _pair(
          branch['kernel'], _NUM_IN.get(name, 1), rank,
          jax.random.fold_in(rng, next(count)))
    for key, value in branch.items():
      if isinstance(value, Mapping) and (below := walk(key, value)):
        found[key] = below
    return found

  return {'layers': walk('layers', boxed['layers'])}


def _pair(kernel, num_in: int, rank: int, rng: PRNGKey) -> Params:
  """A and B of one kernel, boxed; `kernel` is boxed and may be a shape."""
  shape, names = kernel.value.shape, kernel.names
  dtype, cut = kernel.value.dtype, 1 + num_in
  fan_in = 1
  for size in shape[1:cut]:
    fan_in *= size
  bound = fan_in ** -0.5
  return dict(
      lora_a=nn.LogicallyPartitioned(
          jax.random.uniform(
              rng, (*shape[:cut], rank), dtype, -bound, bound),
          (*names[:cut], _AXIS)),
      lora_b=nn.LogicallyPartitioned(
          jnp.zeros((shape[0], rank, *shape[cut:]), dtype),
          (names[0], _AXIS, *names[cut:])))


def join(params: Params, adapter: Params, scale: float | None) -> Params:
  """Puts an adapter beside the kernels; copies no parameter of the model.

  Args:
    params: unboxed; may be shapes, as the adapter may be.
    adapter: unboxed.
    scale: of B; None: as it is, for shapes.
  """
  joined = dict(params)
  for key, value in adapter.items():
    if isinstance(value, Mapping):
      joined[key] = join(params[key], value, scale)
    else:
      joined[key] = value if scale is None or key != 'lora_b' else value * scale
  return joined


def merge(params: Params, adapter: Params, scale: float) -> Params:
  """Adds an adapter to the kernels: W + scale A B, in float32 on the way."""
  merged = dict(params)
  for key, value in adapter.items():
    if isinstance(value, Mapping):
      merged[key] = merge(params[key], value, scale)
  if 'lora_a' in adapter:
    kernel = params['kernel']
    n, rank = adapter['lora_b'].shape[:2]
    change = jnp.einsum(
        'nir,nro->nio',
        adapter['lora_a'].astype(jnp.float32).reshape(n, -1, rank),
        adapter['lora_b'].astype(jnp.float32).reshape(n, rank, -1),
        precision='highest')
    merged['kernel'] = (
        kernel.astype(jnp.float32) + scale * change.reshape(kernel.shape)
    ).astype(kernel.dtype)
  return merged
