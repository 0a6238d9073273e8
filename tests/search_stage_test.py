# SPDX-License-Identifier: Apache-2.0
"""The stage `search` on a model that was trained for some seconds."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from configs import search as search_config
from data_pipelines import store
from meta_cot import main
from meta_cot import sharding
from meta_cot import traces
from meta_cot.evaluation import rows as rows_lib
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from tests import small_run

SPLIT = 'heldout_numbers'  # the first test split
STRATEGIES = ('best_first', 'mcts')
POLICY = 'sft/solution_only'
BEFORE = ('problems', 'traces', 'tokenizer', 'sft')


def _experiment(task=(), **changes):
  """The tiny experiment made smaller, with changes of `config.search`."""
  config = search_config.get_config('tiny')
  config.stages = (*BEFORE, 'search')
  config.task.update(dict(max_number=5, heldout_numbers_fraction=0.2) | dict(
      task))
  config.model.update(dict(num_layers=1, embed_dim=32, mlp_dim=64))
  config.traces.num_shards = 1
  config.sft.update(dict(
      arms=('solution_only',), num_tokens=150_000, batch_size=8,
      eval_every_steps=1000, num_eval_batches=1, save_every_steps=1000))
  config.sft.data.sequence_length = 64
  config.sft.optimizer.learning_rate = 1e-2
  config.search.update(dict(
      solvers=('greedy', 'samples', *STRATEGIES), splits=(SPLIT,),
      num_problems=16))
  config.search.samples.update(dict(
      batch_size=16, num_samples=4, temperature=0.7))
  config.search.search.update(dict(
      num_slots=8, branching=3, num_expansions=4, num_simulations=6,
      beam_width=2, temperature=0.7))
  config.search.update_from_flattened_dict(changes)
  return experiment_lib.parse(config)


def _run(experiment, workdir, *names):
  """Runs stages, on two devices."""
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:2])
  context = base.Context(
      experiment.shared, experiment.groups, mesh, files.path(workdir))
  with sharding.use_mesh(mesh):
    for group in experiment.chosen(names):
      main.run(context, group)


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
  """A workdir with the stage's files, and the experiment."""
  workdir = tmp_path_factory.mktemp('search') / 'w'
  experiment = _experiment()
  _run(experiment, workdir, *experiment.stages)
  return workdir, experiment


def _folder(workdir, name) -> pathlib.Path:
  """Where the rows of a solver are."""
  (folder,) = (workdir / 'search' / 'rows' / POLICY).glob(f'*/{name}/{SPLIT}')
  return folder


def _records(workdir, name):
  return list(rows_lib.records(_folder(workdir, name)))


def test_summary_and_report(searched):
  workdir, _ = searched
  summary = files.read_json(workdir / 'search' / 'summary.json')
  assert [e['solver'] for e in summary['success']] == [
      'greedy', 'samples', *STRATEGIES]
  for name in STRATEGIES:
    values = small_run.find(summary['success'], solver=name)
    records = _records(workdir, name)
    assert values['num_problems'] == 16
    assert values['success'] == sum(r.is_solved for r in records) / 16
    assert values['success'] <= values['means']['is_found'] <= 1
    assert 0 < values['occupancy'] <= 1 and values['minus'] is not None
    assert values['seconds'] > 0 and values['mean_tokens'] > 1
    equal = small_run.find(
        summary['equal_tokens'], beside=[POLICY, name])
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
  task = experiment.shared.task
  num_ends = 0
  source = store.read(workdir / 'problems', SPLIT)
  for i, record in enumerate(_records(workdir, name)):
    assert record.problem == source[i]
    assert record.strategy == name
    assert record.arguments['branching'] == 3
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
  (path,) = _folder(workdir, name).glob('*.jsonl')
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  num_steps = 0
  for row, record in zip(rows, _records(workdir, name), strict=True):
    assert row['problem'] == record.problem.id
    assert row['is_correct'] == record.is_solved
    text = row['details']['text']
    events = traces.parse(text, style='compact_digits')
    assert traces.render(events, style='compact_digits') == text
    num_steps += sum(isinstance(e, traces.Step) for e in events)
  assert num_steps > 16


def _times(workdir, name) -> dict[str, int]:
  return {
      path.name: path.stat().st_mtime_ns
      for path in _folder(workdir, name).iterdir()}


def test_slots_change_no_tree(searched, tmp_path):
  workdir, _ = searched
  other = _experiment(**{
      'search.num_slots': 16, 'search.chunk_steps': 7,
      'solvers': ('greedy', 'best_first')})
  copy = tmp_path / 'w'
  shutil.copytree(workdir, copy)
  names = ('greedy', 'best_first', 'mcts')
  before = {name: _times(copy, name) for name in names}
  _run(other, copy, 'search')
  # The rows of other settings are made anew, and no others.
  assert [_times(copy, name) == before[name] for name in names] == [
      True, False, True]
  expected = _records(workdir, 'best_first')
  for a, b in zip(expected, _records(copy, 'best_first'), strict=True):
    assert a.solution == b.solution
    for x, y in zip(a.nodes, b.nodes, strict=True):
      bare = lambda n: dataclasses.replace(n, value=None, log_prob=None)
      assert bare(x) == bare(y)
      np.testing.assert_allclose(
          (x.value, x.log_prob), (y.value, y.log_prob), atol=1e-5)


