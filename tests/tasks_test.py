# SPDX-License-Identifier: Apache-2.0
"""What every task promises, and how tasks are found."""

import functools
import pickle
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from configs import countdown as countdown_config
from configs import game24 as game24_config
from configs import tasks as tasks_config
from data_pipelines import arms
from data_pipelines import store
from meta_cot import main
from meta_cot import problem as problem_lib
from meta_cot import tasks
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import factory
from meta_cot.traces import record as record_lib
from tests import small_run
from tests import small_texts

CONFIGS = {
    'countdown': lambda: countdown_config.get_config('tiny').task,
    'game24': lambda: game24_config.get_config('tiny').task,
    'gsm8k': functools.partial(small_texts.config, 'gsm8k'),
    'math': functools.partial(small_texts.config, 'math'),
    'maze': tasks_config.maze,
    'sudoku4': lambda: {**tasks_config.sudoku4(), 'num_train': 2_000},
    'word_problems': tasks_config.word_problems}
OWN = '''
import dataclasses
from meta_cot.problem import Problem, Verdict
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

@dataclasses.dataclass(frozen=True)
class Settings:
  number: int = config_lib.setting(low=1)

@dataclasses.dataclass(frozen=True)
class Sums:
  number: int
  splits = ('train', 'validation', 'test')
  teacher = states = in_graph = feedback = measure = None
  def size(self, split):
    return self.number
  def problems(self, split, start, stop):
    for i in range(start, stop):
      yield Problem(f'{split}-{i}', f'{split}: {i}+{i}', str(2 * i), {})
  def verify(self, problem, answer):
    return Verdict(answer == problem.answer, 'equal or not')
  def vary(self, problem, rng):
    return problem

def make(settings, seed):
  return Sums(settings.number if settings else 0)
'''


# Of those in which something is hidden other laws hold: tests/worlds_test.py,
# tests/expressions_test.py.
KINDS = [
    kind for kind, module in factory.KINDS.items() if '.worlds.' not in module]


def test_every_kind_is_tested():
  assert CONFIGS.keys() == set(KINDS)


@pytest.fixture(params=KINDS, scope='module')
def task(request):
  values = dict(CONFIGS[request.param]())
  kind = values.pop('kind')
  assert kind == request.param
  settings = config_lib.parse(tasks.settings_of(kind), values)
  return tasks.make(kind, settings, 2)


def _first(task):
  return next(task.problems('train', 0, 1))


def test_splits_come_in_order(task):
  assert task.splits[:2] == ('train', 'validation')
  assert tasks.test_splits(task) == task.splits[2:] != ()
  with pytest.raises(ValueError, match="split: got 'exam'; must be one of"):
    task.size('exam')
  with pytest.raises(ValueError, match='start: got -1'):
    task.problems('train', -1, 1)


def test_a_range_of_problems_is_a_slice_in_every_process(task):
  again = pickle.loads(pickle.dumps(task))
  for split in task.splits:
    size = task.size(split)
    assert size > 60
    whole = list(task.problems(split, 0, size))
    assert len(whole) == size
    assert len({p.id for p in whole}) == len({p.question for p in whole})
    for start, stop in ((0, 5), (17, 31), (size - 2, size + 9), (size, size)):
      assert list(again.problems(split, start, stop)) == whole[start:stop]


def _given(problem):
  """What a problem gives, in any order: numbers, walls, facts, or a text."""
  given = next((problem.data[name] for name in ('numbers', 'walls', 'facts')
                if name in problem.data), None)
  return tuple(sorted(map(str, given or problem.question.split(','))))


def test_what_validation_gives_is_in_no_other_split(task):
  found = {
      split: {_given(p) for p in task.problems(split, 0, task.size(split))}
      for split in task.splits}
  for split in ('train', *tasks.test_splits(task)):
    assert not found[split] & found['validation']


def test_problems_are_stored_as_they_are(task):
  for problem in task.problems('validation', 0, 20):
    assert problem_lib.from_json(problem_lib.to_json(problem)) == problem
  for text in ('{}', '[1]', '{"id": 1', '{"no": 2}'):
    with pytest.raises(ValueError, match='not a problem'):
      problem_lib.from_json(text)


@hypothesis.given(st.text())
@hypothesis.example('0/0')
@hypothesis.example('=')
@hypothesis.example('0 0\n1 1')
@hypothesis.example('r1c2=2')
def test_no_answer_makes_a_verifier_raise(text):
  for kind in KINDS:
    task = tasks.make(kind)
    problem = tasks.Problem('p', '', '', dict(
        numbers=[1, 2], target=999, size=2, start=[0, 0], goal=[1, 1],
        walls=[], facts=[[1, '+', 2]],
        givens=[1, 0, 0, 0, 0, 0, 1, 2, 2, 0, 0, 3, 4, 0, 0, 0]))
    assert not task.verify(problem, text).is_correct


def test_the_teacher_s_solutions_are_right_and_legal(task):
  solved = 0
  for problem in task.problems('train', 0, 8):
    for strategy in task.teacher.strategies:
      record = task.teacher.search(problem, strategy, 5)
      assert record == task.teacher.search(problem, strategy, 5)
      assert record_lib.from_json(record_lib.to_json(record)) == record
      assert record.problem == problem
      if record.is_solved:
        solved += 1
        steps = [record.nodes[i].step for i in record.solution[1:]]
        assert task.verify(problem, '\n'.join(steps)).is_correct
        state = task.states.first(problem)
        for i, step in zip(record.solution[1:], steps):
          state = task.states.after(problem, state, step)
          assert state == record.nodes[i].state
        assert len(steps) <= task.states.max_steps(problem)
  assert solved > 8 * len(task.teacher.strategies) / 3


