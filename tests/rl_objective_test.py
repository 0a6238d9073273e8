# SPDX-License-Identifier: Apache-2.0
"""A new objective is an object and a line in a dict: nothing else knows it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import erl2 as erl2_config
from meta_cot import masked
from meta_cot.model import transformer
from meta_cot.rl import credit as credit_lib
from meta_cot.rl import family
from meta_cot.rl import setup as setup_lib
from meta_cot.stages import experiment as experiment_lib
from tests import small_rl


@dataclasses.dataclass(frozen=True)
class _Imitation:
  """Likelihood of the trajectories whose first attempt was right."""

  needs = frozenset()  # no reference, no values
  is_by_advantage = True

  def num_episodes(self, configured):
    return min(configured, 2)

  def weights(self, num_episodes, progress):
    del progress
    return (jnp.arange(num_episodes) == 0).astype(jnp.float32)

  def credit(self, evidence):
    assert evidence.reference is evidence.values is evidence.log_probs is None
    rows, first_N = evidence.rows, evidence.verdicts.rewards[:, 0]
    return credit_lib.Credit(
        advantages=jnp.where(
            rows.is_sampled, first_N[rows.trajectory][:, None], 0.0),
        targets=None, is_flat=first_N == 0)

  def loss(self, scores, batch, kl_coefficient):
    del kl_coefficient
    sums = dict(imitated=masked.masked_sum(batch.advantages, batch.is_trained))
    return -batch.advantages * scores.plain, sums


@pytest.fixture
def imitation(monkeypatch):
  monkeypatch.setitem(
      family.OBJECTIVES, 'imitation', lambda credit, loss: _Imitation())


def test_it_learns(imitation):
  del imitation
  run = small_rl.Run('imitation', objectives=('imitation',))
  after, rows = run.iterate(2)
  calls, batches = jax.device_get((run.calls, run.batches))
  for row, batch, call in zip(rows, batches, calls, strict=True):
    first_N, trained = call[5].rewards[:, 0], batch.is_trained
    assert first_N.shape == (16,) and 0 < first_N.mean() < 1
    assert {'episode_2/success', 'loss', 'entropy', 'gap_max'} <= row.keys()
    assert 'kl_k1' not in row and 'episode_3/success' not in row
    imitated = trained & (first_N > 0)[batch.rows.trajectory][:, None]
    np.testing.assert_allclose(
        row['imitated'], imitated.sum() / trained.sum(), rtol=1e-6)
    assert row['grad_norm'] > 1e-4
  # What is imitated becomes likelier.
  score = jax.jit(lambda params: setup_lib.programs_lib.update_lib.loss(
      run.model, run.settings, _Imitation(), params,
      run.batches[0].replace(
          weights=run.batches[0].is_trained.astype(jnp.float32)),
      jnp.arange(len(run.batches[0].weights)), jnp.float32(0),
      num_rows=16)[0])
  assert score(after.params) < score(run.setup.start) - 0.1


def test_it_is_played_and_compiled_too(imitation):
  del imitation
  run = small_rl.Run('imitation', objectives=('imitation',))
  with run.mesh:
    row = run.evaluate(run.setup.start)
  assert {'validation/episode_1', 'validation/episode_2'} <= row.keys()
  config = erl2_config.get_config('tiny')
  config.rl.objectives, config.stages = ('imitation',), ('rl',)
  names = experiment_lib.programs(experiment_lib.parse(config), run.devices)
  assert list(names) == [
      f'rl/imitation/{part}'
      for part in ('rollout', 'prepare', 'keep', 'update', 'evaluate')]


@pytest.mark.parametrize('name, needs', [
    ('rloo', {'reference'}), ('gae', {'reference', 'values'}),
    ('vineppo', {'reference', 'continuations'}),
    ('mrt', {'reference', 'continuations'})])
def test_needs_are_those_of_the_advantage(name, needs):
  settings = small_rl.settings(advantage=name)
  for objective in {*family.OBJECTIVES} - {'star', 'qstar'}:
    more = {'reference'} if objective == 'apa' else set()
    assert settings.objective(objective).needs == needs | more
  assert settings.objective('star').needs == set()
  free = small_rl.settings(advantage=name, kl_in='none')
  assert free.objective('erl2').needs == needs - {'reference'}
  penalised = small_rl.settings(kl_in='reward', kl_estimator='k1')
  assert penalised.objective('erl2').needs == {'reference', 'log_probs'}


def test_expert_iteration_imitates_what_is_right_and_nothing_else():
  """The gradient of the mean log-likelihood over right trajectories."""
  run = small_rl.Run('star', objectives=('star',), skip_flat_groups=False)
  run.iterate()
  batch, call = jax.device_get((run.batches[0], run.calls[0]))
  is_right_N = (call[5].rewards[:, -1] > 0) & call[5].is_judged
  assert 0 < is_right_N.sum() < len(is_right_N)
  mask = batch.is_trained & is_right_N[batch.rows.trajectory][:, None]
  assert (batch.advantages == mask).all()
  update_lib = setup_lib.programs_lib.update_lib

  @jax.jit
  def by_objective(params):
    return update_lib.loss(
        run.model, run.settings, run.learner.objective, params, batch,
        jnp.arange(len(mask)), jnp.float32(0), num_rows=len(mask))[0]

  @jax.jit
  def by_hand(params):
    logits = transformer.forward(
        run.model, params, jnp.asarray(batch.rows.tokens)).logits
    log_probs = jnp.take_along_axis(
        jax.nn.log_softmax(logits), batch.rows.targets[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(mask, log_probs, 0)) / batch.is_trained.sum()

  for one, other in zip(*(
      jax.tree.leaves(jax.grad(f)(run.setup.start))
      for f in (by_objective, by_hand)), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)
