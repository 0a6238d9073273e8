# SPDX-License-Identifier: Apache-2.0
"""Prompted answers of a small chat model, through a stage `evaluate`."""

import json
import pathlib

import hypothesis
from hypothesis import strategies as st
import jax
import pytest

from configs import base as base_config
from configs import kinds
from configs import tasks as tasks_config
from meta_cot import main
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import traces
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import dialogues
from meta_cot.solvers import prompting
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import solving
from tests import huggingface_tokenizer_test as tokenizer_test
from tests import small_chat
from tests import small_run
from tests import small_texts

NAMES = tuple(prompting.STRATEGIES)
ASKED = 'samples', 'cot', 'think_3_shot', 'think_verify'  # of a run
NUM_PROBLEMS, MAX_NEW = 6, 16


def _experiment(policy, solvers=NAMES, **changes):
  """Problems, and a stage that asks a policy."""
  c = base_config.get_config()
  c.compilation_cache = 'off'
  c.style = 'free_text'
  c.task = tasks_config.word_problems()
  c.task.update(dict(num_train=20, num_validation=4, num_test=12))
  c.problems = kinds.problems(num_shards=1)
  c.evaluate = kinds.evaluate(
      policies=(str(policy),), solvers=solvers,
      num_problems=NUM_PROBLEMS, num_curve_problems=0)
  c.evaluate.samples.update(dict(
      batch_size=4, num_samples=2, max_new_tokens=MAX_NEW))
  c.evaluate.prompting.update(dict(batch_size=4, max_new_tokens=MAX_NEW))
  for name, value in changes.items():
    c.update_from_flattened_dict({name: value})
  c.stages = ('problems', 'evaluate')
  return experiment_lib.parse(c)


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  """A policy folder."""
  return small_chat.write(tmp_path_factory.mktemp('chat'))


@pytest.fixture(scope='module')
def context(policy, tmp_path_factory):
  """The context of a run that is over."""
  experiment = _experiment(policy, ASKED)
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:1])
  made = base.Context(
      experiment.shared, experiment.groups, mesh,
      files.path(tmp_path_factory.mktemp('prompting')))
  with sharding.use_mesh(mesh):
    for group in experiment.chosen(experiment.stages):
      main.run(made, group)
  return made


def _rows(context, name):
  folder = pathlib.Path(context.workdir / 'evaluate/rows')
  return [
      json.loads(line) for path in folder.glob(f'**/{name}/test/*.jsonl')
      for line in path.read_text().splitlines()]


@pytest.mark.parametrize('name', ASKED[1:])
def test_rows_of_every_strategy(context, name):
  rows = _rows(context, name)
  assert [row['place'] for row in rows] == [*range(NUM_PROBLEMS)]
  problems = [*context.task.problems('test', 0, NUM_PROBLEMS)]
  for row, problem in zip(rows, problems):
    details = row['details']
    assert details['text'].startswith(
        traces.prompt(problem, style='free_text'))
    assert details['difficulty'] == len(problem.data['facts'])
    number = details.get('attempts', 1) + details.get('checks', 0)
    assert number <= row['num_tokens'] <= number * MAX_NEW
    assert row['cost']['sequential_tokens'] == row['num_tokens']
    read = row['cost']['forwarded_tokens'] - row['num_tokens']
    if number == 1:
      assert read == row['cost']['prompt_tokens']
    else:  # prompts of checks are shorter, and have the attempt in them
      assert read > number * row['cost']['prompt_tokens'] / 2
    assert 0 < row['value'] < 1 and 0 < row['occupancy'] <= 1
    if not row['is_finished']:
      assert row['answer'] is None and not row['is_correct']
      assert details['error'] == 'unfinished'


def test_it_thinks_and_verifies_until_it_is_confident(context):
  rows = _rows(context, 'think_verify')
  for row in rows:  # this model never says a verdict
    assert not row['details']['is_confident']
    assert row['details']['attempts'] == 6
  assert sum(row['details']['checks'] for row in rows) > 0


def test_the_report_has_behaviours_by_difficulty(context):
  summary = files.read_json(context.workdir / 'evaluate' / 'summary.json')
  for name in ASKED:
    whole, *parts = (
        e for e in summary['reasoning'] if e['solver'] == name)
    assert whole['difficulty'] is None
    assert [e['difficulty'] for e in parts] == [1, 2, 3]
    assert sum(e['num_problems'] for e in parts) == whole['num_problems'] == (
        NUM_PROBLEMS)
    for key in ('success', 'tokens', 'regret', 'repeated_ngrams'):
      assert whole[key] == pytest.approx(sum(
          e[key] * e['num_problems'] for e in parts) / NUM_PROBLEMS)
    mean = small_run.find(summary['success'], solver=name)['mean_tokens']
    assert whole['tokens'] == pytest.approx(mean)
  report = (context.workdir / 'evaluate' / 'report.md').read_text()
  assert '## How it reasons' in report
  assert (context.workdir / 'evaluate' / 'behaviours.png').exists()
  means = small_run.find(summary['success'], solver='think_verify')['means']
  assert means['attempts'] == 6 and 'behaviours' not in means


