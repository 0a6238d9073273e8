# SPDX-License-Identifier: Apache-2.0
"""Searches by every source of values, compiled for TPUs that are not here."""

import dataclasses

from etils import epath
import pytest

from meta_cot.stages import experiment as experiment_lib
from meta_cot.training import policy as policy_lib
from tests import compile_search_test
from tests import small_rl


def _check(strategy, topology, **settings):
  return compile_search_test._check_chunk(strategy, topology, **settings)


def test_a_model_of_another_size_judges(tmp_path):
  """Prompts and pages of both stay where they are."""
  plain = compile_search_test._config('beam')
  model = experiment_lib.parse(plain).shared.model
  judge = dataclasses.replace(
      model, num_layers=2, embed_dim=32, head_dim=32, mlp_dim=48)
  policy_lib.write(
      epath.Path(tmp_path), judge, small_rl.tokenizer(), plain.style, {})
  settings = dict(
      value='model', valuing=dict(model=str(tmp_path)), data=4, model=2)
  found = _check('best_first', 'v5e:2x4', **settings)
  assert found.tokens == 16 * 3 * 6 * 2
  experiment = compile_search_test._experiment('best_first', **settings)
  names = compile_search_test._names(experiment)
  assert names == [f'search/{name}' for name in (
      'params', 'judge_params', 'start', 'best_first', *(
          f'best_first{part}' for part in compile_search_test.PARTS))]
  refill = compile_search_test._compile(
      experiment, 'v5e:2x4', 'search/best_first/refill')
  assert not refill.cost.collectives


@pytest.mark.slow
def test_another_policy_says_verdicts(tmp_path):
  plain = compile_search_test._config('beam')
  parsed = experiment_lib.parse(plain).shared
  policy_lib.write(
      epath.Path(tmp_path), parsed.model, small_rl.tokenizer(), plain.style,
      dict(verdict=dict(ask='>', right='!', wrong='x', chain=None)))
  found = _check('beam', 'v6e:2x2', value='verdicts', valuing=dict(
      model=str(tmp_path), num_rollouts=2, rollout_length=4))
  assert found.tokens == 16 * 2 * 3 * 2 * (6 + 2 * 4)


@pytest.mark.slow
def test_completions():
  found = _check('beam', 'v6e:2x2', value='rollouts', valuing=dict(
      num_rollouts=2, rollout_length=4))
  # Of 16 problems 2 leaves, 3 children, 2 steps: a step, two completions.
  assert found.tokens == 16 * 2 * 3 * 2 * (6 + 2 * 4)


def test_an_oracle_is_asked_on_the_host():
  experiment = compile_search_test._experiment(
      'depth_first', value='oracle', outcome='value')
  compile_search_test._compile(
      experiment, 'v5p:2x2x1', 'search/depth_first')


@pytest.mark.slow
def test_a_mixture_of_all():
  sources = 'likelihood', 'head', 'model', 'rollouts', 'oracle'
  experiment = compile_search_test._experiment(
      'mcts', value='mixture', data=2, model=2, valuing=dict(
          model='sft/solution_only', sources=sources,
          weights=(1.0,) * len(sources)))
  compile_search_test._compile(experiment, 'v5e:2x2', 'search/mcts')
