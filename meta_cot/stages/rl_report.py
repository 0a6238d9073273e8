# SPDX-License-Identifier: Apache-2.0
"""What reinforcement learning changed: every policy, episode by episode.

Leaves `rl/summary.json`, `rl/report.md` and plots, and a section in the report
of the stage `evaluate`, if there is one.
"""

import logging

from etils import epath
import numpy as np

from meta_cot import types
from meta_cot.evaluation import episodes as episodes_eval
from meta_cot.evaluation import episodes_report
from meta_cot.evaluation import report
from meta_cot.rollouts import judge as judge_lib
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.stages import rl_material
from meta_cot.training import checkpoint

_START = 'sft'


def write(experiment, workdir: epath.Path,
          material: rl_material.Material) -> None:
  """Plays test problems with all policies and writes the report."""
  records = list(_records(experiment, workdir, material))
  samples = _samples(experiment, material)
  if distributed.is_primary():
    summary = episodes_eval.summarise(records, samples)
    files.write_json(workdir / 'rl' / 'summary.json', summary)
    episodes_report.write(workdir / 'rl', summary)
    report.add_section(
        workdir / 'eval' / 'report.md', 'Reinforcement learning',
        episodes_report.section(summary, folder='../rl'))
    logging.info('report: %s', workdir / 'rl' / 'report.md')
  distributed.wait('rl')


def _records(experiment, workdir, material):
  """What every policy did, the start first."""
  config = experiment.rl
  play = lambda objective: rl_material.Evaluation(
      material, objective, material.test).play
  yield _record(experiment, _START, 0, play('erl2')(material.start))
  for objective in config.objectives:
    of_objective = play(objective)
    for seed in config.seeds:
      directory = rl_material.folder(workdir, objective, seed)
      params = _last(directory, experiment, material)
      yield _record(experiment, objective, seed, of_objective(params))


def _record(experiment, policy, seed, judged: judge_lib.Judged):
  shape = (-1, experiment.rl.num_eval_samples, judged.rewards.shape[1])
  return episodes_eval.Record(
      policy=policy, seed=seed, is_correct=judged.rewards.reshape(shape) > 0,
      tokens=judged.tokens_spent.reshape(shape),
      is_finished=judged.is_finished.reshape(shape))


def _samples(experiment, material) -> episodes_eval.Samples:
  """First attempts of the start, as many as the longest trajectory and more."""
  count = rl_material.num_start_samples(experiment)
  evaluation = rl_material.Evaluation(
      material, 'single', material.test, num_samples=count)
  judged = evaluation.play(material.start)
  shape = -1, count
  return episodes_eval.Samples(
      policy=_START, is_correct=judged.rewards.reshape(shape) > 0,
      tokens=judged.num_tokens.reshape(shape),
      answers=np.where(
          judged.is_finished, judged.answers, -1).reshape(shape))


def _last(directory, experiment, material) -> types.Params:
  """The parameters that a run ended with."""
  return checkpoint.restore_newest(
      directory / 'checkpoints', experiment.checkpoint,
      rl_material.abstract(experiment, material.mesh)).params