def _solver(context, name, **changes):
  """Policy and solver with other settings than those of the run."""
  settings = context.groups['evaluate'].settings
  asked = solving.Asked(context, settings, settings.policies[0])
  changed = {**vars(settings.prompting), **changes}
  return asked.at(asked.folder.steps()[-1]), prompting.Prompter(
      name, prompting.Settings(**changed), context.task, context.mesh)


def test_answers_do_not_depend_on_batches(context):
  policy, solve = _solver(context, 'think_verify', batch_size=3, num_samples=2)
  problems = [*context.task.problems('test', 0, 4)]
  with sharding.use_mesh(context.mesh):
    whole = solve(policy, problems, jax.random.key(0))
    part = solve(policy, problems[2:], jax.random.key(0), first=2)
  assert whole.is_correct.shape == (4, 2)
  texts = whole.details['text']
  assert (texts[2:] == part.details['text']).all()
  assert (whole.num_tokens[2:] == part.num_tokens).all()
  assert len({*texts.reshape(-1)}) == 8  # no two samples are alike


def test_programs_are_those_that_run(context, policy):
  with sharding.use_mesh(context.mesh):
    built = {
        name.removeprefix('evaluate/'): build
        for name, build in experiment_lib.programs(
            _experiment(policy), context.mesh).items()}
    assert {*built} == {
        *NAMES, 'think_verify/1', 'think_verify/2'}
    problems = context.first_problems
    tokenizer = context.planned(str(policy)).tokenizer
    for name in NAMES:
      asker = _solver(context, name)[1].asker
      for number, width in asker.widths(tokenizer, problems).items():
        made = built[f'{name}/{number}' if number else name]()
        assert made.arguments[1].shape == (4, width)
    assert built['think_verify/1']().lower().as_text()


@pytest.mark.parametrize('kind', ['word_problems', 'gsm8k', 'math'])
def test_examples_are_training_problems_with_solutions(kind):
  group = {**getattr(tasks_config, kind)()} if kind == 'word_problems' else (
      small_texts.config(kind))
  task = tasks.make(kind, config_lib.parse(tasks.settings_of(kind), {
      k: v for k, v in group.items() if k != 'kind'}), 0)
  settings = prompting.Settings(4, 8, 1, 0.0, None, None, 3, 6)
  asker = prompting.Asker('think_3_shot', settings, task)
  train = {p.question: p for p in task.problems('train', 0, 100)}
  assert len(asker.examples) == 3
  for question, solution in asker.examples:
    assert task.verify(train[question], solution).is_correct
    assert 'boxed' in solution
  (test,) = task.problems('test', 0, 1)
  text = asker.first(test)
  assert text.count('Question:') == 4 and test.question in text
  assert text.index(test.question) > text.index(asker.examples[-1][0])


@pytest.mark.parametrize('changes, message', [
    (dict(style='prose'), "got 'baseline'; a policy of style 'prose' cannot"),
    (dict(max_length=512), 'prompting.max_new_tokens: got 16; prompts of ')])
def test_policies_that_are_refused(tmp_path, changes, message):
  with pytest.raises(config_lib.ConfigError, match=message) as error:
    _experiment(small_chat.write(tmp_path, **changes))
  assert '\n' not in str(error.value)


def test_a_task_without_solutions_has_no_examples(policy):
  with pytest.raises(
      config_lib.ConfigError, match="'think_3_shot'; it shows 99 training"):
    _experiment(policy, **{'evaluate.prompting.num_shots': 99})


@hypothesis.given(
    st.lists(st.text(max_size=200), min_size=1, max_size=2),
    st.integers(0, 100))
def test_prompts_fit(written, room):
  tokenizer = tokenizer_test._ours('byte_level')
  write = lambda *parts: 'check: ' + ' and '.join(parts)
  bare = write(*('' for _ in written))
  width = len(tokenizer.encode_prompt(bare)) + room
  prompt = dialogues.Prompt(write, tuple(written))
  text = prompting.fitted(tokenizer, prompt, width)
  assert len(tokenizer.encode_prompt(text)) <= width
  whole = write(*written)
  assert (text == whole) == (len(tokenizer.encode_prompt(whole)) <= width) or (
      text == bare)