@pytest.mark.parametrize('step', [
    '', 'x', '99+1=100', '1+1', '=', '0/0=0', '99 99', '-1 0'])
def test_illegal_steps_lead_nowhere(task, step):
  problem = _first(task)
  if 'steps' in problem.data:  # what lines of a text say is not checked
    assert task.states.after(problem, '2', step) == ('3' if step else None)
    return
  after = functools.partial(
      task.states.after, problem, task.states.first(problem))
  if 'facts' in problem.data and '=' not in step[1:]:
    assert after(step) == task.states.first(problem)  # no equation
  else:
    assert after(step) is None
  if 'numbers' in problem.data:
    a, b = problem.data['numbers'][:2]
    right, wrong = f'{a}+{b}={a + b}', f'{a}+{b}={a + b + 1}'
  elif 'walls' in problem.data:
    right, wrong = (
        '{} {}'.format(*problem.data[name]) for name in ('start', 'goal'))
  elif 'facts' in problem.data:
    a = problem.data['facts'][0][0]
    right, wrong = f'{a} + {a} = {2 * a} now.', f'{a} + {a} = {2 * a + 1}.'
  else:
    right, wrong = problem.answer[:6], problem.question[:6]  # a given cell
  assert after(right) is not None
  assert after(wrong) is None


def test_inputs_of_the_judge_have_equal_shapes(task):
  if task.in_graph is None:
    return
  shapes = {
      tuple((name, x.shape, x.dtype) for name, x in
            task.in_graph.inputs(problem).items())
      for split in task.splits for problem in task.problems(split, 0, 9)}
  assert len(shapes) == 1


def test_a_variation_asks_the_same(task):
  problem, questions = _first(task), set()
  solved = task.teacher.search(problem, task.teacher.strategies[0], 0)
  answer = '\n'.join(solved.nodes[i].step for i in solved.solution[1:])
  for seed in range(30):
    varied = task.vary(problem, np.random.default_rng(seed))
    assert varied == task.vary(problem, np.random.default_rng(seed))
    assert task.verify(varied, answer).is_correct
    questions.add(varied.question)
  assert len(questions) > 1 or 'steps' in problem.data


@pytest.mark.parametrize('kind', KINDS)
def test_without_settings_it_judges_and_has_no_problems(kind):
  task = tasks.make(kind)
  for ask in (lambda: task.size('train'),
              lambda: task.problems('train', 0, 1)):
    with pytest.raises(config_lib.UserError, match='has no problems') as error:
      ask()
    assert '\n' not in str(error.value)


def test_tasks_and_records_need_no_jax():
  script = (
      'import sys; from meta_cot import problem, tasks\n'
      'from data_pipelines import store\n'
      f'for kind in {tuple(factory.KINDS)}:\n'
      '  tasks.make(kind)\n'
      'assert "jax" not in sys.modules')
  subprocess.run(
      [sys.executable, '-c', script], cwd=small_run.ROOT, check=True)


@pytest.fixture
def own(tmp_path, monkeypatch):
  """Modules of a user, by what they say."""
  monkeypatch.syspath_prepend(tmp_path)
  package = tmp_path / f'own_{tmp_path.name}'
  package.mkdir()

  def write(name, text):
    (package / f'{name}.py').write_text(text)
    return f'{package.name}.{name}'
  return write


def test_a_task_of_a_user_s_own(own):
  kind = own('sums', OWN)
  settings = config_lib.parse(tasks.settings_of(kind), dict(number=3))
  task = tasks.make(kind, settings, 1)
  problems = list(task.problems('test', 0, task.size('test')))
  assert [p.answer for p in problems] == ['0', '2', '4']
  assert task.verify(problems[1], '2').is_correct


@pytest.mark.parametrize('text, message', [
    (None, 'cannot be imported'), ('import nowhere_at_all', 'nowhere_at_all'),
    ('def make(:', 'cannot be imported'), ('', 'has no Settings'),
    ('class Settings: pass', 'has no make')])
def test_a_broken_task_is_one_line(own, text, message):
  kind = own('broken', text) if text is not None else 'own.nothing'
  with pytest.raises(config_lib.UserError, match=message) as error:
    tasks.make(kind)
  assert '\n' not in str(error.value) and repr(kind) in str(error.value)
  with pytest.raises(config_lib.UserError, match="got 'chess'; must be one of"):
    tasks.settings_of('chess')


def test_a_task_of_a_user_s_own_has_stages(own, tmp_path):
  config = countdown_config.pipeline()
  config.task = dict(kind=own('more', OWN), number=3)
  with pytest.raises(config_lib.ConfigError, match='has no teacher') as error:
    experiment_lib.parse(config)
  assert '\n' not in str(error.value)
  config.stages = ('problems',)
  experiment = experiment_lib.parse(config)
  context = base.Context(
      experiment.shared, experiment.groups, workdir=files.path(tmp_path / 'w'))
  main.run(context, experiment.groups['problems'])
  read = functools.partial(context.problems, 'problems')
  assert [p.answer for p in read('test')] == ['0', '2', '4']
  assert len(read('train', 2)) == 2
  assert store.read_manifest(context.workdir / 'problems').kind == 'problem'
  with pytest.raises(config_lib.ConfigError, match='has no states'):
    arms.make('revisions', context.task)
  config.task.number = 0
  with pytest.raises(config_lib.ConfigError, match='config.task.number: got 0'):
    experiment_lib.parse(config)
