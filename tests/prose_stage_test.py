# SPDX-License-Identifier: Apache-2.0
"""Stages of an experiment in style `prose`, judged on the host."""

import json

import jax
import pytest

from configs import countdown
from configs import kinds
from meta_cot import main
from meta_cot import sharding
from meta_cot import traces
from meta_cot.runtime import files
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib


def _experiment():
  """The quickstart in few steps, and a beam search over its solutions."""
  config = countdown.get_config('tiny')
  config.style = 'prose'
  config.task.update(dict(max_number=5, heldout_numbers_fraction=0.2))
  config.model.update(dict(num_layers=1, embed_dim=32, mlp_dim=64))
  config.tokenizer.vocabulary.number_tokens = None
  config.sft.update(dict(
      arms=('traces', 'solution_only'), num_tokens=60_000,
      save_every_steps=1000, eval_every_steps=1000, num_eval_batches=1))
  config.sft.data.sequence_length = 256
  config.sft.optimizer.learning_rate = 1e-2
  config.evaluate.update(dict(num_problems=8, num_curve_problems=0))
  config.evaluate.samples.update(dict(batch_size=8, num_samples=2))
  config.search = kinds.evaluate(
      policies=('sft/solution_only',), solvers=('beam',), num_problems=8,
      num_curve_problems=0)
  config.search.search.update(dict(
      num_slots=8, branching=3, beam_width=2, step_length=16))
  config.stages += ('search',)
  return experiment_lib.parse(config)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """The folder of a run."""
  folder = tmp_path_factory.mktemp('prose') / 'w'
  experiment = _experiment()
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:1])
  context = base.Context(
      experiment.shared, experiment.groups, mesh, files.path(folder))
  with sharding.use_mesh(mesh):
    for group in experiment.chosen(experiment.stages):
      main.run(context, group)
  return folder


def _rows(workdir, pattern):
  return [
      json.loads(line) for path in workdir.glob(pattern)
      for line in path.read_text().splitlines()]


def test_policies_answer_and_the_teacher_stands_beside(workdir):
  summary = files.read_json(workdir / 'evaluate' / 'summary.json')
  assert {(e['policy'], e['solver']) for e in summary['success']} >= {
      ('sft/traces', 'greedy'), ('sft/solution_only', 'samples')}
  rows = _rows(workdir, 'evaluate/rows/symbolic/*.jsonl')
  assert rows and all(row['num_tokens'] > 20 for row in rows)
  answered = _rows(
      workdir, 'evaluate/rows/sft/solution_only/*/samples/*/*.jsonl')
  # Some are whole: they end by themselves, in one step or more.
  assert any(row['answer'] for row in answered)


def test_searches_over_lines_are_told_with_values(workdir):
  rows = _rows(workdir, 'search/rows/sft/solution_only/*/beam/*/*.jsonl')
  assert len(rows) == 8
  for row in rows:
    text = row['details']['text']
    start, *events = traces.parse(text, style='prose')
    steps = [e for e in events if isinstance(e, traces.Step)]
    assert start.question and len(steps) + row['details']['nodes_left_out'] == (
        row['details']['nodes'])
    values = [e.value for e in events if isinstance(e, traces.Value)]
    assert len(values) == len(steps) > 0 and max(values) <= 1
    assert not any('\n' in s.text or s.text.startswith('Answer') for s in steps)


def test_searches_of_the_run_are_those_that_are_compiled():
  experiment = _experiment()
  mesh = sharding.make_mesh(experiment.shared.mesh, jax.devices()[:1])
  with sharding.use_mesh(mesh):
    built = experiment_lib.programs(experiment, mesh)['search/beam']()
    assert 'callback' in built.lower().as_text()
