# SPDX-License-Identifier: Apache-2.0
"""A stage with one budget for all, by a model that was trained for seconds."""

import pytest

from configs import budgets
from meta_cot.evaluation import rows as rows_lib
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from tests import search_stage_test
from tests import small_run

TOKENS, NUM_PROBLEMS = 60, 200
SOLVERS = ('samples', 'best_first')
TASK = dict(max_number=7, heldout_numbers_fraction=0.5)
CHANGES = {
    'solvers': SOLVERS, 'num_problems': NUM_PROBLEMS,
    'budget.tokens': TOKENS, 'budget.num_problems': 24, 'budget.block': 8,
    'search.branching': 2, 'episodes.num_episodes': 2,
    'episodes.num_questions': 8, 'episodes.num_slots': 32}


def _stage(workdir, **changes):
  experiment = search_stage_test._experiment(TASK, **CHANGES | changes)
  search_stage_test._run(experiment, workdir, 'search')


@pytest.fixture(scope='module')
def asked(tmp_path_factory):
  """A workdir with the stage's files."""
  workdir = tmp_path_factory.mktemp('budget') / 'w'
  experiment = search_stage_test._experiment(TASK, **CHANGES)
  search_stage_test._run(experiment, workdir, *experiment.stages)
  return workdir


def _check(workdir, name):
  summary = files.read_json(workdir / 'search' / 'summary.json')
  entry = small_run.find(summary['budget'], solver=name)
  rows = rows_lib.read(search_stage_test._folder(workdir, name))
  assert entry['num_problems'] == NUM_PROBLEMS
  assert entry['drawn'] == pytest.approx(
      sum(row['num_tokens'] for row in rows) / NUM_PROBLEMS)
  assert abs(entry['error']) < 0.02, entry
  assert len(entry['sizes']) == 2 and 0 < entry['share'] < 1
  report = (workdir / 'search' / 'report.md').read_text()
  assert f'| {name} | heldout_numbers | {NUM_PROBLEMS} | {TOKENS} | ' in report


@pytest.mark.parametrize('name', SOLVERS)
def test_a_strategy_draws_what_it_may(asked, name):
  _check(asked, name)


@pytest.mark.slow
def test_every_strategy_draws_what_it_may(asked):
  _stage(asked, solvers=budgets.SOLVERS)
  for name in budgets.SOLVERS:
    _check(asked, name)


def test_few_sizes_are_tried(asked):
  tried = {
      name: [*(asked / 'search' / 'sizes').rglob(f'{name}/validation')]
      for name in SOLVERS}
  assert all(2 <= len(sizes) <= 9 for sizes in tried.values()), tried
  assert sum(map(len, tried.values())) <= 6 * len(tried)


@pytest.mark.parametrize('changes, words', [
    ({'budget.tokens': 3}, r'config\.search\.budget\.tokens: got 3; beam of '
     r'sft/solution_only draws .* at its smallest sizes; must be at least'),
])
def test_a_budget_that_is_too_small_is_one_line(asked, changes, words):
  with pytest.raises(config_lib.ConfigError, match=words) as e:
    _stage(asked, **changes, solvers=('beam',))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('changes, words', [
    ({'solvers': ('greedy',)}, r'budget\.tokens: got 60; no solver spends'),
    ({'curve_solvers': ('samples',)}, 'have no sizes of their own'),
    ({'num_rounds': 2}, r'num_rounds: got 2; must be 1')])
def test_what_no_budget_can_say_is_refused(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words):
    search_stage_test._experiment(TASK, **CHANGES | changes)
