# SPDX-License-Identifier: Apache-2.0
"""The stage `search` on a model that was trained for some seconds."""

import dataclasses
import json

import numpy as np
import pytest

from configs import search as search_config
from data_pipelines import store
from meta_cot import tasks
from meta_cot import traces
from meta_cot.evaluation import summary as summary_lib
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import evaluate
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import generate_traces
from meta_cot.stages import problems
from meta_cot.stages import sft
from meta_cot.stages import train_tokenizer
from meta_cot.stages import workdir as workdir_lib

SPLIT = 'heldout_numbers'  # the first test split
STRATEGIES = ('best_first', 'mcts')


def _experiment(**changes):
  """The tiny experiment made smaller, with changes of `config.search`."""
  config = search_config.get_config('tiny')
  config.arms = ('solution_only',)
  config.task.update(dict(max_number=5, heldout_numbers_fraction=0.2))
  config.model.update(dict(num_layers=1, embed_dim=32, mlp_dim=64))
  config.traces.num_shards = 1
  config.data.sequence_length = 64
  config.optimizer.learning_rate = 1e-2
  config.train.update(dict(
      num_tokens=150_000, batch_size=8, eval_every_steps=1000,
      num_eval_batches=1))
  config.checkpoint.save_every_steps = 1000
  config.evaluation.batch_size = 16
  config.search.update(dict(
      strategies=STRATEGIES, num_problems=16, num_slots=8, branching=3,
      num_expansions=4, num_simulations=6, beam_width=2, num_samples=4,
      temperature=0.7) | changes)
  return experiment_lib.parse(config)


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
  """A workdir with the stage's files, and the experiment."""
  workdir = files.path(tmp_path_factory.mktemp('search') / 'w')
  experiment = _experiment()
  for stage in (problems, generate_traces, train_tokenizer, sft):
    stage.run(experiment, workdir)
  evaluate.run_search(experiment, workdir)
  return workdir, experiment


def _records(workdir, name):
  source = store.read(workdir / 'search' / name, SPLIT)
  return [source[i] for i in range(len(source))]


def test_summary_and_report(searched):
  workdir, _ = searched
  summary = files.read_json(workdir / 'search' / 'summary.json')
  assert [e['solver'] for e in summary['success']] == [
      'greedy', 'samples', *STRATEGIES]
  for name in STRATEGIES:
    values = summary_lib.find(summary['success'], solver=name)
    records = _records(workdir, name)
    assert values['num_problems'] == 16
    assert values['success'] == sum(r.is_solved for r in records) / 16
    assert values['success'] <= values['means']['is_found'] <= 1
    assert 0 < values['occupancy'] <= 1 and values['minus'] is not None
    assert values['seconds'] > 0 and values['mean_tokens'] > 1
    equal = summary_lib.find(
        summary['equal_tokens'], beside=['solution_only', name])
    assert equal['n'] == 1 or equal['tokens'] <= values['mean_tokens']
    assert 0 <= equal['majority']['success'] <= 1
  assert 0 < summary['success'][0]['occupancy'] <= 1
  assert [p['n'] for p in summary['samples']] == [1, 2, 4]
  report = (workdir / 'search' / 'report.md').read_text()
  for words in ('greedy', 'occupancy %', 'oracle %', *STRATEGIES):
    assert words in report


@pytest.mark.parametrize('name', STRATEGIES)
def test_records_hold_the_searches(searched, name):
  workdir, experiment = searched
  task = tasks.make('countdown')
  num_ends = 0
  source = store.read(workdir / 'problems', SPLIT)
  for i, record in enumerate(_records(workdir, name)):
    assert record.problem == source[i]
    assert record.strategy == name
    assert record.arguments['branching'] == experiment.search.branching
    assert record.nodes[0].order == 0
    orders = sorted(n.order for n in record.nodes if n.order >= 0)
    assert orders == list(range(len(orders)))
    for node in record.nodes[1:]:
      assert record.nodes[node.parent].order >= 0
      # The verdict in the graph is the one on the text.
      if node.is_terminal:
        assert node.value == float(node.is_correct)
        num_ends += 1
    # A search that saw a right end has chosen one.
    assert record.is_solved == any(n.is_correct for n in record.nodes)
    if record.is_solved:
      answer = '\n'.join(record.nodes[n].step for n in record.solution[1:])
      assert task.verify(record.problem, answer).is_correct
  assert num_ends > 20


