# SPDX-License-Identifier: Apache-2.0
"""What reinforcement learning changed: every policy, episode by episode.

Leaves `rl/summary.json`, `rl/report.md` and plots, and a section in the report
of the stage `evaluate`, if there is one.
"""

import dataclasses
import logging

from etils import epath
import numpy as np

from meta_cot.evaluation import episodes as episodes_eval
from meta_cot.evaluation import episodes_report
from meta_cot.evaluation import report
from meta_cot.rl import setup as setup_lib
from meta_cot.rollouts import judge as judge_lib
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.training import checkpoint

_START = 'sft'


def folder(workdir: epath.Path, objective: str, seed: int) -> epath.Path:
  """Names where a run leaves its files."""
  return workdir / 'rl' / objective / f'seed{seed}'


def write(
    setup: setup_lib.Setup, workdir: epath.Path,
    saved: checkpoint.CheckpointConfig,
) -> None:
  """Plays test problems with all policies and writes the report.

  Args:
    setup: of the runs.
    workdir: theirs.
    saved: how their checkpoints are kept.
  """
  records = [start_record(setup), *_records(setup, workdir, saved)]
  samples = start_samples(setup)
  if distributed.is_primary():
    summary = episodes_eval.summarise(records, samples)
    files.write_json(workdir / 'rl' / 'summary.json', summary)
    episodes_report.write(workdir / 'rl', summary)
    report.add_section(
        workdir / 'eval' / 'report.md', 'Reinforcement learning',
        episodes_report.section(summary, folder='../rl'))
    logging.info('report: %s', workdir / 'rl' / 'report.md')
  distributed.wait('rl')


def start_record(setup: setup_lib.Setup) -> episodes_eval.Record:
  """Plays the start, with all attempts."""
  evaluation = setup_lib.Evaluation(setup, setup.programs, setup.test)
  return _record(setup, _START, 0, evaluation.play(setup.start))


def start_samples(setup: setup_lib.Setup) -> episodes_eval.Samples:
  """Draws first attempts of the start, as many as the longest trajectory has.
  """
  count = setup.programs.num_start_samples
  evaluation = setup_lib.Evaluation(
      setup, dataclasses.replace(setup.programs, num_episodes=1), setup.test,
      num_samples=count)
  judged = evaluation.play(setup.start)
  shape = -1, count
  return episodes_eval.Samples(
      policy=_START, is_correct=judged.rewards.reshape(shape) > 0,
      tokens=judged.num_tokens.reshape(shape),
      answers=np.where(
          judged.is_finished, judged.answers, -1).reshape(shape))


def _records(setup, workdir, saved):
  """What every trained policy did."""
  config, state = setup.programs.settings, setup.programs.state
  for objective in config.objectives:
    evaluation = setup_lib.Evaluation(
        setup, setup.programs.of(objective), setup.test)
    for seed in config.seeds:
      params = checkpoint.restore_newest(
          folder(workdir, objective, seed) / 'checkpoints', saved, state
      ).params
      yield _record(setup, objective, seed, evaluation.play(params))


def _record(setup, policy, seed, judged: judge_lib.Judged):
  num_samples = setup.programs.settings.num_eval_samples
  shape = (-1, num_samples, judged.rewards.shape[1])
  return episodes_eval.Record(
      policy=policy, seed=seed, is_correct=judged.rewards.reshape(shape) > 0,
      tokens=judged.tokens_spent.reshape(shape),
      is_finished=judged.is_finished.reshape(shape))
