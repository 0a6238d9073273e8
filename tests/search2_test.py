# SPDX-License-Identifier: Apache-2.0
"""Search over whole attempts: labels of states behind them, a meta-value."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from configs import search2 as search2_config
from data_pipelines import store
from meta_cot.rollouts import judge as judge_lib
from meta_cot.runtime import files
from meta_cot.solvers import states as states_lib
from meta_cot.solvers import vocabulary
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import countdown
from meta_cot.tasks import number_puzzle
from tests import small_labels
from tests import small_training

_STAGES = (
    'problems', 'traces', 'tokenizer', 'sft', 'meta_attempts', 'meta_labels',
    'meta_value', 'by_meta_value')


def _experiment():
  """All of it with a policy of some seconds; no plain value."""
  config = search2_config.get_config('tiny')
  config.stages = _STAGES
  config.model.update(small_training.MODEL | dict(max_length=160))
  config.task.update(dict(num_train=60, max_number=6, max_target=20))
  config.problems.num_shards = config.traces.num_shards = 1
  short = dict(num_tokens=2_000, batch_size=8, num_eval_batches=1)
  config.sft.update(short | dict(num_tokens=20_000))
  config.meta_attempts.update(dict(num_train=6, num_validation=3))
  config.meta_attempts.search.update(dict(step_length=16, num_slots=4))
  config.meta_labels.update(dict(
      num_rollouts=4, num_validation_rollouts=4, num_states=8,
      max_new_tokens=48))
  config.meta_value.update(short)
  config.by_meta_value.num_problems = 4
  config.by_meta_value.samples.num_samples = 2
  config.by_meta_value.search.update(dict(step_length=16, num_slots=4))
  return experiment_lib.parse(config)


def _even(self, texts):
  """Whether a text has an even number of tokens is the verdict in the graph."""
  del self, texts
  return lambda problem, tokens_M, length: (
      1 - length % 2).astype(jnp.float32)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('search2') / 'w'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(number_puzzle.InGraph, 'outcome', _even)
    return small_training.run_stages(_experiment(), workdir)


def _records(context, name):
  source = store.read(context.folder(name), 'train')
  return [source[i] for i in range(len(source))]


def test_states_are_attempts_one_behind_the_other(finished):
  (eos_id,) = finished.policy('sft/revisions').tokenizer().eos_ids
  depths = []
  for record in _records(finished, 'meta_labels'):
    texts = states_lib.written(record)
    for node, text in zip(record.nodes[1:], texts[1:], strict=True):
      assert eos_id not in node.tokens[:-1]
      depths.append(sum(token == eos_id for token in text))
      if node.is_terminal:
        assert node.value == node.is_correct
      else:
        assert node.value is None or node.value in [k / 4 for k in range(5)]
  assert max(depths) >= 2  # behind an attempt there are others


def test_a_value_of_them_guides_a_search(finished):
  there = finished.policy('meta_value/solution_only')
  assert there.about['objective'] == 'value'
  summary = files.read_json(
      finished.folder('by_meta_value') / 'summary.json')
  solvers = {entry['solver'] for entry in summary['success']}
  assert solvers == {'samples', 'best_first'}


@functools.cache
def _judge():
  reader = small_labels.reader()
  return judge_lib.OfLast(
      countdown.make(None, 0), reader.tokenizer, small_labels.STYLE)


@pytest.mark.parametrize('texts, is_right', [
    (['S9-3=6,4*6=24'], True), (['S9-3=6,4+6=10', 'S9-3=6,4*6=24'], True),
    (['S9-3=6,4*6=24', 'S9-3=6,4+6=10'], False), (['S9-3=6,4*6=24', ''], False),
    (['', 'S9-3=6,4*6=24'], True)])
def test_the_last_attempt_counts_on_the_host_as_in_the_graph(texts, is_right):
  judge, problem = _judge(), small_labels.PROBLEM
  tokenizer = judge.tokenizer
  tokens = [x for text in texts for x in (
      *tokenizer.encode(text), tokenizer.eos_id)]
  assert judge.claim(problem, tokens[:-1]).verdict.is_correct == is_right
  outcome = vocabulary.of_last_text(
      judge.task.in_graph.outcome(small_labels.reader().words.texts),
      tokenizer.eos_ids)
  padded = np.zeros(64, np.int32)
  padded[:len(tokens)] = tokens
  inputs = {k: jnp.asarray(x) for k, x in judge.task.in_graph.inputs(
      problem).items()}
  assert outcome(inputs, jnp.asarray(padded), len(tokens)) == is_right


def test_one_attempt_is_judged_as_it_was():
  plain = judge_lib.Judge(**{
      f.name: getattr(_judge(), f.name)
      for f in dataclasses.fields(judge_lib.Judge)})
  for text in ('S9-3=6,4*6=24', 'S9-3=6', 'x', ''):
    tokens = plain.tokenizer.encode(text)
    for ended in (tokens, tokens[:-1]):
      assert plain.claim(small_labels.PROBLEM, ended) == _judge().claim(
          small_labels.PROBLEM, ended)
