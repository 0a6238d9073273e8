# SPDX-License-Identifier: Apache-2.0
"""The environment of docs/rl.md: its text, its optimum, its run."""

import json
import re

from etils import epath
import pytest

from meta_cot import main
from meta_cot.settings import config_file
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks.worlds import optimum
from tests import small_run

FILE = small_run.ROOT / 'examples' / 'boxes.py'


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


def test_it_runs(tmp_path):
  """Every stage once, as short as can be."""
  config = config_file.load(str(FILE))
  config.model.update(dict(num_layers=1, embed_dim=32, head_dim=8, mlp_dim=32))
  config.task.update(dict(num_train=60, num_heldout=20))
  config.sft.num_tokens = 4_000
  config.rl.update(dict(
      objectives=('erl2',), num_iterations=2, eval_every=2, save_every=2,
      num_eval_problems=16))
  config.rl.questions.update(dict(
      num_questions=8, num_samples=2, num_slots=16))
  config.episodes.samples.num_samples = 2
  config.episodes.episodes.update(dict(
      num_samples=2, num_questions=8, num_slots=16))
  experiment = experiment_lib.parse(config)
  context = base.Context(
      experiment.shared, experiment.groups, workdir=epath.Path(tmp_path))
  for group in experiment.chosen():
    main.run(context, group)
  rows = [
      json.loads(line) for line in
      (tmp_path / 'rl/erl2/seed0/metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['step'] == 2 and 'validation/episode_2' in rows[-1]
  assert 'erl2' in (tmp_path / 'episodes/report.md').read_text()
