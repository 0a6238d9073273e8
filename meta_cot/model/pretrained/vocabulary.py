# SPDX-License-Identifier: Apache-2.0
"""A vocabulary that grows behind the tokens of a checkpoint."""

import dataclasses

import jax
import jax.numpy as jnp

from meta_cot import types
from meta_cot.model import config as model_config

_MULTIPLE = 64  # of rows, so that they divide over a mesh
# Where parameters have an axis of the vocabulary.
_AXES = {'embedding': 0, 'readout': 1}


def grown(
    model: model_config.ModelConfig, params: types.Params, num_tokens: int
) -> tuple[model_config.ModelConfig, types.Params]:
  """Gives a model rows for all tokens; unchanged where it has them.

  A new row is the mean of those that are there: what is new is as likely as
  the others are on average.

  Args:
    model: of the parameters.
    params: of a model, sharded or not; the new ones are alike.
    num_tokens: of the tokenizer.

  Returns:
    The model and its parameters. Rows are a multiple of 64 where some are new.
  """
  if num_tokens <= model.vocab_size:
    return model, params
  size = -(-num_tokens // _MULTIPLE) * _MULTIPLE
  embedder = {
      name: jax.jit(_pad, static_argnums=(1, 2), out_shardings=x.sharding)(
          x, _AXES[name], size - model.vocab_size)
      for name, x in params['embedder'].items()}
  return (dataclasses.replace(model, vocab_size=size),
          {**params, 'embedder': embedder})


def _pad(x: jax.Array, axis: int, number: int) -> jax.Array:
  mean = jnp.mean(x.astype(jnp.float32), axis, keepdims=True).astype(x.dtype)
  return jnp.concatenate([x, jnp.repeat(mean, number, axis)], axis)
