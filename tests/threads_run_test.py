# SPDX-License-Identifier: Apache-2.0
"""Threads from a config to rows and figures."""

import numpy as np
import pytest

from configs import threads as threads_config
from configs.paper import ladder
from meta_cot.evaluation import figures
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation.figures import base
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment
from meta_cot.traces.arithmetic import teacher
from tests import small_training


@pytest.mark.parametrize('variant', threads_config.VARIANTS)
def test_every_variant_can_run(variant):
  parsed = experiment.parse(threads_config.get_config(variant))
  policies = parsed.groups['table'].settings.policies
  assert policies == {
      'tiny': ('sft', 'sos', 'named'), 'four': ('sft', 'named')}[variant]
  assert len({parsed.groups[n].settings.num_tokens for n in policies}) == 1
  assert set(threads_config.NAMES) == set(teacher.THREADS)
  names = parsed.groups['named'].settings.data.openings
  assert names == threads_config.NAMES[:len(names)]
  drawn = experiment.parse(ladder.get_config(variant))
  assert drawn.stages == (*parsed.stages, 'window', 'sequential', 'total')


@pytest.mark.parametrize('changes, words', [
    ({'style': 'compact'}, "arms: got 'threads' with style 'compact'"),
    ({'table.episodes.threads.window': 5_000},
     'table.episodes.threads.window: got 5000'),
    ({'table.episodes.threads.thread_window': 1}, 'thread_window: got 1'),
    ({'traces.strategies': 'threads_3'}, "strategies: got 'threads_3'")])
def test_what_cannot_be_is_refused(changes, words):
  config = threads_config.get_config('tiny')
  config.update_from_flattened_dict(changes)
  with pytest.raises(config_lib.ConfigError, match=words):
    experiment.parse(config)


def test_policies_of_other_styles_open_no_threads():
  config = threads_config.get_config('tiny')
  config.sft.update(dict(style='compact', arms=('traces',)))
  with pytest.raises(
      config_lib.ConfigError, match='compact_digits_threads does'):
    experiment.parse(config)


def _row(place, policy, is_correct, tokens, sequential, window):
  return dict(
      version=rows_lib.VERSION, policy=policy, seed=0, step=1,
      trained_tokens=None, solver='threads', split='test', problem=f'p{place}',
      place=place, attempt=0, episode=1, is_correct=is_correct,
      is_finished=True, num_tokens=tokens, answer='a', value=None, seconds=0.1,
      occupancy=1.0, cost=None, details=dict(
          sequential=sequential, window=window))


def test_figures_count_what_is_right_within():
  rows = [
      _row(0, 'a', True, 90.0, 30, 20), _row(1, 'a', False, 10.0, 10, 10),
      _row(2, 'a', True, 40.0, 20, 30), _row(0, 'b', True, 50.0, 50, 60)]
  groups = [base.Group('table', base.runs_of(rows, {}))]
  for name, ends, other in (('window', (20, 30), 60),
                            ('sequential', (20, 30), 50),
                            ('total', (40, 90), 50)):
    figure = figures.FIGURES[name](groups)
    assert set(figure.lines) == {'a', 'b'}
    (x, y), (same, theirs) = (
        np.array([point[:2] for point in figure.lines[policy]]).T
        for policy in 'ab')
    np.testing.assert_array_equal(x, same)
    assert x[0] < 10 and x[-2] < max(*ends, other) <= x[-1]
    np.testing.assert_allclose(y, (x >= ends[0]) / 3 + (x >= ends[1]) / 3)
    np.testing.assert_allclose(theirs, x >= other)
    header, *_, last = base.markdown(figure).splitlines()
    assert header.startswith('| policy | 8 | 12 | 16 | 24 | 32 | 48 | 64 |')
    assert last.startswith('| b | 0.0 [') and ' | 100.0 [' in last


def test_a_run_leaves_rows_and_figures(tmp_path):
  config = ladder.get_config('tiny')
  config.model.update(small_training.MODEL | dict(max_length=256))
  config.task.update(dict(max_number=6, max_target=20))
  config.stages = ('problems', 'traces', 'tokenizer', 'named', 'table',
                   'sequential')
  config.problems.num_shards = config.traces.num_shards = 1
  config.named.update(dict(
      seeds=(), num_tokens=6_000, batch_size=4, num_eval_batches=1))
  config.table.update(dict(policies=('named',), num_problems=4))
  config.table.episodes.update(dict(num_questions=4, num_slots=8))
  config.table.episodes.threads.update(dict(
      num_joins=2, num_threads=12, window=160, thread_window=64,
      temperature=1.0))
  context = small_training.run_stages(experiment.parse(config), tmp_path / 'w')
  summary = files.read_json(context.folder('table') / 'summary.json')
  assert {e['policy'] for e in summary['success']} == {
      f'named/threads {name}' for name in threads_config.NAMES}
  rows = rows_lib.read_tree(context.folder('table') / 'rows')
  assert len(rows) == 16
  for row in rows:
    told = row['details']
    assert told['threads'] == len(told['threads_text'])
    question = told['text'].partition(':')[0]
    assert all(t.startswith(question) for t in told['threads_text'])
    assert 1 <= told['sequential'] <= row['num_tokens']
    assert told['window'] <= 256 and 0 <= told['joins'] <= 2
    assert told['threads'] or told['sequential'] == row['num_tokens']
  figure = files.read_json(context.folder('sequential') / 'figure.json')
  assert set(figure['lines']) == {e['policy'] for e in summary['success']}
