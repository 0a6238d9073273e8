# SPDX-License-Identifier: Apache-2.0
"""The programs of the stage `rl`, for `compile`: see `meta_cot.rl.programs`.

  rl_OBJECTIVE_PART       one of `programs.PARTS`, as an objective has it
  rl_start, rl_samples    trajectories and first attempts of the start
"""

import dataclasses

import jax

from data_pipelines import tokenizers
from meta_cot import tasks
from meta_cot.program import Program
from meta_cot.rl import objective as objective_lib
from meta_cot.rl import programs as programs_lib
from meta_cot.solvers import vocabulary
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import rl
from meta_cot.stages.programs import stand_in

NEEDS = (
    "'rl' in config.stages and the objective in config.rl.objectives (_values, "
    '_contexts, _continue: and advantage vineppo; _explore: and a search in '
    'config.rl.episodes.exploration), see configs/erl2.py')
_PREFIX = 'rl_'
_START, _SAMPLES = 'rl_start', 'rl_samples'
_DELIMITER_ID = 2


def names(experiment: experiment_lib.Experiment) -> tuple[str, ...]:
  """Names all of the experiment; none where it has no stage `rl`.

  Raises:
    ConfigError: the stage cannot run with these settings.
  """
  if 'rl' not in experiment.stages:
    return ()
  found, programs = [_START, _SAMPLES], _of_start(experiment, None)
  for objective in experiment.rl.objectives:
    learned = programs.of(objective)
    learned.check()
    found += (f'{_PREFIX}{objective}_{part}' for part in learned.parts)
  return tuple(found)


def is_known(name: str) -> bool:
  """Tells whether some experiment has an RL program of this name."""
  return name in (_START, _SAMPLES, *(
      f'{_PREFIX}{objective}_{part}' for objective in objective_lib.OBJECTIVES
      for part in programs_lib.PARTS))


def build(
    experiment: experiment_lib.Experiment, mesh: jax.sharding.Mesh, name: str
) -> Program:
  """Makes the program `name` of `names`; `lower` it under `use_mesh`.

  Raises:
    ConfigError: trajectories do not fit the model, or do not divide over the
      mesh.
  """
  config = experiment.rl
  programs = start = _of_start(experiment, mesh)
  objective, _, part = name.removeprefix(_PREFIX).rpartition('_')
  if objective:
    programs = start.of(objective)
  elif name == _SAMPLES:
    programs = dataclasses.replace(start, num_episodes=1)
  programs.check()
  programs.check_split()
  if objective:
    return programs_lib.PARTS[part](programs, name)
  return programs.play(
      name, config.num_eval_samples if programs is start
      else start.num_start_samples)


def _of_start(experiment, mesh) -> programs_lib.Programs:
  """Those of the start, before there is a tokenizer and a problem."""
  tokenizer = tokenizers.placeholder(experiment.tokenizer)
  words = vocabulary.Vocabulary(
      pad_id=tokenizer.pad_id, eos_ids=tokenizer.eos_ids,
      delimiter_ids=(_DELIMITER_ID,), texts=())
  return rl.make_programs(
      experiment, tasks.make(experiment.task.kind), tokenizer, lambda: words,
      [stand_in.problem(experiment)], mesh)
