# SPDX-License-Identifier: Apache-2.0
"""The stage `label`, and a value that is trained on what it leaves.

The policy is trained for seconds, so a completion is right here where its
tokens add up to an even number.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import countdown
from configs import kinds
from data_pipelines import store
from meta_cot import sharding
from meta_cot import tasks
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import states as states_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import label
from meta_cot.tasks import number_puzzle
from meta_cot.training import metrics as metrics_lib
from tests import small_training

_BEFORE = ('problems', 'traces', 'tokenizer', 'sft')


def _experiment(**changes):
  """Labels of the teacher's searches, and a value for those that are exact."""
  config = countdown.get_config('tiny')
  config.stages = (*_BEFORE, 'drawn', 'exact', 'value')
  config.model.update(small_training.MODEL)
  config.task.update(dict(max_number=6, max_target=20))
  train = dict(
      arms=('solution_only',), num_tokens=3_000, batch_size=8,
      log_every_steps=1, num_eval_batches=1, save_every_steps=4)
  config.sft.update(train)
  config.sft.data.sequence_length = 96
  shared = dict(
      records='traces', num_train=5, num_validation=3, num_rollouts=6,
      num_validation_rollouts=6, num_states=8, max_new_tokens=24)
  config.drawn = kinds.label(**shared)
  config.exact = kinds.label(**shared | dict(source='oracle', num_train=None))
  config.value = kinds.train(
      objective='value', records='exact', start='sft/solution_only', **train)
  config.value.data.sequence_length = 96
  config.value.data.value.balance = 0.5
  config.value.optimizer.trained.part = 'value_head'
  config.update_from_flattened_dict(changes)
  return experiment_lib.parse(config)


def _even(self, texts):
  """The verdict in the graph; see the module."""
  del self
  assert 'S' in texts  # of the policy that is there, not of a placeholder
  return lambda problem, tokens_M, length: (1 - jnp.sum(jnp.where(
      jnp.arange(len(tokens_M)) < length, tokens_M, 0)) % 2).astype(jnp.float32)


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('label') / 'w'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(number_puzzle.InGraph, 'outcome', _even)
    return small_training.run_stages(_experiment(), workdir)


def test_labels_are_shares_of_completions(labelled):
  directory, targets = labelled.folder('drawn'), []
  for split, number in (('train', 5), ('validation', 3)):
    source = store.read(directory, split)
    assert len(source) == number
    teacher = store.read(labelled.folder('traces'), split)
    for i in range(number):
      record = source[i]
      assert record.problem == teacher[i].problem
      assert record.arguments['num_rollouts'] == 6
      texts = states_lib.written(record)
      assert len(set(texts)) == len(texts)
      for node, text in zip(record.nodes, texts, strict=True):
        if len(text) > 24 and not node.is_terminal:
          assert node.value is None
        elif node.is_terminal:
          assert node.value == node.is_correct
        else:
          assert node.value in [k / 6 for k in range(7)]
          targets.append(node.value)
  assert len(set(targets)) > 2
  summary = files.read_json(directory / 'summary.json')
  assert 0 < summary['base_rate'] < 1
  counts = summary['splits']['train']
  assert counts['num_records'] == 5
  assert counts['num_states'] > counts['num_above_half'] > 0
  of_questions = [
      source[i].nodes[0].value for i in range(3)]  # of validation
  first, *more = summary['splits']['validation']['behind']
  assert first['num_steps'] == 0 and first['num_records'] == 3
  assert first['mean'] == pytest.approx(np.mean(of_questions))
  assert first['ci95'][0] <= first['mean'] <= first['ci95'][1]
  assert [x['num_steps'] for x in more] == list(range(1, len(more) + 1))


def test_pieces_are_kept_and_give_the_same_records(labelled, monkeypatch):
  directory, split = labelled.folder('drawn'), 'train'
  before = {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}
  (piece,) = (directory / 'pieces' / 'validation').iterdir()
  kept, = (directory / 'pieces' / split).iterdir()
  when = files.path(kept).stat().mtime
  piece.unlink()
  for path in directory.iterdir():
    if path.is_file():
      path.unlink()
  monkeypatch.setattr(number_puzzle.InGraph, 'outcome', _even)
  with sharding.use_mesh(labelled.mesh):
    label.STAGE.run(labelled, labelled.groups['drawn'].settings, directory)
  assert files.path(kept).stat().mtime == when
  assert before == {
      p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}


def test_the_oracle_is_exact(labelled):
  task, source = labelled.task, store.read(labelled.folder('exact'), 'train')
  targets = []
  for i in range(len(source)):
    for node in source[i].nodes:
      targets.append(node.value)
      want = node.is_correct if node.is_terminal else task.oracle(
          source[i].problem, node.state)
      assert node.value == want
    assert source[i].nodes[0].value == 1  # all problems can be solved
  assert 0 < np.mean(targets) < 1


def test_a_value_is_trained_and_the_trunk_is_kept(labelled):
  there = labelled.policy('value/solution_only')
  start = labelled.policy('sft/solution_only')
  assert there.about['objective'] == 'value'
  old, new = (x.params(labelled.mesh) for x in (start, there))
  differ = jax.tree.map(
      lambda a, b: not np.array_equal(a, b), old, new)
  assert all(jax.tree.leaves(differ.pop('value_head')))
  assert not any(jax.tree.leaves(differ))
  rows = metrics_lib.read(there.directory / 'metrics.jsonl')
  assert len(rows) > 3 and np.isfinite([row['loss'] for row in rows]).all()


def test_programs_are_those_that_run():
  context = small_training.context_of(_experiment(**{
      'drawn.num_validation_rollouts': 2, 'drawn.num_slots': 16}))
  with sharding.use_mesh(context.mesh):
    settings = context.groups['drawn'].settings
    programs = label.STAGE.programs(context, settings)
    assert list(programs) == ['complete_6', 'complete_2']
    made = programs['complete_2']()
    made.lower()
    assert made.tokens == 8 * 2 * 24
  assert not label.STAGE.programs(context, context.groups['exact'].settings)


@pytest.mark.parametrize('changes, words', [
    ({'drawn.max_new_tokens': 60}, 'config.drawn.max_new_tokens: got 60; as'),
    ({'drawn.source': 'x'}, "config.drawn.source: got 'x'; .*monte_carlo"),
    ({'value.arms': ('traces',)},
     "config.value.arms: got 'traces' with objective 'value'"),
    ({'model.value_head': 'none'}, 'config.value.objective: got .* no value'),
    ({'drawn.policy': 'sft/traces'},
     'config.drawn.policy: got .sft/traces')])
def test_wrong_settings_are_named(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    _experiment(**changes)
  assert '\n' not in str(error.value)


def test_nothing_to_learn_from_is_said(labelled):
  """A policy of some seconds solves nothing."""
  with pytest.raises(config_lib.UserError, match='states are 0: there is noth'):
    label._base_rate(
        labelled.folder('drawn'), list(map(_without, _records(labelled))))


def _records(labelled):
  source = store.read(labelled.folder('drawn'), 'train')
  return [source[i] for i in range(len(source))]


def _without(record):
  return dataclasses.replace(record, nodes=tuple(
      dataclasses.replace(n, value=0.0) for n in record.nodes))


def test_a_task_without_an_oracle_says_so():
  assert tasks.make('maze').oracle is None
