# SPDX-License-Identifier: Apache-2.0
"""Problems, traces, a tokenizer and a policy of one layer, in seconds."""

import pathlib
from typing import Any

from etils import epath
import jax
import numpy as np

from configs import countdown
from meta_cot import main
from meta_cot import sharding
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib

MODEL = dict(
    vocab_size=128, num_layers=1, embed_dim=16, num_heads=2, num_kv_heads=2,
    head_dim=8, mlp_dim=16, max_length=96)


def run(
    workdir: pathlib.Path, axes: tuple[int, int, int], **changes: Any
) -> base.Context:
  """Runs what is not done yet, on so many devices.

  Args:
    workdir: of the run.
    axes: sizes of the mesh.
    **changes: of `config.sft`.
  """
  config = countdown.get_config('tiny')
  config.stages = ('problems', 'traces', 'tokenizer', 'sft')
  config.model.update(MODEL)
  config.task.update(dict(max_number=6, max_target=20))
  config.sft.update(dict(
      arms=('solution_only',), num_tokens=3_000, batch_size=8,
      log_every_steps=1, num_eval_batches=1, save_every_steps=2))
  config.sft.data.sequence_length = 96
  config.sft.update(changes)
  experiment = experiment_lib.parse(config)
  mesh = sharding.make_mesh(
      sharding.MeshConfig(*axes), jax.devices()[:int(np.prod(axes))])
  context = base.Context(
      experiment.shared, experiment.groups, mesh, epath.Path(workdir))
  with sharding.use_mesh(mesh):
    for group in experiment.chosen():
      main.run(context, group)
  return context


def context_of(
    experiment: experiment_lib.Experiment, workdir: pathlib.Path | None = None,
    num_devices: int = 1,
) -> base.Context:
  """Makes what the stages of an experiment work with."""
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:num_devices])
  return base.Context(
      experiment.shared, experiment.groups, mesh,
      workdir and epath.Path(workdir))


def run_stages(
    experiment: experiment_lib.Experiment, workdir: pathlib.Path, *names: str,
    num_devices: int = 1,
) -> base.Context:
  """Runs the stages of these names, all by default."""
  context = context_of(experiment, workdir, num_devices)
  with sharding.use_mesh(context.mesh):
    for group in experiment.chosen(names or None):
      main.run(context, group)
  return context
