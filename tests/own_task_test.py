# SPDX-License-Identifier: Apache-2.0
"""What is wrong in a task of a user's own is one line with its name."""

import pickle
import time
import types

import numpy as np
import pytest

from configs import countdown as countdown_config
from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import main
from meta_cot import tasks
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import factory
from meta_cot.tasks import faults
from meta_cot.tasks import own as own_lib
from meta_cot.tasks import process

# Counting down by ones and twos; every fault below changes a few words of it.
OWN = '''
import dataclasses
import time
from meta_cot import tasks, traces
from meta_cot.settings import config

@dataclasses.dataclass(frozen=True)
class Settings:
  largest: int = config.setting(low=9)

class Teacher:
  strategies = ('greedy',)
  def search(self, problem, strategy, seed):
    nodes, left = [traces.Node(-1, '', problem.question, 0)], problem.data['n']
    while left:
      step = min(left, 2)
      left -= step
      nodes.append(traces.Node(
          len(nodes) - 1, f'take {step}', str(left),
          order=len(nodes) if left else -1,
          is_terminal=left == 0, is_correct=left == 0))
    return traces.TraceRecord(
        problem, strategy, {}, seed, 'symbolic', tuple(nodes),
        tuple(range(len(nodes))), 'expansion')

class States:
  def first(self, problem):
    return problem.question
  def after(self, problem, state, step):
    left = int(state) - {'take 1': 1, 'take 2': 2}.get(step, 10 ** 6)
    return str(left) if left >= 0 else None
  def max_steps(self, problem):
    return problem.data['n']

class Down:
  splits = ('train', 'validation', 'test')
  teacher = Teacher()
  states = States()
  in_graph = None
  feedback = measure = None
  def __init__(self, largest):
    self.largest = largest
  def size(self, split):
    return self.largest // 3
  def problems(self, split, start, stop):
    for i in range(start, stop):
      n = 3 * i + self.splits.index(split) + 1
      yield tasks.Problem(f'down-{n}', str(n), '', {'n': n})
  def verify(self, problem, answer):
    left = problem.question
    for step in answer.split('\\n'):
      left = left and self.states.after(problem, left, step)
    return tasks.Verdict(left == '0', f'{left} left')
  def vary(self, problem, rng):
    return problem

def make(settings, seed):
  return Down(settings.largest if settings else 0)
'''
LIMIT = 0.5  # seconds of a call


@pytest.fixture
def write(tmp_path):
  """Writes a task with some words changed; returns its kind."""

  def write(*changes):
    text = OWN
    for before, after in changes:
      assert text.count(before) == 1, before
      text = text.replace(before, after)
    folder = tmp_path / f'task{len(list(tmp_path.iterdir()))}'
    folder.mkdir()
    (folder / 'down.py').write_text(text)
    return str(folder / 'down.py')
  return write


def _make(kind):
  return tasks.make(
      kind, config_lib.parse(tasks.settings_of(kind), dict(largest=9)), 0)


def _first(task):
  return next(task.problems('train', 0, 1))


def _run(
    kind, workdir, *stages, style='compact', largest=9, num_processes=1):
  """Runs stages `problems` and others as the command does."""
  config = countdown_config.pipeline()
  config.style = style
  config.task = dict(kind=kind, largest=largest)
  config.traces.update(dict(
      strategies='greedy', num_processes=num_processes))
  config.problems.num_processes = num_processes
  config.stages = ('problems', *stages)
  experiment = experiment_lib.parse(config)
  context = base.Context(
      experiment.shared, experiment.groups, workdir=files.path(workdir))
  for name in config.stages:
    main.run(context, experiment.groups[name])
  return context


def test_without_a_fault_it_is_as_the_task_itself(write, tmp_path):
  context = _run(write(), tmp_path / 'w', 'traces')
  task = context.task
  assert [p.question for p in task.problems('test', 0, 9)] == ['3', '6', '9']
  problem = _first(task)
  assert task.verify(problem, 'take 1').is_correct
  assert not task.verify(problem, 'take 2').is_correct
  assert task.vary(problem, np.random.default_rng(0)) == problem
  assert task.states.first(problem) == '1'
  assert task.states.after(problem, '3', 'take 2') == '1'
  assert task.states.after(problem, '3', 'drop\n2') is None
  assert task.states.max_steps(problem) == 1
  again = pickle.loads(pickle.dumps(task))
  assert list(again.problems('train', 1, 3)) == list(
      task.problems('train', 1, 3))
  assert store.read_manifest(context.workdir / 'traces').splits[
      'train'].counts['num_solved'] == 3


