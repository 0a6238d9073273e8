# SPDX-License-Identifier: Apache-2.0
"""Decoding, judging and comparing, without a trained model."""

import dataclasses
import functools
import itertools

from flax.linen import meta
import jax
import pytest

from configs import models
from data_pipelines.tokenizers import sentencepiece
from meta_cot import decode
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import traces
from meta_cot.evaluation import best_of_n
from meta_cot.evaluation import summaries
from meta_cot.evaluation import symbolic
from meta_cot.evaluation import trees
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib
from meta_cot.solvers import sampling as sampling_lib
from meta_cot.solvers import verdicts
from meta_cot.tasks import countdown
from meta_cot.traces.arithmetic import teacher

PROBLEM = countdown.make_problem([5, 17, 1], 23)
STRATEGY = dataclasses.replace(teacher.COMPACT, max_value=60)
RECORD = teacher.search(PROBLEM, STRATEGY, 0)
TEXT = traces.render(traces.linearize(RECORD), style='compact')


def _judge(text, *, is_finished=True, num_tokens=10):
  completion = sampling_lib.Completion(text, num_tokens, is_finished)
  return verdicts.judge(
      tasks.make('countdown'), PROBLEM, completion, 'compact')


@pytest.mark.parametrize('text, is_finished, error', [
    (TEXT, True, 'none'),
    ('5,17,1>23:S5+1=6,17+6=23', True, 'none'),
    ('5,17,1>23:S5+1=6,17+6=23', False, 'unfinished'),
    ('5,17,1>23:S5+1=6,17+6=24', True, 'arithmetic'),
    ('5,17,1>23:S5+1=6,17+5=22', True, 'illegal_state'),
    ('5,17,1>23:S17-1=16,16+5=21', True, 'wrong_answer'),
    ('5,17,1>23:', True, 'no_answer'),
    ('5,17,1>23:S5+1=6,17+6=23 really', True, 'format'),
])
def test_verdicts_and_kinds_of_error(text, is_finished, error):
  result = _judge(text, is_finished=is_finished)
  assert result.verdict.is_correct == (error == 'none')
  assert result.analysis.primary_error == error


def test_summary_counts():
  results = [
      _judge(TEXT, num_tokens=30), _judge('5,17,1>23:S5+1=6,17+6=24'),
      _judge('5,17,1>23:', is_finished=False, num_tokens=20)]
  summary = summaries.of_completions(results)
  assert summary['num_solved'] == 1 and summary['num_problems'] == 3
  assert summary['success'] == pytest.approx(1 / 3)
  assert summary['ci95'] == pytest.approx([0.0615, 0.7923], abs=1e-3)
  assert summary['mean_tokens'] == 20
  assert summary['errors'] == {'arithmetic': 1, 'unfinished': 1}
  assert summary['unfinished'] == 1


def _exhaustive_pass_at_k(num_correct, num_samples, k):
  """Share of the k-subsets of samples that hold a right one."""
  samples = [i < num_correct for i in range(num_samples)]
  subsets = list(itertools.combinations(samples, k))
  return sum(map(any, subsets)) / len(subsets)


def test_best_of_n_curve_is_unbiased_pass_at_k():
  correct, n = [0, 1, 3, 5], 5
  points = best_of_n.curve(correct, n, mean_tokens=7.0)
  assert [p.k for p in points] == [1, 2, 4, 5]
  for p in points:
    expected = sum(_exhaustive_pass_at_k(c, n, p.k) for c in correct) / 4
    assert p.success == pytest.approx(expected)
    assert p.tokens == 7.0 * p.k
    assert p.low <= p.success <= p.high


def test_equal_tokens_and_catching_up():
  arguments = [0, 1, 3, 5], 5, 7.0
  assert best_of_n.at_tokens(*arguments, budget=20.9).k == 2
  assert best_of_n.at_tokens(*arguments, budget=1.0).k == 1
  point = best_of_n.catch_up(*arguments, success=0.6)
  before = best_of_n.at_tokens(*arguments, budget=7.0 * (point.k - 1))
  assert before.success < 0.6 <= point.success
  assert best_of_n.catch_up(*arguments, success=0.9) is None


def test_symbolic_summary_and_tokens():
  count = symbolic.token_counter(list, 'compact')  # one token a character
  summary = symbolic.summarise([RECORD], count)
  prompt = traces.prompt(PROBLEM, style='compact')
  assert summary['mean_tokens'] == len(TEXT) - len(prompt) + 1
  assert summary['success'] == 1.0
  hard = countdown.make_problem([20, 1, 9], 28)
  runs = symbolic.run_all(
      teacher.Teacher(60, 'descending'), [hard], 0)
  assert set(runs) == {
      'compact', 'stream_of_search', *teacher.STREAM_OF_SEARCH}
  assert runs['dfs_sum'][0].is_solved and not runs['bfs_sum_1'][0].is_solved


@pytest.mark.parametrize('style', ['compact', 'stream_of_search'])
def test_a_model_text_gives_the_tree_that_it_tells(style):
  text = traces.render(traces.linearize(RECORD), style=style)
  told, stored = trees.from_text(text, style), trees.from_record(RECORD)
  assert len(told.nodes) == len(stored.nodes)
  for a, b in zip(told.nodes, stored.nodes):
    assert (a.parent, a.step, a.state, a.is_correct) == (
        b.parent, b.step, b.state, b.is_correct)
  assert trees.from_text(text[:-3], style) is None


@functools.cache
def _model():
  tokenizer = sentencepiece.train([TEXT], 128, 60)
  config = config_lib.parse(model_config.ModelConfig, models.get('tiny') | dict(
      num_layers=1, embed_dim=16, num_heads=2, num_kv_heads=2, head_dim=8,
      mlp_dim=16, max_length=64))
  params = meta.unbox(jax.jit(functools.partial(transformer.init, config))(
      jax.random.key(3)))
  return tokenizer, config, params


def _complete(prompts, batch_size, num_devices, temperature):
  tokenizer, config, params = _model()
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, 1), jax.devices()[:num_devices])
  with sharding.use_mesh(mesh):
    decoder = sampling_lib.Decoder(
        config, tokenizer, mesh, batch_size=batch_size, max_new_tokens=12,
        sampling=decode.Sampling(temperature=temperature))
    return decoder(params, prompts, jax.random.key(0))


@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_completions_do_not_depend_on_batches_or_devices(temperature):
  prompts = ['5,17,1>23:', '1>2:', '20,1,9>28:', '5,17,1>23:', '7,7,7>14:']
  expected = _complete(prompts, 5, 1, temperature)
  for batch_size, num_devices in ((2, 1), (3, 8)):
    assert _complete(prompts, batch_size, num_devices, temperature) == expected
  for prompt, completion in zip(prompts, expected):
    assert completion.text.startswith(prompt)
    assert 1 <= completion.num_tokens <= 12
