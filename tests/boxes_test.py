# SPDX-License-Identifier: Apache-2.0
"""The environment of docs/rl.md: its text, its optimum, its run."""

import json
import re

import pytest

from meta_cot.settings import config_file
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks.worlds import optimum
from tests import small_run

FILE = small_run.ROOT / 'examples' / 'boxes.py'
_SHORT = (
    '--config.model.num_layers=1', '--config.model.embed_dim=32',
    '--config.model.mlp_dim=32', '--config.task.num_train=60',
    '--config.task.num_heldout=20', '--config.sft.num_tokens=4_000',
    "--config.rl.objectives=('erl2',)", '--config.rl.num_iterations=2',
    '--config.rl.eval_every=2', '--config.rl.save_every=2',
    '--config.rl.num_eval_problems=16', '--config.rl.questions.num_questions=8',
    '--config.rl.questions.num_samples=4', '--config.rl.questions.num_slots=32',
    '--config.episodes.samples.num_samples=2',
    '--config.episodes.episodes.num_samples=2')


def test_the_text_shows_the_file():
  text = (small_run.ROOT / 'docs' / 'rl.md').read_text()
  pieces = re.findall('```python\n(.*?)```', text, re.DOTALL)
  assert pieces
  for piece in pieces:
    assert piece in FILE.read_text()
    assert piece.count('\n') <= 40


def test_who_is_paid_for_the_last_attempt_looks_first():
  experiment = experiment_lib.parse(config_file.load(str(FILE)))
  world = experiment.shared.task._task
  best = lambda number, weight: optimum.best(world, '6', number, weight)
  assert best(2, 0.0) == pytest.approx((1.0, 1.0))
  assert best(2, 1.0) == pytest.approx((1.1, 0.6))
  assert best(1, 0.0).final == pytest.approx(0.5)


@pytest.mark.slow
def test_it_runs(tmp_path):
  """Every stage once, as short as can be, and in another folder."""
  small_run.run_elsewhere(FILE, tmp_path, _SHORT)
  rows = [
      json.loads(line) for line in
      (tmp_path / 'w/rl/erl2/seed0/metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['step'] == 2 and 'validation/episode_2' in rows[-1]
  assert 'erl2' in (tmp_path / 'w/episodes/report.md').read_text()
