# SPDX-License-Identifier: Apache-2.0
"""Stage 1: problems, solved by symbolic search, written as trace records.

Leaves `traces/`: ArrayRecord shards per split and `manifest.json`. Every host
makes its share of the shards.
"""

import dataclasses
import functools

from etils import epath

from data_pipelines import store
from meta_cot.runtime import distributed
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks.countdown import problems as countdown_problems
from meta_cot.tasks.countdown import records as records_lib


def run(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Generates what is missing of every split; finished shards stay."""
  problems, seed = experiment.countdown, experiment.seed
  strategies = experiment.traces.strategies
  for split in countdown_problems.SPLITS:
    store.generate(
        workdir / 'traces',
        functools.partial(
            records_lib.make_records, problems, strategies, seed, split),
        split=split,
        num_records=countdown_problems.split_size(problems, seed, split),
        num_shards=experiment.traces.num_shards,
        num_processes=experiment.traces.num_processes,
        host_index=distributed.process_index(),
        num_hosts=distributed.num_processes(), wait=distributed.wait,
        arguments=dict(
            seed=seed, strategies=strategies, **dataclasses.asdict(problems)))