def test_worker_processes_read_the_file_too(write, tmp_path):
  kind = write()
  one = _run(kind, tmp_path / 'one', 'traces')
  two = _run(kind, tmp_path / 'two', 'traces', num_processes=2)
  for stage in ('problems', 'traces'):
    assert store.read_manifest(one.workdir / stage) == store.read_manifest(
        two.workdir / stage)
  with pytest.raises(faults.TaskError, match='raised .*down.py:16: KeyError'):
    _run(write(('step = min(left, 2)', "step = problem.data['m']")),
         tmp_path / 'three', 'traces', num_processes=2)


def test_a_file_is_named_without_its_folder(write, tmp_path):
  shared = _run(write(), tmp_path / 'w').shared
  assert shared.bound()['task'] == dict(kind='down.py', largest=9)


MAKE = {
    'make raises': (
        ('return Down(', 'return 1 / 0, Down('), r'make raised .*down.py:58: '
        'ZeroDivisionError: division by zero'),
    'no part': (
        ('  in_graph = None\n', ''), 'a Down without in_graph; a part it '
        'does not have is None'),
    'no method': (('def vary', 'def very'), 'a Down without vary'),
    'a part of a part': (('def after', 'def behind'), 'states has no after'),
    'splits': (
        ("'validation', 'test')", "'test')"), "splits is .'train', 'test'"),
    'size': (('self.largest // 3', 'self.largest / 3'), 'size returned 3.0'),
    'size raises': (
        ('self.largest // 3', 'self.large'), "size raised .* 'Down' object has "
        "no attribute 'large'"),
    'too few': (
        ('    for i in range(start, stop):',
         '    for i in range(start, min(stop, 2)):'), 'gave 2 problems'),
    'no problem': (
        ('yield tasks.Problem(', 'yield ('), "number 0 gave .'down-1'"),
    'no text': (
        ("{n}', str(n),", "{n}', n,"), 'number 0 has question 1; must be'),
    'a tuple': (
        ("{'n': n}", "{'n': (n,)}"), "number 0 .id 'down-1'. has data .*JSON"),
    'a set': (("{'n': n}", "{'n': {n}}"), 'set is not JSON serializable'),
    'not a number': (
        ("{'n': n}", "{'n': float('nan')}"), 'must be what JSON gives back'),
    'problems raise': (
        ('      n = 3 *', '      n = 1 // i + 3 *'), r'problems.* raised .*'
        'down.py:47: ZeroDivisionError'),
    'settings': (
        ('@dataclasses.dataclass(frozen=True)', '@dataclasses.dataclass'),
        'Settings is .* must be a class with @dataclasses.dataclass.frozen'),
}


@pytest.mark.parametrize('change, message', MAKE.values(), ids=MAKE)
def test_before_any_work(write, change, message):
  kind = write(change)
  with pytest.raises(config_lib.UserError, match=message) as error:
    list(_make(kind).problems('train', 0, 3))
  assert str(error.value).startswith('task down.py: ')
  assert '\n' not in str(error.value)


STAGES = {
    'an id again': (
        ("f'down-{n}'", "f'down-{n % 3}'"), "problems train 0 and train 1 have "
        "the same id 'down-1'"),
    'a question again': (
        ("{n}', str(n),", "{n}', str(n % 3 or 1),"),
        "problems train 0 and train 1 have the same question '1'"),
    'splits overlap': (
        ("n = 3 * i + self.splits.index(split) + 1\n      yield "
         "tasks.Problem(f'down-{n}'",
         "n = i + 1\n      yield tasks.Problem(f'down-{split}-{n}'"),
        'problems train 0 and validation 0 have the same question'),
    'the teacher raises': (
        ('step = min(left, 2)', "step = problem.data['m']"),
        r"teacher.search\('down-1', 'greedy'\) raised .*down.py:16: KeyError"),
    'no record': (('return traces.TraceRecord(', 'return ('), 'TraceRecord'),
    'another problem': (
        ('        problem, strategy,', "        tasks.Problem('a', '1', '', {})"
         ', strategy,'), "a record of problem 'a'"),
    'a false solution': (
        ("f'take {step}', str(left)", "f'take {3 - step}', str(left)"),
        r"has the solution \['take 2'\], which verify refuses .None left"),
    'a false tree': (
        ('len(nodes) - 1, f', 'len(nodes) + 1, f'), 'node 1 has parent 2'),
}


@pytest.mark.parametrize('change, message', STAGES.values(), ids=STAGES)
def test_while_its_stage_runs(write, tmp_path, change, message):
  with pytest.raises(faults.TaskError, match=message) as error:
    _run(write(change), tmp_path / 'w', 'traces')
  assert str(error.value).startswith('task down.py: ')
  assert '\n' not in str(error.value)


