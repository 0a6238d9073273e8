# SPDX-License-Identifier: Apache-2.0
"""The command of a whole run that takes seconds."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
_SETTINGS = (
    '--config.task.max_number=9', '--config.model.num_layers=1',
    '--config.model.embed_dim=32', '--config.model.mlp_dim=32',
    '--config.train.num_tokens=20000', '--config.train.log_every_steps=3',
    '--config.train.eval_every_steps=10', '--config.train.num_eval_batches=2',
    '--config.checkpoint.save_every_steps=10',
    '--config.evaluation.num_problems=16',
    '--config.evaluation.num_curve_problems=8',
    '--config.evaluation.batch_size=16', '--config.evaluation.num_samples=3',
    '--config.evaluation.num_trace_samples=2',
    '--config.evaluation.max_new_tokens=40')


# Of the stage `search`, for runs that have it.
SEARCH = (
    '--config.search.strategies=beam', '--config.search.num_problems=12',
    '--config.search.num_slots=4', '--config.search.branching=3',
    '--config.search.step_length=6', '--config.search.num_samples=2')

# Of the stage `rl`; it starts from the arm `revisions` unless told otherwise.
RL = (
    '--config.rl.objectives=erl2,single', '--config.rl.num_iterations=4',
    '--config.rl.questions.num_questions=4',
    '--config.rl.questions.num_samples=4', '--config.rl.questions.num_slots=8',
    '--config.rl.episodes.num_episodes=2',
    '--config.rl.episodes.episode_length=10', '--config.rl.eval_every=1',
    '--config.rl.num_eval_problems=6', '--config.rl.num_eval_samples=2',
    # Its model solves nothing: without this one the policies would stay.
    '--config.rl.save_every=2', '--config.rl.loss.entropy_bonus=0.01')


def command(workdir, *more: str) -> list[str]:
  """Runs the quickstart's experiment, made small, from ROOT."""
  return [
      sys.executable, '-m', 'meta_cot.main',
      '--config=configs/countdown.py:tiny', f'--workdir={workdir}',
      *_SETTINGS, *more]


def environment() -> dict[str, str]:
  """Two devices on a CPU, as the quickstart has."""
  return os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '2'}
