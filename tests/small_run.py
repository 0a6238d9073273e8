# SPDX-License-Identifier: Apache-2.0
"""The command of a whole run that takes seconds."""

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
_SETTINGS = (
    '--config.task.max_number=9', '--config.model.num_layers=1',
    '--config.model.embed_dim=32', '--config.model.mlp_dim=32',
    '--config.sft.num_tokens=20000', '--config.sft.log_every_steps=3',
    '--config.sft.eval_every_steps=10', '--config.sft.num_eval_batches=2',
    '--config.sft.save_every_steps=10',
    '--config.evaluate.num_problems=16',
    '--config.evaluate.num_curve_problems=8',
    '--config.evaluate.samples.batch_size=16',
    '--config.evaluate.samples.num_samples=3',
    '--config.evaluate.budget.sample_tokens=240',
    '--config.evaluate.samples.max_new_tokens=100')

# Of the stages behind `evaluate`, for runs that have them.
SEARCH = (
    '--config.search.solvers=greedy,samples,beam',
    '--config.search.num_problems=12', '--config.search.search.num_slots=4',
    '--config.search.search.branching=3',
    '--config.search.search.step_length=6',
    '--config.search.samples.num_samples=2')
RL = (
    '--config.rl.objectives=erl2,single', '--config.rl.num_iterations=4',
    '--config.rl.questions.num_questions=4',
    '--config.rl.questions.num_samples=4', '--config.rl.questions.num_slots=8',
    '--config.rl.episodes.num_episodes=2',
    '--config.rl.episodes.episode_length=10', '--config.rl.eval_every=1',
    '--config.rl.num_eval_problems=6', '--config.rl.num_eval_samples=2',
    # Its model solves nothing: without this one the policies would stay.
    '--config.rl.save_every=2', '--config.rl.loss.entropy_bonus=0.01')
EPISODES = (
    '--config.episodes.num_problems=6',
    '--config.episodes.samples.num_samples=4',
    '--config.episodes.samples.max_new_tokens=10',
    '--config.episodes.episodes.num_episodes=2',
    '--config.episodes.episodes.num_samples=2',
    '--config.episodes.episodes.num_questions=4',
    '--config.episodes.episodes.num_slots=8',
    '--config.episodes.episodes.episode_length=10')


def command(
    workdir, *more: str, config: str = 'configs/countdown.py:tiny'
) -> list[str]:
  """Runs the quickstart's experiment or another, made small, from ROOT."""
  return [
      sys.executable, '-m', 'meta_cot.main', f'--config={config}',
      f'--workdir={workdir}', *_SETTINGS, *more]


def find(entries, **fields):
  """The one entry of a summary with these fields."""
  (entry,) = (e for e in entries if fields.items() <= e.items())
  return entry


def environment() -> dict[str, str]:
  """Two devices on a CPU, as the quickstart has."""
  return os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '2'}


def run_elsewhere(
    file: pathlib.Path, folder: pathlib.Path, flags: Sequence[str]) -> None:
  """Runs an experiment in another folder, into its `w`."""
  done = subprocess.run(
      [sys.executable, '-m', 'meta_cot.main', f'--config={file}',
       '--workdir=w', *flags],
      cwd=folder, text=True, capture_output=True, check=False,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)})
  assert done.returncode == 0, done.stderr[-3000:]