@pytest.mark.parametrize('name', STRATEGIES)
def test_texts_read_back(searched, name):
  workdir, _ = searched
  (path,) = workdir.glob(f'search/rows/*/*/{name}/{SPLIT}/*.jsonl')
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  num_steps = 0
  for row, record in zip(rows, _records(workdir, name), strict=True):
    assert row['problem'] == record.problem.id
    assert row['is_correct'] == record.is_solved
    events = traces.parse(row['details']['text'], style='compact')
    assert traces.render(events, style='compact') == row['details']['text']
    num_steps += sum(isinstance(e, traces.Step) for e in events)
  assert num_steps > 16


def test_slots_change_no_tree(searched, tmp_path):
  workdir, _ = searched
  other = _experiment(
      num_slots=16, chunk_steps=7, strategies=('best_first',), num_samples=1)
  copy = files.path(tmp_path / 'w')
  copy.mkdir()
  for name in ('tokenizer', 'problems', 'sft'):
    (tmp_path / 'w' / name).symlink_to(str(workdir / name))
  # Of an earlier run with other settings nothing is left, its mark neither.
  for name in ('search/dvts/manifest.json', 'done/search'):
    files.write_atomic(copy / name, 'old')
  evaluate.run_search(other, copy)
  assert not (copy / 'search' / 'dvts').exists()
  assert not (copy / 'done' / 'search').exists()
  expected = _records(workdir, 'best_first')
  for a, b in zip(expected, _records(copy, 'best_first'), strict=True):
    assert a.solution == b.solution
    for x, y in zip(a.nodes, b.nodes, strict=True):
      bare = lambda n: dataclasses.replace(n, value=None, log_prob=None)
      assert bare(x) == bare(y)
      np.testing.assert_allclose(
          (x.value, x.log_prob), (y.value, y.log_prob), atol=1e-5)


def test_a_stage_is_done_with_its_settings(searched):
  workdir, experiment = searched
  mark = workdir_lib.mark('search', experiment)
  workdir_lib.mark_done(workdir, 'search', mark)
  assert workdir_lib.is_done(workdir, 'search', mark)
  other = workdir_lib.mark('search', _experiment(beam_width=1))
  assert not workdir_lib.is_done(workdir, 'search', other)
  assert workdir_lib.mark('generate_traces', experiment) == workdir_lib.DONE
  more = dataclasses.replace(experiment, arms=('traces', 'solution_only'))
  assert workdir_lib.mark('sft', experiment) != workdir_lib.mark('sft', more)


@pytest.mark.parametrize('changes, words', [
    ({'arm': 'solution_only_permuted'}, 'config.search.arm: got'),
    ({'step_length': 400}, 'config.search.step_length: got 400'),
    ({'strategies': ('beam',), 'max_tokens': 0}, 'must be at least 1'),
    ({'num_expansions': -2}, 'config.search.num_expansions: got -2'),
    ({'branching': 0}, 'config.search.branching: got 0'),
    ({'strategies': ('beam', 'dvts'), 'beam_width': 4},
     'config.search: dvts: num_groups: got 4; must be at most branching, 3'),
])
def test_wrong_settings_are_named(searched, changes, words):
  workdir, _ = searched
  with pytest.raises(config_lib.ConfigError, match=words):
    evaluate.run_search(_experiment(**changes), workdir)


def test_needs_a_trained_arm(tmp_path):
  experiment = _experiment()
  workdir = files.path(tmp_path)
  problems.run(experiment, workdir)
  generate_traces.run(experiment, workdir)
  train_tokenizer.run(experiment, workdir)
  with pytest.raises(config_lib.UserError, match='run the stage sft first'):
    evaluate.run_search(experiment, workdir)


def test_needs_problems(tmp_path):
  plain = _experiment()
  config = dataclasses.replace(plain, task=dataclasses.replace(
      plain.task, settings=dataclasses.replace(
          plain.task.settings, num_heldout=0)))
  with pytest.raises(
      config_lib.ConfigError, match='the split validation is empty'):
    problems.run(config, files.path(tmp_path))
  assert not list(tmp_path.iterdir())


def test_variants():
  for variant in search_config.VARIANTS:
    experiment = experiment_lib.parse(search_config.get_config(variant))
    assert experiment.stages[-1] == 'search'
  with pytest.raises(ValueError, match="got 'x'; must be one of tiny, laptop"):
    search_config.get_config('x')
