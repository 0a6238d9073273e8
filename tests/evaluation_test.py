# SPDX-License-Identifier: Apache-2.0
"""Decoding, judging and comparing, without a trained model."""

import dataclasses
import functools
import itertools

from etils import epath
from flax.linen import meta
import jax
import numpy as np
import pytest

from configs import models
from data_pipelines.tokenizers import sentencepiece
from meta_cot import sharding
from meta_cot import tasks
from meta_cot import traces
from meta_cot.evaluation import budgets
from meta_cot.evaluation import symbolic
from meta_cot.evaluation import trees
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rollouts import judge as judge_lib
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import sampling as sampling_lib
from meta_cot.tasks import countdown
from meta_cot.traces.arithmetic import teacher

PROBLEM = countdown.make_problem([5, 17, 1], 23)
STRATEGY = dataclasses.replace(teacher.COMPACT, max_value=60)
RECORD = teacher.search(PROBLEM, STRATEGY, 0)
TEXT = traces.render(traces.linearize(RECORD), style='compact')


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
  task = tasks.make('countdown')
  answer, verdict = judge_lib.of_text(
      task, PROBLEM, text, 'compact', is_finished=is_finished)
  assert verdict.is_correct == (error == 'none')
  assert (answer is not None) == (
      error not in ('unfinished', 'no_answer', 'format'))
  measured = task.measure(PROBLEM, text, answer, verdict)
  told = traces.analyze(
      PROBLEM, text, 'compact', is_finished,
      lambda _: measured.get('error', 'none'))
  assert told.primary_error == error


def _exhaustive_pass_at_k(num_correct, num_samples, k):
  """Share of the k-subsets of samples that hold a right one."""
  samples = [i < num_correct for i in range(num_samples)]
  subsets = list(itertools.combinations(samples, k))
  return sum(map(any, subsets)) / len(subsets)


def _attempts(num_correct, num_samples, tokens):
  """Problems of which so many of the attempts are right."""
  is_correct = np.array([
      [i < c for i in range(num_samples)] for c in num_correct])
  return base.Outcomes(
      is_correct=is_correct, is_finished=np.ones_like(is_correct),
      num_tokens=np.full(is_correct.shape, tokens),
      answers=np.full(is_correct.shape, None))


def test_the_curve_of_the_oracle_is_unbiased_pass_at_k():
  correct, n = [0, 1, 3, 5], 5
  points = budgets.curve(_attempts(correct, n, 7.0), ('oracle',))
  assert [p['n'] for p in points] == [1, 2, 4, 5]
  for p in points:
    expected = sum(_exhaustive_pass_at_k(c, n, p['n']) for c in correct) / 4
    assert p['oracle']['success'] == pytest.approx(expected)
    assert p['tokens'] == 7.0 * p['n']
    low, high = p['oracle']['ci95']
    assert low <= p['oracle']['success'] <= high


def test_equal_tokens_and_catching_up():
  outcomes = _attempts([0, 1, 3, 5], 5, 7.0)
  at = lambda budget, **kw: budgets.at_tokens(
      outcomes, budget, ('oracle',), **kw)
  assert at(20.9)['n'] == 2 and at(1.0)['n'] == 1 and at(99.0)['n'] == 5
  point = budgets.catch_up(outcomes, 0.6)
  before = at(7.0 * (point['n'] - 1))
  assert before['oracle']['success'] < 0.6 <= point['oracle']['success']
  assert budgets.catch_up(outcomes, 0.9) is None
  # A part of an attempt lies between its neighbours.
  part = at(17.5, is_whole=False)
  assert part['n'] == 2.5 and part['tokens'] == pytest.approx(17.5)
  assert part['oracle']['success'] == pytest.approx(
      (at(14.0)['oracle']['success'] + at(21.0)['oracle']['success']) / 2)


def test_symbolic_searches_and_their_tokens():
  class Characters:
    """One token a character."""

    encode = encode_prompt = staticmethod(list)

  outcomes = symbolic.outcomes([RECORD], Characters(), 'compact')
  prompt = traces.prompt(PROBLEM, style='compact')
  assert outcomes.num_tokens == [[len(TEXT) - len(prompt) + 1]]
  assert outcomes.is_correct.all()
  assert tasks.make('countdown').verify(
      PROBLEM, outcomes.answers[0, 0]).is_correct
  hard = countdown.make_problem([20, 1, 9], 28)
  run = lambda name: teacher.Teacher(60, 'descending').search(hard, name, 0)
  assert run('dfs_sum').is_solved and not run('bfs_sum_1').is_solved


