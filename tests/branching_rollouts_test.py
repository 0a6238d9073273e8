# SPDX-License-Identifier: Apache-2.0
"""Branches of trajectories: where they leave, and that the policy draws them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.rl import scoring
from meta_cot.rollouts import branching
from meta_cot.rollouts import continuations
from meta_cot.rollouts import rows as rows_lib
from meta_cot.rollouts import trees as trees_lib
from tests import small_rl

F, T = 3, 8


@functools.cache
def _run() -> small_rl.Run:
  """After an iteration."""
  run = small_rl.Run(
      'single', num_episodes=1, episode_length=T, temperature=0.8)
  run.iterate()
  return run


def _entropy(params, rows):
  run = _run()
  return scoring.score(
      run.model, params, rows.tokens, rows.targets,
      sampling=run.settings.episodes.sampling()).entropy


def _steps():
  trunks = _run().calls[0][4]
  tokens = np.asarray(trunks.tokens)[np.asarray(trunks.is_sampled)]
  common = np.bincount(tokens)
  common[list(_run().learner.player.rules.stop_ids)] = 0
  return continuations.Steps(tuple(np.argsort(-common)[:3].tolist()), 99)


@functools.cache
def _grown(how, num_slots=64, seed=4):
  """(trees, kept places that are allowed, asked) of the first questions."""
  run = _run()
  params, _, prompts, lengths, trunks, *_ = run.calls[0]
  leave = branching.jit_leave(
      F, steps=_steps() if how == 'steps' else None,
      entropy=_entropy if how == 'entropy' else None)
  branches = branching.Branches(leave, continuations.jit_continue(
      run.model, rules=run.learner.player.rules, num_rollouts=1,
      num_slots=num_slots))
  asked = run.learner.player.ask(small_rl.PROBLEMS[:1], [0]).replace(
      prompts=prompts, lengths=lengths)
  with run.mesh:
    return jax.device_get(branches(params, asked, trunks, jax.random.key(seed)))


@pytest.mark.parametrize('how', branching.PLACES)
def test_branches_leave_where_they_may(how):
  run = _run()
  _, _, prompts, lengths, trunks, *_ = run.calls[0]
  trunks, trees, steps = jax.device_get(trunks), _grown(how), _steps()
  np.testing.assert_array_equal(trees.tokens[:, 0], trunks.tokens)
  np.testing.assert_array_equal(trees.lengths[:, 0], trunks.lengths)
  rows = rows_lib.assemble(prompts, lengths, trunks, pad_id=0)
  with run.mesh:
    entropy = np.asarray(_entropy(run.calls[0][0], rows))
  first_R = np.repeat(lengths, len(trunks.tokens) // len(lengths)) - 1
  num_new = 0
  for r, length in enumerate(trunks.lengths):
    if how == 'steps':
      allowed = {
          k + 1 for k in range(length - 1)
          if trunks.tokens[r, k] in steps.end_ids}
    else:
      allowed = set(range(1, length))
    kept = [k for k in trees.kept[r, 1:].tolist() if k]
    assert len(kept) == len(set(kept)) == min(F, len(allowed))
    assert set(kept) <= allowed
    num_new += len(kept)
    if how == 'entropy':
      of = lambda k, r=r: entropy[r, first_R[r] + k]
      others = [of(k) for k in allowed - set(kept)]
      assert not others or min(map(of, kept)) >= max(others)
  assert num_new > 5


@pytest.mark.parametrize('how', [
    pytest.param('steps', marks=pytest.mark.slow), 'entropy'])
def test_the_policy_draws_the_branches(how):
  run, trees = _run(), _grown(how)
  params, _, prompts, lengths, trunks, *_ = run.calls[0]
  rules = run.learner.player.rules
  leaves = trees_lib.as_rollouts(trees, rules, trunks)
  rows = rows_lib.assemble(prompts, lengths, leaves, pad_id=0)
  with run.mesh:
    found = scoring.score(
        run.model, params, rows.tokens, rows.targets,
        sampling=run.settings.episodes.sampling()).sampled
  mask = np.asarray(rows.is_sampled)
  np.testing.assert_allclose(
      np.asarray(found)[mask], np.asarray(rows.behaviour)[mask], atol=2e-4)
  leaves = jax.device_get(leaves)
  stops = np.isin(leaves.tokens, rules.stop_ids)
  for n, length in enumerate(leaves.lengths):
    assert 1 <= length <= T
    assert not stops[n, :length - 1].any()
    assert leaves.is_finished[n, 0] == stops[n, length - 1]
    assert leaves.is_finished[n, 0] or leaves.has_given_up[n, 0] or length == T
  # The leaves of a tree are different texts, as a rule.
  texts = {tuple(t[:n]) for t, n in zip(leaves.tokens, leaves.lengths)}
  assert len(texts) > len(leaves.tokens) / 2


@pytest.mark.parametrize('how', [
    'steps', pytest.param('entropy', marks=pytest.mark.slow)])
def test_trees_do_not_depend_on_slots(how):
  for x, y in zip(jax.tree.leaves(_grown(how)),
                  jax.tree.leaves(_grown(how, num_slots=3))):
    np.testing.assert_allclose(x, y, atol=1e-5)
  other = _grown(how, seed=5)
  assert np.any(other.tokens[:, 1:] != _grown(how).tokens[:, 1:])


def test_a_row_of_a_tree_has_fewer_tokens_than_its_leaves():
  trees = _grown('entropy')
  _, _, _, lengths, trunks, *_ = _run().calls[0]
  first_R = jnp.repeat(lengths, len(trees.tokens) // len(lengths)) - 1
  in_trees = int(trees_lib.num_places(first_R + 1, trees).sum())
  each = trees.kept + trees.lengths
  assert in_trees < 0.8 * (each + np.asarray(first_R)[:, None]).sum()
