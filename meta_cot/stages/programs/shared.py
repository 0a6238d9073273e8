# SPDX-License-Identifier: Apache-2.0
"""What the programs of an experiment share: parameters, steps."""

from typing import Any

import jax

from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import sft
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib


def update(experiment: experiment_lib.Experiment):
  """The optimiser of a run with full rows."""
  return optimizer.make(experiment.optimizer, num_steps(experiment))


def num_steps(experiment: experiment_lib.Experiment) -> int:
  """Steps of a run with full rows; a constant of the learning rate."""
  tokens = experiment.train.batch_size * experiment.data.sequence_length
  return max(1, experiment.train.num_tokens // tokens)


def params(
    experiment: experiment_lib.Experiment, mesh: jax.sharding.Mesh
) -> Any:
  """Shapes of the parameters, as a training run holds them."""
  state, _ = state_lib.shardings(
      sft.init_fn(experiment), update(experiment), mesh)
  return state.params