def test_strategies_that_a_problem_does_not_allow_are_left_out(tmp_path):
  two = teacher.search(countdown.make_problem([4, 1], 5), STRATEGY, 0)
  all_of_them = teacher.Teacher(60, 'descending')
  told = {
      rows: {row['solver'] for row in symbolic.write(
          epath.Path(tmp_path), all_of_them, dict(test=[two, *more]),
          sentencepiece.train(['+-*/=,;:>x!S@'], 128, 60), 'compact', seed=0)}
      for rows, more in (('alone', ()), ('beside others', (RECORD,)))}
  assert told['alone'] == told['beside others'] == {
      'teacher', *all_of_them.strategies} - {'threads', *teacher.THREADS}


def test_a_fault_of_a_task_is_not_left_out(tmp_path):
  class Broken:
    """A teacher of one's own, with a fault that was found."""

    strategies = ('mine',)

    def search(self, *_):
      raise config_lib.UserError('teacher.search returned None')

  with pytest.raises(config_lib.UserError, match='returned None'):
    symbolic.write(
        epath.Path(tmp_path), Broken(), dict(test=[RECORD]), None, 'compact',
        seed=0)


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


def _complete(
    prompts, batch_size, num_devices, temperature, num_samples=1, model=1,
    first=0):
  tokenizer, config, params = _model()
  settings = sampling_lib.Settings(
      batch_size, max_new_tokens=12, num_samples=num_samples,
      temperature=temperature,
      top_k=None, top_p=None, judges=(), judge_reading='last',
          num_verdicts=1)
  mesh = sharding.make_mesh(
      sharding.MeshConfig(-1, 1, model), jax.devices()[:num_devices])
  with sharding.use_mesh(mesh):
    sampler = sampling_lib.Sampler(settings, tasks.make('countdown'), mesh)
    return sampler.complete(
        base.Policy('', config, params, tokenizer, 'compact'), prompts,
        jax.random.key(0), first)


@pytest.mark.parametrize('temperature', [
    pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_completions_do_not_depend_on_batches_or_devices(temperature):
  prompts = ['5,17,1>23:', '1>2:', '20,1,9>28:', '5,17,1>23:', '7,7,7>14:']
  expected = _complete(prompts, 5, 1, temperature)
  for batch_size, num_devices in ((2, 1), (3, 8)):
    texts, found = _complete(prompts, batch_size, num_devices, temperature)
    assert texts == expected[0]
    for name in ('tokens', 'lengths', 'is_finished'):
      np.testing.assert_array_equal(
          getattr(found, name), getattr(expected[1], name))
    np.testing.assert_allclose(
        found.log_probs, expected[1].log_probs, atol=1e-4)
  for prompt, text, length in zip(prompts, expected[0], expected[1].lengths):
    assert text.startswith(prompt)
    assert 1 <= length <= 12


def test_samples_do_not_depend_on_who_shares_a_prompt():
  """Alone in their rows, or on eight devices, two of which share matrices."""
  prompts, copies = ['5,17,1>23:', '1>2:', '20,1,9>28:'], 5
  repeated = [prompt for prompt in prompts for _ in range(copies)]
  texts, expected = _complete(repeated, 15, 1, 1.0, first=2 * copies)
  assert len(set(texts)) > copies
  for batch_size, num_devices, model in ((7, 1, 1), (48, 8, 1), (8, 8, 2)):
    got, found = _complete(
        prompts, batch_size, num_devices, 1.0, copies, model, first=2)
    assert got == texts
    for name in ('tokens', 'lengths', 'is_finished'):
      np.testing.assert_array_equal(
          getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-4)


@pytest.mark.parametrize('num_samples', [1, 4, 5, 16])
@pytest.mark.parametrize('batch_size', [1, 6, 8, 24, 64])
def test_layout(batch_size, num_samples):
  for num_parts in (1, 8):
    mesh = sharding.make_mesh(
        sharding.MeshConfig(num_parts, 1, 1), jax.devices()[:num_parts])
    layout = sampling_lib.Layout.of(batch_size, num_samples, mesh)
    assert layout.num_rows <= sharding.up_to_parts(batch_size, mesh)
    assert layout.num_prompts % num_parts == 0
    texts_NxB = layout.texts(3)
    assert set(texts_NxB.flat) == set(range(3 * num_samples))
    asked = texts_NxB.reshape(-1, layout.num_prompts, (
        layout.num_rows // layout.num_prompts)) // num_samples
    np.testing.assert_array_equal(asked, asked[..., :1] + 0 * asked)
    # Where a device holds all of a prompt's texts, it is in one group.
    if layout.num_rows // num_parts >= num_samples:
      assert layout.num_rows == layout.num_prompts * num_samples
