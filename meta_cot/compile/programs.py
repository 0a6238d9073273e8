# SPDX-License-Identifier: Apache-2.0
"""One program of an experiment, compiled for slices that are not here."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
import time

import jax

from meta_cot import sharding
from meta_cot.compile import hlo
from meta_cot.compile import report as report_lib
from meta_cot.compile import roofline
from meta_cot.compile import topology as topology_lib
from meta_cot.stages import experiment as experiment_lib

_NUM_BUFFERS = 8  # named of each program


def for_accelerator(
    experiment: experiment_lib.Experiment
) -> experiment_lib.Experiment:
  """Returns it as an accelerator runs it: 'auto' is bfloat16 there."""
  model = experiment.shared.model
  if model.execution.compute_dtype != 'auto':
    return experiment
  model = dataclasses.replace(model, execution=dataclasses.replace(
      model.execution, compute_dtype='bfloat16'))
  return dataclasses.replace(experiment, shared=dataclasses.replace(
      experiment.shared, model=model))


def mesh_of(
    experiment: experiment_lib.Experiment, topology: topology_lib.Topology
) -> jax.sharding.Mesh:
  """Makes the experiment's mesh of all devices."""
  return sharding.make_mesh(experiment.shared.mesh, list(topology.devices))


def compile_program(
    experiment: experiment_lib.Experiment, topology: topology_lib.Topology,
    name: str, *, dump: str | None = None) -> report_lib.Result:
  """Lowers, compiles and measures one program of the experiment.

  Args:
    experiment: with types fixed, see `for_accelerator`.
    topology: to compile for.
    name: of the program, as in `experiment.programs`.
    dump: XLA's texts are left in a folder `name` here; None: nowhere.
  """
  started = time.perf_counter()
  folder = tempfile.TemporaryDirectory() if dump is None else (
      contextlib.nullcontext(os.path.join(dump, name)))
  mesh = mesh_of(experiment, topology)
  with sharding.use_mesh(mesh), folder as texts:
    program = experiment_lib.programs(experiment, mesh)[name]()
    lowered = program.lower()
    try:
      # XLA's own text is read: JAX's `as_text` fails on newer programs.
      stats = lowered.compile(compiler_options={
          'xla_dump_to': texts, 'xla_dump_hlo_as_text': True}).memory_analysis()
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      stats = None
    module = hlo.parse(_dumped(texts, 'after_optimizations'))
    assignment = _dumped(texts, 'after_optimizations-buffer-assignment')
  cost = roofline.cost(
      module, len(topology.devices) // topology.num_slices,
      topology.num_slices)
  model_flops = program.model_flops / len(topology.devices)
  return report_lib.Result(
      name=name, capacity=topology.chip.hbm_bytes, is_refused=stats is None,
      memory=hlo.memory(assignment) if stats is None else hlo.Memory(
          arguments=stats.argument_size_in_bytes,
          outputs=stats.output_size_in_bytes,
          aliased=stats.alias_size_in_bytes,
          temporaries=stats.temp_size_in_bytes,
          code=stats.generated_code_size_in_bytes),
      largest=tuple(hlo.largest(assignment, module, _NUM_BUFFERS)),
      cost=cost, times=roofline.times(
          cost, topology.chip, topology.shape, model_flops=model_flops),
      model_flops=model_flops, tokens=program.tokens,
      peak_flops=topology.chip.peak_flops,
      seconds=time.perf_counter() - started)


def _dumped(directory: str, kind: str) -> str:
  """Text of the file that XLA wrote last under this name."""
  return max(pathlib.Path(directory).glob(f'*.{kind}.txt')).read_text()
