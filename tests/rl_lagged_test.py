# SPDX-License-Identifier: Apache-2.0
"""Iterations one step behind (`rl.lag = 1`): what is learned, and kills."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_cot.rl import lagged
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from tests import rl_resume_test
from tests import run_comparison
from tests import small_rl

_CHANGES = dict(lag=1, num_iterations=4, rest=1, num_epochs=2)
_train = rl_resume_test._train
_programs = rl_resume_test._programs


def _iterate(run, number, state=None, memory=None, first=0):
  """Iterations as the stage makes them; (state, memory, rows)."""
  state, memory = state or run.state(), memory or run.memory()
  iterations, rows = lagged.Iterations(run.learner), []
  with run.mesh:
    for iteration in range(first, first + number):
      state, row = iterations.iterate(state, memory, iteration)
      rows.append(row)
  return state, memory, rows


def _same(row):
  return {k: v for k, v in row.items() if not k.startswith('time/')}


def test_it_learns_what_the_policy_before_has_drawn():
  """Against collecting and learning one after the other, by hand."""
  state, _, rows = _iterate(small_rl.Run(**_CHANGES), 3)
  run = small_rl.Run(**_CHANGES)
  memory, by_hand, expected = run.memory(), run.state(), []
  count = run.settings.questions.num_questions
  with run.mesh:
    now = lagged._plain(by_hand)
    before, numbers = now.params, memory.questions.take(count)
    for iteration in range(3):
      drawn = run.learner.draw(before, numbers, iteration)
      experience = run.learner.give_credit(
          drawn, run.learner.verdicts(drawn), memory.kl_coefficient)
      before = jax.tree.map(jnp.copy, now.params)
      numbers = memory.questions.take(count)
      now, row = run.learner.learn(now, experience)
      run.learner.remember(memory, experience, row)
      expected.append(row)
  assert [row['staleness'] for row in rows] == [0, 2, 2]
  for row, other in zip(rows, expected, strict=True):
    assert _same(row) == _same(other) | dict(staleness=row['staleness'])
  for name in ('params', 'before'):
    other = now.params if name == 'params' else before
    for x, y in zip(jax.tree.leaves(getattr(state, name)),
                    jax.tree.leaves(other), strict=True):
      np.testing.assert_array_equal(x, y)
  assert rows[0]['gap_max'] < rows[1]['gap_max']


def test_without_a_lag_nothing_is_stale():
  _, rows = small_rl.Run().iterate(2)
  assert [row['staleness'] for row in rows] == [0, 0]


def test_later_iterations_compile_nothing():
  run = small_rl.Run(skip_flat_groups=False, **_CHANGES)
  _iterate(run, 4)
  assert run.updates_compiled() == 1
  assert run.learner.player.play._cache_size() == 1


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  directory = tmp_path_factory.mktemp('unbroken') / 'run'
  _train(directory, **_CHANGES)
  return directory


def test_dead_between_updates_it_goes_on_to_the_same_bits(unbroken, tmp_path):
  with pytest.MonkeyPatch.context() as patch:
    opened = rl_resume_test._open_checkpoints(patch)
    rl_resume_test._wrapped_update(6, patch)
    with pytest.raises(rl_resume_test._Death):
      _train(tmp_path / 'run', **_CHANGES)
  for manager in opened:
    manager.close()
  assert rl_resume_test._steps(tmp_path / 'run' / 'checkpoints') == [4]
  _train(tmp_path / 'run', **_CHANGES)
  assert run_comparison.differences(unbroken, tmp_path / 'run') == []
  assert run_comparison.litter(tmp_path / 'run') == []


def test_stopped_it_plays_again_what_was_under_way(unbroken, tmp_path):
  asked = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(interruption.Stop, 'is_agreed', lambda stop: (
        asked.append(stop) or len(asked) == 1))
    with pytest.raises(interruption.Interrupted):
      _train(tmp_path / 'run', **_CHANGES)
  assert rl_resume_test._steps(tmp_path / 'run' / 'interrupted') == [2]
  _train(tmp_path / 'run', **_CHANGES)
  assert run_comparison.differences(unbroken, tmp_path / 'run') == []


def test_another_lag_does_not_continue_a_run(unbroken):
  with pytest.raises(config_lib.UserError, match=r'config\.lag: 1 in'):
    _train(unbroken, **_CHANGES | dict(lag=0, num_iterations=6))


def test_a_checkpoint_has_the_policy_that_draws():
  made = small_rl.setup(small_rl.experiment(**_CHANGES), (1, 1, 1)).programs
  params, before = (
      {'/'.join(map(str, k)) for k, _ in jax.tree.leaves_with_path(x)}
      for x in (made.saved.params, made.saved.before))
  assert params == before
  assert made.saved.step == made.state.step
