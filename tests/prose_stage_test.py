# SPDX-License-Identifier: Apache-2.0
"""Stages of experiments in `prose` and `free_text`, judged on the host."""

import json

import jax
import pytest

from configs import countdown
from meta_cot import main
from meta_cot import sharding
from meta_cot import traces
from meta_cot.runtime import files
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib


def _experiment(style='prose'):
  """The quickstart in few steps, with a beam search over its solutions."""
  config = countdown.get_config('tiny')
  config.style = style
  config.task.update(dict(max_number=5, heldout_numbers_fraction=0.2))
  config.model.update(dict(num_layers=1, embed_dim=32, mlp_dim=64))
  config.tokenizer.vocabulary.number_tokens = None
  config.sft.update(dict(
      arms=('solution_only',), num_tokens=60_000, save_every_steps=1000,
      eval_every_steps=1000, num_eval_batches=1))
  config.sft.optimizer.learning_rate = 1e-2
  config.evaluate.update(dict(
      solvers=('greedy', 'beam'), reference='sft/solution_only',
      num_problems=8, num_curve_problems=0))
  config.evaluate.samples.batch_size = 8
  config.evaluate.search.update(dict(num_slots=8, branching=3, beam_width=2))
  return experiment_lib.parse(config)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """The folder of a run."""
  return _run(tmp_path_factory.mktemp('prose') / 'w', _experiment())


def _run(folder, experiment):
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:1])
  context = base.Context(
      experiment.shared, experiment.groups, mesh, files.path(folder))
  with sharding.use_mesh(mesh):
    for group in experiment.chosen(experiment.stages):
      main.run(context, group)
  return folder


def _rows(workdir, pattern):
  return [
      json.loads(line) for path in (workdir / 'evaluate/rows').glob(pattern)
      for line in path.read_text().splitlines()]


def test_the_policy_answers_and_the_teacher_stands_beside(workdir):
  summary = files.read_json(workdir / 'evaluate' / 'summary.json')
  assert {(e['policy'], e['solver']) for e in summary['success']} >= {
      ('sft/solution_only', 'greedy'), ('sft/solution_only', 'beam'),
      ('symbolic', 'teacher')}
  taught = _rows(workdir, 'symbolic/*.jsonl')
  assert taught and all(row['num_tokens'] > 20 for row in taught)
  greedy = _rows(workdir, 'sft/solution_only/*/greedy/*/*.jsonl')
  assert any(row['answer'] for row in greedy)  # right or wrong


def test_a_style_without_searches_has_answers_and_searches(tmp_path):
  folder = _run(tmp_path / 'w', _experiment('free_text'))
  rows = _rows(folder, 'sft/solution_only/*/beam/*/*.jsonl')
  assert len(rows) == 8 and any(row['answer'] for row in rows)
  for row in rows:
    assert row['details']['nodes_left_out'] is None
    text = row['details']['text']
    assert (traces.extract_answer(text, 'free_text') if text else None) == row[
        'answer']


def test_searches_over_lines_are_told_with_values(workdir):
  rows = _rows(workdir, 'sft/solution_only/*/beam/*/*.jsonl')
  assert len(rows) == 8
  for row in rows:
    _, *events = traces.parse(row['details']['text'], style='prose')
    steps = [e for e in events if isinstance(e, traces.Step)]
    values = [e.value for e in events if isinstance(e, traces.Value)]
    assert len(values) == len(steps) > 0 and max(values) <= 1
    assert len(steps) == row['details']['nodes'] - row['details'][
        'nodes_left_out']


def test_what_is_compiled_is_judged_on_the_host_too():
  experiment = _experiment()
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:1])
  with sharding.use_mesh(mesh):
    built = experiment_lib.programs(experiment, mesh)['evaluate/beam']()
    assert 'callback' in built.lower().as_text()
