# SPDX-License-Identifier: Apache-2.0
"""Small Sudoku from problems to reports, the search over steps included."""

import jax
import pytest

from configs import sudoku4 as sudoku4_config
from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import main
from meta_cot import sharding
from meta_cot import traces
from meta_cot.runtime import files
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib


def _config():
  c = sudoku4_config.get_config('tiny')
  c.task.update(dict(
      min_empty=8, num_train=64, num_validation=16, num_test=8))
  c.model.update(dict(num_layers=1, embed_dim=32, mlp_dim=64))
  c.sft.update(dict(
      seeds=(0,), num_tokens=6_000, eval_every_steps=1000, num_eval_batches=1,
      save_every_steps=1000))
  c.evaluate.update(dict(
      num_problems=4, num_curve_problems=0, solvers=('greedy',)))
  c.evaluate.samples.update(dict(batch_size=4, max_new_tokens=48))
  c.search.update(dict(num_problems=4, solvers=('greedy', 'beam')))
  c.search.samples.update(dict(batch_size=4, max_new_tokens=40))
  c.search.search.update(dict(
      branching=2, beam_width=2, num_slots=4))
  c.search.search.tree.update(dict(step_check='task', merging='states'))
  return c


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('sudoku')
  experiment = experiment_lib.parse(_config())
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:1])
  context = base.Context(
      experiment.shared, experiment.groups, mesh, files.path(path))
  with sharding.use_mesh(mesh):
    for group in experiment.chosen():
      main.run(context, group)
  return path


def test_the_tokenizer_writes_every_trace_in_its_pieces(workdir):
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  records = store.read(workdir / 'traces', 'train')
  for i in range(len(records)):
    text = traces.render(traces.linearize(records[i]), style='cells')
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    # A cell, its digit, what is behind it; S is one more, the end has nothing.
    assert len(ids) == 3 * text.count('=')
  assert tokenizer.decode(tokenizer.encode('@12;')) == '@12;'


def test_reports_have_both_arms_and_searches(workdir):
  summary = files.read_json(workdir / 'evaluate' / 'summary.json')
  entries = {e['policy']: e for e in summary['success']
             if e['solver'] == 'greedy'}
  assert entries.keys() == {'sft/traces', 'sft/solution_only'}
  for entry in entries.values():
    assert entry['split'] == 'test' and 'kept' in entry['means']
  teacher = [e for e in summary['success'] if e['policy'] == 'symbolic']
  assert teacher and all(e['means']['nodes'] >= 8 for e in teacher)
  summary = files.read_json(workdir / 'search' / 'summary.json')
  by_solver = {e['solver']: e for e in summary['success']}
  assert by_solver.keys() == {'greedy', 'beam'}
  assert by_solver['beam']['means']['nodes'] > 2
  for stage in ('evaluate', 'search'):
    assert 'solution_only' in (workdir / stage / 'report.md').read_text()
