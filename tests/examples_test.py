# SPDX-License-Identifier: Apache-2.0
"""The task of the tutorial: its laws, its run, and the text about it."""

import json
import re

import pytest

from meta_cot import tasks
from meta_cot import traces
from meta_cot.settings import config_file
from meta_cot.stages import experiment as experiment_lib
from tests import small_run

FILE = small_run.ROOT / 'examples' / 'pouring.py'
TUTORIAL = small_run.ROOT / 'docs' / 'tasks.md'
_SHORT = (
    '--config.model.num_layers=1', '--config.model.embed_dim=32',
    '--config.model.mlp_dim=32', '--config.task.num_heldout=40',
    '--config.sft.num_tokens=40_000',
    '--config.evaluate.num_problems=24',
    '--config.evaluate.samples.num_samples=2',
    '--config.evaluate.samples.max_new_tokens=96',
    '--config.search.num_problems=12', '--config.search.samples.num_samples=2',
    '--config.rl.num_iterations=1', '--config.rl.eval_every=1',
    '--config.rl.num_eval_problems=8', '--config.rl.questions.num_questions=8',
    '--config.rl.questions.num_samples=4', '--config.rl.questions.num_slots=32')


@pytest.fixture(scope='module')
def task():
  experiment = experiment_lib.parse(config_file.load(str(FILE)))
  return experiment.shared.task


def test_its_teacher_finds_and_tells_a_solution_of_every_problem(task):
  for problem in task.problems('test', 0, 40):
    record = task.teacher.search(problem, 'depth_first', 0)
    steps = [record.nodes[i].step for i in record.solution[1:]]
    assert task.verify(problem, '\n'.join(steps)).is_correct
    state = task.states.first(problem)
    for i, step in zip(record.solution[1:], steps):
      state = task.states.after(problem, state, step)
      assert state == record.nodes[i].state
    assert (problem.data['shortest'] <= len(steps)
            <= task.states.max_steps(problem))
    events = traces.linearize(record)
    text = traces.render(events, style='prose')
    assert traces.parse(text, style='prose') == events


@pytest.mark.parametrize('answer', ['', 'A into A', 'B into A\n', 'a', '\n\n'])
def test_what_is_no_step_is_no_answer(task, answer):
  problem = next(task.problems('test', 0, 1))
  assert not task.verify(problem, answer).is_correct
  assert task.states.after(problem, '1,2,3', answer) is None


def test_without_settings_it_judges(task):
  problem = next(task.problems('test', 0, 1))
  assert not tasks.make(str(FILE)).verify(problem, 'A into B\n' * 9).is_correct


def test_water_is_neither_made_nor_lost(task):
  for problem in task.problems('train', 0, 30):
    water = problem.data['water']
    state = task.states.first(problem)
    for step in ('A into B', 'C into A', 'B into C', 'A into B'):
      state = task.states.after(problem, state, step)
      assert sum(map(int, state.split(','))) == sum(water)


def test_it_runs_from_problems_to_rl_in_another_folder(tmp_path):
  small_run.run_elsewhere(FILE, tmp_path, _SHORT)
  summary = json.loads((tmp_path / 'w/evaluate/summary.json').read_text())
  for policy in ('sft/traces', 'sft/solution_only', 'symbolic'):
    solver = 'teacher' if policy == 'symbolic' else 'greedy'
    found = small_run.find(
        summary['success'], policy=policy, solver=solver, split='test')
    assert found['num_problems'] == 24
  report = (tmp_path / 'w/search/report.md').read_text()
  assert 'beam' in report
  assert (tmp_path / 'w/rl/single/seed0/summary.json').exists()
  (mark,) = (tmp_path / 'w/done').glob('problems.json')
  assert json.loads(mark.read_text())['shared']['task']['kind'] == 'pouring.py'


def test_the_tutorial_has_the_whole_file_in_its_order():
  blocks = re.findall(r'```python\n(.*?)```', TUTORIAL.read_text(), re.DOTALL)
  lines = lambda text: [line for line in text.splitlines() if line.strip()]
  assert lines('\n'.join(blocks)) == lines(FILE.read_text())
