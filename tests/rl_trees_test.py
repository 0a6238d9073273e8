# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning of trajectories with branches."""

import functools

import jax
import numpy as np
import pytest

from configs import erl2 as erl2_config
from meta_cot.rollouts import trees as trees_lib
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from tests import small_rl

_TREES = dict(
    objectives=('single',), num_branches=2, episode_length=8, num_samples=2,
    step_end=',', temperature=0.8, num_kept_rollouts=4)


@functools.cache
def _run(**changes) -> small_rl.Run:
  """After an iteration on one device."""
  run = small_rl.Run('single', **_TREES | changes)
  run.after, run.rows = run.iterate()
  return run


@pytest.mark.parametrize('where', ['steps', 'entropy'])
def test_a_row_is_a_tree_and_is_what_was_drawn(where):
  run = _run(branch_at=where)
  (row,), batch = run.rows, jax.device_get(run.batches[0])
  questions = run.settings.questions
  assert len(batch.is_trained) == questions.num_questions * 2
  assert questions.per_question == 6
  trees = jax.device_get(run.calls[0][4])
  assert isinstance(trees, trees_lib.Trees) and trees.tokens.shape[1] == 3
  assert batch.rows.is_sampled.sum() == trees.lengths.sum() == row['tokens']
  chains = trees.kept + trees.lengths
  assert row['tokens'] < chains.sum()
  prompts = np.repeat(run.calls[0][3], 2)
  assert row['forwarded_tokens'] == row['tokens'] + (prompts - 1).sum()
  assert row['tokens_per_trajectory'] == pytest.approx(chains.mean())
  # What the trainer says of a token is what the sampler drew it with.
  assert row['gap_max'] < 1e-3
  assert 0 < row['success'] < 1 and np.any(batch.advantages)
  assert any(
      np.any(a != b) for a, b in zip(
          jax.tree.leaves(run.after.params), jax.tree.leaves(run.setup.start)))


def test_weights_are_those_of_all_leaves():
  batch = jax.device_get(_run().batches[0])
  trees = jax.device_get(_run().calls[0][4])
  chains = trees.kept + trees.lengths
  np.testing.assert_allclose(batch.weights.sum(), 1.0, rtol=1e-5)
  shares = batch.weights[batch.rows.is_sampled] * chains.sum()
  assert {1.0, 2.0} <= set(np.round(shares, 3)) <= {1.0, 2.0, 3.0}


def test_eight_devices_do_what_one_does():
  changes = dict(num_questions=8, num_slots=16, num_samples=2)
  one, many = _run(**changes), small_rl.Run(
      'single', axes=(8, 1, 1), **_TREES | changes)
  after, rows = many.iterate()
  for x, y in zip(*map(jax.tree.leaves, jax.device_get(
      (one.calls[0][4], many.calls[0][4])))):
    np.testing.assert_allclose(x, y, atol=1e-4)
  assert rows[0]['success'] == one.rows[0]['success']
  for x, y in zip(*map(jax.tree.leaves, (one.after.params, after.params))):
    np.testing.assert_allclose(x, y, atol=3e-4)


def test_minibatches_and_pieces_of_rows():
  run = _run(num_minibatches=2, num_accumulation=2, num_loss_chunks=3)
  assert run.rows[0]['gap_max'] < 1e-3
  assert run.batches[0].weights.shape[1] % 3 == 0


def test_programs_are_listed():
  config = erl2_config.get_config('tiny')
  small_rl.change(config.rl, **_TREES)
  config.stages = ('rl',)
  names = experiment_lib.programs(
      experiment_lib.parse(config), small_rl.setup(
          small_rl.experiment(), (1, 1, 1)).programs.mesh)
  assert list(names) == [f'rl/single/{part}' for part in (
      'rollout', 'leave', 'branch', 'prepare', 'update', 'evaluate')]
  for name in ('leave', 'branch', 'prepare', 'update'):
    program = names[f'rl/single/{name}']()
    jax.eval_shape(program.jitted, *program.arguments)


@pytest.mark.parametrize('changes, words', [
    (dict(objectives=('erl2',)), "objectives: got .'erl2',.* with questions"),
    (dict(advantage='grpo'), "credit.advantage: got 'grpo' with questions.num"),
    (dict(ratio_level='sequence'), "must be 'token'"),
    (dict(exploration='beam'), "episodes.exploration: got 'beam'"),
    (dict(kl_in='reward', kl_estimator='k1'), "loss.kl_in: got 'reward'"),
    (dict(branch_at='here'), "branch_at: got 'here'; must be one of 'steps'"),
    (dict(num_minibatches=3), 'must divide the')])
def test_what_does_not_go_together(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    small_rl.settings(**_TREES | changes)
  assert '\n' not in str(error.value)
