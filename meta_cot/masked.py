# SPDX-License-Identifier: Apache-2.0
"""Reductions over the unmasked entries of an array, in float32."""

import jax
import jax.numpy as jnp


def masked_sum(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Sum of `x` where `mask` > 0, weighted by it; NaNs under 0 do not leak."""
  mask = mask.astype(jnp.float32)
  return jnp.sum(jnp.where(mask > 0, x.astype(jnp.float32), 0.0) * mask)