def test_values_of_a_judge_and_of_the_task(searched, tmp_path):
  """A policy that judges itself says what its own head says."""
  copy, records = tmp_path / 'w', {}
  shutil.copytree(searched[0], copy)
  for value in ('head', 'model', 'oracle'):
    experiment = _experiment(**{
        'search.value': value, 'search.valuing.model': POLICY,
        'search.outcome': 'value', 'solvers': ('best_first',)})
    _run(experiment, copy, 'search')
    records[value] = _records(copy, 'best_first')
    identity = files.read_json(_folder(copy, 'best_first') / 'identity.json')
    judge = identity['settings'].get('judge')
    assert (judge and judge['params']) == (
        identity['params'] if value == 'model' else None)
    reads = files.read_json(copy / 'done' / 'search.json')['reads']
    assert set(reads) == {'problems', POLICY}
  for a, b in zip(records['head'], records['model'], strict=True):
    for x, y in zip(a.nodes, b.nodes, strict=True):
      assert (x.tokens, x.order) == (y.tokens, y.order)
      np.testing.assert_allclose(x.value, y.value, atol=1e-5)
  oracle, seen = experiment.shared.task.oracle, set()
  for record in records['oracle']:
    for node in record.nodes[1:]:
      want = node.is_correct if node.is_terminal else (
          node.state != '' and oracle(record.problem, node.state))
      assert node.value == want
      seen.add((node.is_terminal, want))
  assert len(seen) == 4


@pytest.mark.parametrize('changes, words', [
    ({'search.value': 'model'}, 'search.valuing.model: got None; must be'),
    ({'search.value': 'model', 'search.valuing.model': 'sft/traces'},
     "search.valuing.model: got 'sft/traces', which stage sft does not leave"),
    ({'search.value': 'verdicts', 'search.valuing.model': POLICY},
     f"search.valuing.model: got '{POLICY}', a policy that says no verdicts"),
    ({'search.value': 'mixture', 'search.valuing.weights': (1.0,)},
     r'search.valuing.weights: got \(1.0,\) for sources'),
    ({'search.value': 'rollouts', 'search.valuing.rollout_length': 500},
     'search.valuing.rollout_length: got 500; behind'),
    ({'policies': ('sft/traces',), 'reference': None},
     "config.search.policies: got 'sft/traces', which stage sft does not "
     'leave'),
    ({'reference': 'sft/traces'}, "config.search.reference: got 'sft/traces'"),
    ({'splits': ('train',)}, r"config.search.splits\[0\]: got 'train'"),
    ({'solvers': ('mcts', 'mcts')}, r'config.search.solvers\[1\]: got'),
    ({'search.step_length': 400}, 'search.step_length: got 400'),
    ({'search.max_tokens': 0}, 'must be at least 1'),
    ({'search.num_expansions': -2}, 'search.num_expansions: got -2'),
    ({'search.branching': 0}, 'search.branching: got 0'),
    ({'solvers': ('beam', 'dvts'), 'search.beam_width': 4},
     'dvts: num_groups: got 4; must be at most branching, 3'),
])
def test_wrong_settings_are_named(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    _experiment(**changes)
  assert '\n' not in str(error.value)
  assert str(error.value).startswith('config.search')


def test_needs_a_trained_arm(tmp_path):
  experiment = _experiment()
  _run(experiment, tmp_path, *BEFORE[:3])
  with pytest.raises(config_lib.UserError, match='run the stage sft first'):
    _run(experiment, tmp_path, 'search')


def test_needs_a_judge(tmp_path):
  with pytest.raises(config_lib.UserError, match='no such file') as error:
    _experiment(**{
        'search.value': 'model', 'search.valuing.model': str(tmp_path)})
  assert str(error.value).startswith(f'{tmp_path}/policy.json')


def test_needs_problems(tmp_path):
  plain = _experiment()
  empty = dataclasses.replace(plain.shared.task_settings, num_heldout=0)
  experiment = dataclasses.replace(plain, shared=dataclasses.replace(
      plain.shared, task_settings=empty))
  with pytest.raises(
      config_lib.ConfigError, match='the split validation is empty'):
    _run(experiment, tmp_path, 'problems')
  assert not (tmp_path / 'problems').exists()


def test_variants():
  for variant in search_config.VARIANTS:
    experiment = experiment_lib.parse(search_config.get_config(variant))
    assert experiment.stages[-1] == 'search'
  with pytest.raises(ValueError, match="got 'x'; must be one of tiny, laptop"):
    search_config.get_config('x')
