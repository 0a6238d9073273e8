# SPDX-License-Identifier: Apache-2.0
"""What a program is, and the shapes that many programs are called with."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax

from meta_cot import experiment as experiment_lib
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.stages import sft
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function, what it is called with, and its useful work."""

  name: str
  jitted: Callable
  arguments: tuple  # trees of ShapeDtypeStruct with shardings
  keywords: dict[str, Any]
  model_flops: float  # useful, of one call on all devices
  tokens: int  # that one call reads or writes, on all devices; 0: none

  def lower(self) -> jax.stages.Lowered:
    """Traces and lowers it, for the devices of its arguments' shardings."""
    return self.jitted.lower(*self.arguments, **self.keywords)


def update(experiment: experiment_lib.Experiment):
  """The optimiser of a run with full rows."""
  return optimizer.make(experiment.optimizer, num_steps(experiment))


def num_steps(experiment: experiment_lib.Experiment) -> int:
  """Steps of a run with full rows; a constant of the learning rate."""
  tokens = experiment.train.batch_size * experiment.data.sequence_length
  return max(1, experiment.train.num_tokens // tokens)


def placed(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shapes of arrays that every device holds whole."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding.replicated(mesh)), tree)


def split(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shapes of arrays split by rows; scalars are everywhere."""
  return jax.tree.map(
      lambda x: rows(x.shape, x.dtype, mesh) if x.ndim else placed(x, mesh),
      tree)


def rows(
    shape: tuple[int, ...], dtype: Any, mesh: jax.sharding.Mesh
) -> jax.ShapeDtypeStruct:
  """The shape of an array split by rows."""
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch(mesh))


def params(
    experiment: experiment_lib.Experiment, mesh: jax.sharding.Mesh
) -> Any:
  """Shapes of the parameters, as a training run holds them."""
  state, _ = state_lib.shardings(
      sft.init_fn(experiment), update(experiment), mesh)
  return state.params


def prefill_flops(
    model: model_config.ModelConfig, num_rows: int, width: int, *,
    num_readouts: int,
) -> float:
  """Forward work on prompts; logits are read at some tokens only."""
  readout = 2.0 * model.vocab_size * model.embed_dim
  per_token = model.flops_per_token(width / 2) - readout
  return num_rows * width * per_token + num_readouts * readout