def test_what_the_style_cannot_write(write, tmp_path):
  context = _run(kind := write(), tmp_path / 'w')
  with pytest.raises(config_lib.UserError) as error:
    _ = context.first_problems
  assert str(error.value).startswith(
      "task down.py: the question of problem 'down-1' cannot be written in "
      "style 'compact': ")
  with pytest.raises(config_lib.UserError) as error:
    _run(kind, tmp_path / 'w', 'traces', 'tokenizer')
  assert str(error.value).startswith(
      "task down.py: the search of problem 'down-1' cannot be written in style")


def test_what_the_tokenizer_cannot_write(write, tmp_path):
  # A question of the split that comes late has a character of its own.
  odd = lambda split: write((
      "{n}', str(n),",
      f"{{n}}', str(n) + 'ß' * (split == '{split}'),"), (
          'left = problem.question', 'left = str(problem.data["n"])'))
  with pytest.raises(config_lib.UserError) as error:
    _run(odd('validation'), tmp_path / 'v', 'traces', 'tokenizer',
         style='prose')
  assert str(error.value).startswith(
      "task down.py: the search of problem 'down-2' cannot be written by the "
      "tokenizer, which has no token for 'ß'; ")
  context = _run(
      odd('test'), tmp_path / 'w', 'traces', 'tokenizer', style='prose',
      largest=60)
  policy = types.SimpleNamespace(
      style='prose', tokenizer=lambda: tokenizers.load(
          context.workdir / 'tokenizer'))
  context.check_prompts(policy, context.problems('problems', 'validation'))
  with pytest.raises(config_lib.UserError, match="question of problem 'down-3'"
                     ' cannot be written by the tokenizer'):
    context.check_prompts(policy, context.problems('problems', 'test'))


def test_problems_that_were_refused_are_made_again(write, tmp_path):
  with pytest.raises(faults.TaskError, match='the same id'):
    _run(write(("f'down-{n}'", "'down'")), tmp_path / 'w')
  assert not list((tmp_path / 'w' / 'problems').glob('*'))


def test_a_verifier_that_raises_ends_the_run(write):
  task = _make(write(('left and self.states.after(problem, left, step)',
                      'int(step)')))
  with pytest.raises(faults.TaskError) as error:
    task.verify(_first(task), 'seven')
  assert str(error.value).startswith("task down.py: verify('down-1', 'seven') ")
  assert "ValueError: invalid literal for int() with base 10: 'seven'" in str(
      error.value)
  task = _make(write(('return tasks.Verdict(left', 'return (left')))
  with pytest.raises(faults.TaskError, match='must be a Verdict'):
    task.verify(_first(task), 'take 1')
  with pytest.raises(faults.TaskError, match="'down-1', 'x', 'y'. raised"):
    task.states.after(_first(task), 'x', 'y')


@pytest.mark.parametrize('body, reason', [
    ("time.sleep(60) if 'w' in answer else None", 'no end within 0.5 seconds'),
    ("9 ** 9 ** 9 if 'w' in answer else None", 'no end within 0.5 seconds'),
    ("bytearray(2 ** 40) if 'w' in answer else None", 'more than 4 GiB'),
    ("exit(3) if 'w' in answer else None", 'ended with code 3')],
    ids=['sleeps', 'computes', 'fills memory', 'leaves'])
def test_an_answer_without_a_verdict_is_undecided(
    write, monkeypatch, caplog, body, reason):
  monkeypatch.setattr(process, 'SECONDS', LIMIT)
  task = _make(write(('    left = problem.question',
                      f'    {body}\n    left = problem.question')))
  problem, start = _first(task), time.monotonic()
  verdict = task.verify(problem, 'wait')
  assert not verdict.is_correct and not verdict.is_decided
  assert reason in verdict.reason
  assert "task down.py: verify on problem 'down-1' and the answer 'wait'" in (
      caplog.text)
  assert task.verify(problem, 'take 1').is_correct
  assert time.monotonic() - start < 30


def test_too_many_undecided_answers_end_the_run(write, monkeypatch):
  monkeypatch.setattr(own_lib, '_MAX_LOST', 2)
  task = _make(write((
      'left and self.states.after(problem, left, step)', 'exit()')))
  assert not task.verify(_first(task), 'a').is_decided
  with pytest.raises(faults.TaskError, match='answer 2 without a verdict'):
    task.verify(_first(task), 'b')


def test_a_file_that_cannot_be_read(tmp_path):
  with pytest.raises(config_lib.UserError, match='cannot be imported'):
    factory.make(str(tmp_path / 'none.py'))
  path = tmp_path / 'half.py'
  path.write_text('import nowhere_at_all')
  for _ in range(2):
    with pytest.raises(config_lib.UserError, match='half.py:1: Modul'):
      factory.make(str(path))
